"""Frozen dataclasses that describe a model, its data and its training; `recipes.py` fills them."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastrecon_kernels import RenderSettings

INPUT_GREY = 0.5
"""Background of every model's input picture (TripoSR, Real3D)."""


@dataclass(frozen=True)
class EncoderConfig:
    """The ViT that turns a picture into tokens (defaults: DINO ViT-B/16, as TripoSR has it)."""

    image_size: int = 512
    """Side of the picture that the model reads, in pixels."""
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    position_grid: int = 14
    """Side of the stored position table; resized when the token grid differs."""


@dataclass(frozen=True)
class BackboneConfig:
    """The transformer from image tokens to planes."""

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
    mesh_level: float = 25.0
    """Activated density at which a mesh is cut."""


@dataclass(frozen=True)
class DataConfig:
    """The procedural stream: every object a function of (seed, index)."""

    seed: int = 0
    views: int = 4
    """Supervised views per object; the first is the input view."""
    rays_per_view: int = 128
    max_parts: int = 4
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


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its schedule."""

    kind: str = "adamw"
    """"adamw", or "muon" (Muon for the networks' matrices): twice the progress of a step for small
    models trained from nothing, see bench/NOTES.md."""
    steps: int = 1000
    batch_size: int = 8
    lr: float = 4e-4
    betas: tuple[float, float] = (0.9, 0.96)
    eps: float = 1e-6
    weight_decay: float = 0.05
    """Not applied to biases, norms and tables."""
    warmup: int = 100
    final_lr: float = 0.0
    """Learning rate at the end of the cosine, as a fraction of ``lr``."""
    clip: float = 1.0
    ema: float = 0.999
    """Decay of the weight average used for validation and export; 0 turns it off."""
    precision: str = "bf16"
    """Autocast of the network: "bf16" or "fp32". Rendering stays in its own precision."""


@dataclass(frozen=True)
class RunConfig:
    """Where and how often to write."""

    out: str = "runs/default"
    seed: int = 0
    device: str = "auto"
    log_every: int = 20
    validate_every: int = 500
    checkpoint_every: int = 500
    keep: int = 2
    """Checkpoints kept; the newest is never deleted before the next one is complete."""
    validation_objects: int = 64
    validation_views: int = 8
    validation_size: int = 64
    """Side of the held-out pictures that are rendered and compared, in pixels."""
    init: str = ""
    """Start from these weights instead of random ones: a folder, file or hub id as
    ``LRM.from_pretrained`` reads it (fine-tuning)."""
    data_workers: int = 0
    """Processes that make batches ahead; 0 makes them in a thread."""
    resume: bool = True
    """Continue from the newest whole checkpoint in ``out`` if there is one."""


@dataclass(frozen=True)
class Config:
    """Everything a training run is a function of."""

    model: LRMConfig = LRMConfig()
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
