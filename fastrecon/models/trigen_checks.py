"""What f_trigen refuses: sizes that do not go together, pictures without their depth."""

from __future__ import annotations

from torch import Tensor

from fastrecon.config.g3dr import TriGenConfig
from fastrecon.scene_cameras import check_depth_range

from .checks import check_pictures
from .unet import GROUPS

CROP = "crop the same square out of picture and depth"
SIZES = ("size", "learned", "heads", "head_dim", "channels", "hidden")


def check_trigen_config(config: TriGenConfig) -> None:
    """Refuse sizes that do not go together, naming the field."""
    for name in SIZES:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.width < GROUPS or config.width % GROUPS:
        raise ValueError(f"width must be a multiple of {GROUPS}, got {config.width}")
    if not config.multipliers or min(config.multipliers) < 1:
        raise ValueError(f"multipliers must be numbers of at least 1, got {config.multipliers}")
    if not config.levels or min(config.levels) < 0:
        raise ValueError(f"levels must name pyramid levels from 0 up, got {config.levels}")
    for name, halvings in (
        ("multipliers", len(config.multipliers) - 1),
        ("levels", max(config.levels)),
    ):
        if config.size % 2**halvings:
            raise ValueError(
                f"size = {config.size} is halved {halvings} times ({name} = "
                f"{getattr(config, name)}), so it must be a multiple of {2**halvings}"
            )
    check_depth_range(config.camera.depth_range)


def check_rgbd(images: Tensor, depth: Tensor) -> None:
    """Refuse what is not pictures and one depth for each; values are looked at on a CPU only."""
    check_pictures("images", images, with_alpha="composite them first", not_square=CROP)
    check_pictures("depth", depth, channels=1, bits=16, not_square=CROP)
    if len(images) != len(depth):
        raise ValueError(
            f"images and depth must come in pairs, got {len(images)} images and {len(depth)} depths"
        )
    if images.device != depth.device:
        raise ValueError(
            f"images and depth must be on one device, got {images.device} and {depth.device}"
        )
