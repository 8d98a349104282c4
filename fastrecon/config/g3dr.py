"""Frozen dataclasses of G3DR: RGB-D to triplane, its losses, and the RGB-D diffusion in front."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastrecon_kernels import RenderSettings

from .common import NetworksConfig, OptimConfig, RunConfig

PLANE_AXES = {"eg3d": ("xy", "xz", "zx"), "orthogonal": ("xy", "xz", "zy")}
"""World axes of the three planes. "eg3d" is EG3D's projection, in which two planes are one plane
transposed: the released weights need it. "orthogonal" has all three and is the default."""


@dataclass(frozen=True)
class SceneCameraConfig:
    """The cameras of a scene seen from the front (G3DR)."""

    radius: float = 5.0
    """Distance of every camera from the origin, scene units."""
    fov_deg: float = 18.0
    depth_range: tuple[float, float] = (4.0, 6.0)
    """Distances along the ray that a depth picture's 0 and 1 stand for."""
    yaw_den: tuple[float, float] = (24.0, 6.0)
    """Novel yaw is uniform in +-pi/den; den goes from the first to the second value."""
    yaw_share: float = 1 / 3
    """Share of the run over which it does."""
    pitch_deg: float = 10.0
    """Novel pitch is uniform within this."""
    video: tuple[float, float] = (0.35, 0.15)
    """Yaw and pitch of the videos, radians."""


@dataclass(frozen=True)
class TriGenConfig:
    """f_trigen: the U-Net from RGB-D to three planes, and the decoder."""

    size: int = 128
    """Side of the RGB-D input, and of the planes."""
    width: int = 128
    """Channels of the first convolution."""
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    """Channels of the stages, in widths; the side halves from one to the next."""
    learned: int = 256
    """Channels of the learned map beside the input."""
    heads: int = 4
    head_dim: int = 32
    channels: int = 64
    """Of each plane."""
    hidden: int = 64
    """Width of the decoder's one hidden layer."""
    levels: tuple[int, ...] = (0, 1, 2)
    """Pyramid level that stands at each place of the sum; (2, 2, 2) and (1, 1, 2) are those of the
    supplementary's Fig. S2."""
    render: RenderSettings = RenderSettings.g3dr()
    camera: SceneCameraConfig = SceneCameraConfig()
    mesh_level: float = 10.0
    """Density at which ``extract_mesh`` cuts."""

    @classmethod
    def released(cls) -> TriGenConfig:
        """The network of the released weights: 147,406,212 parameters, EG3D's plane axes."""
        return cls(render=RenderSettings.g3dr(axes=PLANE_AXES["eg3d"]))

    @classmethod
    def tiny(cls) -> TriGenConfig:
        """Every part at a size that a CPU trains: about 200,000 parameters, 32 x 32 pictures."""
        return cls(
            size=32,
            width=16,
            multipliers=(1, 2),
            learned=8,
            heads=2,
            head_dim=8,
            channels=8,
            hidden=16,
            render=RenderSettings.g3dr(n_samples=16, n_importance=16),
        )


@dataclass(frozen=True)
class RGBDDataConfig:
    """Pictures with depth, in class folders or shards."""

    path: str = ""
    """Folder ``<class>/<stem>.jpg|png`` + ``<stem>_depth.png``, or shards; if empty, procedural
    scenes rendered on the fly."""
    seed: int = 0
    flip: float = 0.5
    """Probability of a mirrored picture."""
    max_parts: int = 5
    """Of the procedural scenes' objects."""
    scenes: int = 0
    """Different procedural scenes, kept and shown again; if 0, never the same one twice."""


@dataclass(frozen=True)
class G3DRLossConfig:
    """Weights (supplementary, S.1) and schedules; ``recipes`` has what the public code does."""

    rgb: float = 1.0
    """L1, canonical view."""
    depth: float = 2.0
    """L1 on depth in ray units, canonical view."""
    depth_kernel: bool = True
    """Scale gradients near the known depth (canonical view)."""
    depth_kl: float = 0.0
    """DS-NeRF's KL on the samples' weights instead (an arm of Table S1)."""
    perceptual: float = 0.5
    """LPIPS over all layers, canonical view (or "ssim", see ``networks``)."""
    perceptual_from: float = 0.0
    """Share of the run before the perceptual term starts (public code: 0.5)."""
    clip: float = 0.35
    """L1 of CLIP embeddings, novel view against the input."""
    clip_start: float = 0.02
    clip_ramp: int = 100_000
    """Steps over which the weight grows from ``clip_start`` to ``clip``."""
    clip_canonical: float = 0.0
    """The same on the canonical view in the second half (public code: 0.175)."""
    tv: float = 0.1
    """Squared total variation of the rendered depth, novel view."""
    deep: float = 0.5
    """LPIPS of the deep layers (4, 5), input against novel view."""
    opacity: float = 1.0
    """mean(1 - opacity), both views, at the end of its ramp."""
    opacity_ramp: float = 0.5
    """Share of the run over which it grows from 0."""
    novel: float = 0.4
    """tau: largest probability of a step with a novel view (supplementary, Eq. 1)."""
    around_depth: float = 0.4
    """Probability of a canonical step whose fine samples lie around the known depth."""


@dataclass(frozen=True)
class G3DRConfig:
    """Everything that a training run of f_trigen is a function of."""

    model: TriGenConfig = TriGenConfig()
    data: RGBDDataConfig = field(default_factory=RGBDDataConfig)
    loss: G3DRLossConfig = field(default_factory=G3DRLossConfig)
    networks: NetworksConfig = NetworksConfig(perceptual="lpips")
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
