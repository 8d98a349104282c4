"""Frozen dataclasses of single-view reconstruction: the model, its data, its losses."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastrecon_kernels import RenderSettings

from .common import NetworksConfig, OptimConfig, RunConfig

INPUT_GREY = 0.5
"""Background of every model's input picture (TripoSR, Real3D)."""


@dataclass(frozen=True)
class EncoderConfig:
    """The ViT that turns a picture into tokens (defaults: DINO ViT-B/16, as TripoSR has it)."""

    kind: str = "dino"
    """"dino" (pictures normalised by ImageNet's mean and std) or "dinov2" (LayerScale; pictures as
    they are, as OpenLRM has it)."""
    image_size: int = 512
    """Side of the picture that the model reads, in pixels."""
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    position_grid: int = 14
    """Side of the stored position table; resized when the token grid differs."""
    registers: int = 0
    """Learned tokens that attend and are dropped at the end (4 in OpenLRM's DINOv2)."""


@dataclass(frozen=True)
class BackboneConfig:
    """The transformer from image tokens to planes."""

    conditioning: str = "none"
    """"none": TripoSR's blocks, which know one camera. "camera": OpenLRM's, whose norms follow the
    input camera."""
    camera_dim: int = 1024
    """Width of the camera's embedding, with ``conditioning`` "camera"."""
    grid: int = 32
    """Tokens along one side of a plane."""
    dim: int = 1024
    depth: int = 16
    heads: int = 16
    head_dim: int = 64
    channels: int = 40
    """Channels of each plane."""
    upsample: int = 2
    """Kernel and stride of the final transposed convolution: planes have grid * upsample texels."""


@dataclass(frozen=True)
class DecoderConfig:
    """The MLP from a plane feature to density and colour."""

    hidden: int = 64
    layers: int = 9
    """Hidden layers; one output layer follows."""
    activation: str = "silu"


@dataclass(frozen=True)
class LRMConfig:
    """A large reconstruction model: one class, every size."""

    encoder: EncoderConfig = EncoderConfig()
    backbone: BackboneConfig = BackboneConfig()
    decoder: DecoderConfig = DecoderConfig()
    render: RenderSettings = RenderSettings.triposr()
    position_init: str = "random"
    """"random" (TripoSR) or "sincos": image and plane tokens start with matching 2-D codes."""
    camera_distance: float = 1.9
    """Distance of the input camera from the origin, in scene units."""
    fov_deg: float = 40.0
    """Field of view of the input camera, degrees."""
    foreground_ratio: float = 0.85
    """Share of the picture's side that the object's bounding square fills at the input."""
    input_background: float = INPUT_GREY
    """Grey level behind the object in the input picture (OpenLRM: 1, white)."""
    mesh_level: float = 25.0
    """Activated density at which a mesh is cut."""


@dataclass(frozen=True)
class DataConfig:
    """What is learnt from: objects with known views, and single pictures."""

    multiview: str = ""
    """Posed pictures of objects, a folder or shards; if empty, the procedural stream, every object
    of which is a function of (seed, index)."""
    camera_distance: float = 0.0
    """Distance to which posed sets' input cameras are brought; 0 takes the model's."""
    photos: str = ""
    """Single pictures with alpha for self-training, a folder or shards; a set of posed pictures
    gives one view of each object."""
    photo_share: float = 1.0
    """Share of the photographs that is used, a seeded choice (Real3D, Fig. 5)."""
    seed: int = 0
    views: int = 4
    """Supervised views per object; the first is the input view."""
    picture_size: int = 0
    """Side of the whole pictures that are supervised, pixels; 0: random rays instead."""
    rays_per_view: int = 128
    max_parts: int = 4
    backgrounds: tuple[float, ...] = (1.0,)
    """Grey levels behind the objects that are rendered, one of them drawn for each step (OpenLRM:
    0, 0.5 and 1). The input picture keeps its own."""
    supersample: int = 2
    """Rays per pixel side at edges in the input picture (anti-aliasing)."""
    jitter: bool = True
    """Jitter the samples along training rays, so that densities hold between them too."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the supervised terms; 0 turns a term off."""

    rgb: float = 1.0
    mask: float = 1.0
    depth: float = 0.0
    """L1 on depth where the truth has a surface."""
    perceptual: float = 0.0
    """``networks.perceptual`` on whole pictures; needs ``data.picture_size``."""
    tv: float = 0.0
    """Total variation of the planes (OpenLRM: 5e-4)."""


@dataclass(frozen=True)
class SelfTrainingConfig:
    """Learning from single pictures (Real3D, section 4.1); angles in degrees.

    The defaults are the paper's; ``recipes.real3d_released`` has what the public code does.
    """

    photos: int = 0
    """Pictures per step; 0 turns self-training off."""
    size: int = 128
    """Side of the rendered pictures, pixels."""
    rays: int = 0
    """Random pixels of a picture that L_in and L_pix compare; 0: all."""
    crop_ratio: tuple[float, float] = (1.45, 1.7)
    """Side of the input picture over the object's, drawn uniformly."""
    camera_distance: float = 3.0
    fov_deg: float = 39.6
    """The camera that pictures are taken to be made with: 0.691150367 rad."""
    input_rgb: float = 0.3
    input_mask: float = 0.0
    """L_in: the input view again."""
    cycle_rgb: float = 5.0
    cycle_mask: float = 0.0
    cycle_perceptual: float = 0.0
    """L_pix: from a rendered novel view back to the picture."""
    stop_gradient: bool = True
    """The rendered novel view is an input, not a path for gradients."""
    cycle_limits: tuple[float, float] = (15.0, 90.0)
    """Largest azimuth and elevation of the cycle's pose at the first and the last step; equal
    values are no curriculum."""
    cycle_poses: str = "uniform"
    """"uniform" in [-limit, limit], or "floor": of absolute value in [15, limit] (released)."""
    cycle_size: int = 0
    """Side of the novel view as it is read again: 0 takes ``size``, another value renders it once
    more without gradients and with a hard mask (released: 512)."""
    semantic: float = 1.0
    """L_sem: CLIP similarity of novel views to the picture."""
    semantic_views: int = 4
    semantic_limits: tuple[float, float] = (120.0, 45.0)
    """Largest azimuth and elevation of the semantic views."""
    semantic_poses: str = "independent"
    """"independent", or "coupled": as the released code, one of the views the cycle's."""
    semantic_hardest: bool = True
    """The loss of the least similar view alone; False: of all views (the naive arm)."""


@dataclass(frozen=True)
class Config:
    """Everything a training run is a function of."""

    model: LRMConfig = LRMConfig()
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    networks: NetworksConfig = field(default_factory=NetworksConfig)
    self_training: SelfTrainingConfig = field(default_factory=SelfTrainingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
