"""Frozen dataclasses of super-resolution: the network, its pictures, its training."""

from __future__ import annotations

from dataclasses import dataclass, field

from .common import OptimConfig, RunConfig


@dataclass(frozen=True)
class RCANConfig:
    """A residual channel-attention network (Zhang et al. 2018) that doubles a picture's side."""

    groups: int = 10
    """Residual groups."""
    blocks: int = 20
    """Channel-attention blocks in each."""
    channels: int = 64
    reduction: int = 16
    """The attention's hidden layer has ``channels / reduction`` channels."""
    image_skip: bool = False
    """Add the network's output to the bicubic enlargement: it then starts from there. The paper's
    network makes the whole picture itself."""

    @classmethod
    def tiny(cls) -> RCANConfig:
        """Every part at a size that a CPU trains: 102,000 parameters."""
        return cls(groups=2, blocks=3, channels=24, reduction=4, image_skip=True)


@dataclass(frozen=True)
class SuperResolutionDataConfig:
    """Pictures to learn from."""

    path: str = ""
    """Folder of pictures, searched with its subfolders (class folders; depth is left out); if
    empty, procedural scenes."""
    size: int = 256
    """Side of the whole pictures, pixels; they are also seen at half of it."""
    patch: int = 48
    """Side of the crops that are trained on, in small pixels; 0 takes whole pictures."""
    seed: int = 0
    flip: float = 0.5
    """Probability of a mirrored picture."""
    scenes: int = 0
    """Procedural scenes to see again and again; 0: new ones in every step, most of whose time goes
    into making them."""
    max_parts: int = 5
    """Of the procedural scenes' objects."""


@dataclass(frozen=True)
class SuperResolutionConfig:
    """Everything that a training run of RCAN is a function of."""

    model: RCANConfig = RCANConfig()
    data: SuperResolutionDataConfig = field(default_factory=SuperResolutionDataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)


def check_super_resolution_config(cfg: SuperResolutionConfig) -> None:
    """Raise ``ValueError`` naming every field whose value cannot be trained with.

    Sizes inside the network are checked by the model itself.
    """
    from .checks import optim_faults, run_faults

    data = cfg.data
    faults = [*optim_faults(cfg.optim), *run_faults(cfg.run)]
    if data.size < 4 or data.size % 2:
        faults.append(f"data.size must be even and at least 4, got {data.size}")
    if not 0 <= data.patch <= data.size // 2:
        faults.append(f"data.patch must lie in [0, data.size / 2], got {data.patch}")
    if not 0 <= data.flip <= 1:
        faults.append(f"data.flip must lie in [0, 1], got {data.flip}")
    if data.scenes < 0:
        faults.append(f"data.scenes must not be negative, got {data.scenes}")
    if data.max_parts < 1:
        faults.append(f"data.max_parts must be at least 1, got {data.max_parts}")
    if faults:
        raise ValueError("this configuration cannot be trained:\n  " + "\n  ".join(faults))
