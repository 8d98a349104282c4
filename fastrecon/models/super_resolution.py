"""Super-resolution of renderings, frame by frame: bicubic, or a trained RCAN (G3DR, section S.6).

The published system has a super-resolution network between its renderings and its videos, but only
its interface is known. RCAN (Zhang et al., "Image Super-Resolution Using Very Deep Residual Channel
Attention Networks", ECCV 2018) is this package's choice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrecon.config.super_resolution import RCANConfig

from .checks import check_pictures

FORMAT = "fastrecon-rcan"
SCALE = 2
BATCH = 8
"""Pictures that the network is given at a time."""
MEAN = (0.4488, 0.4371, 0.4040)
"""Of DIV2K's training pictures: what RCAN takes off its input and puts on its output."""

Upscaler = Callable[[Tensor], Tensor]
"""Pictures ``(N, 3, H, H)`` in [0, 1] -> ``(N, 3, 2H, 2H)``."""


class ChannelAttention(nn.Module):
    """Scale every channel by a function of all channels' means (RCAN, Eq. 8-10)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // reduction, 1),
            nn.ReLU(),
            nn.Conv2d(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class AttentionBlock(nn.Module):
    """Convolution, ReLU, convolution, channel attention, and the input again (Eq. 11-13)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            ChannelAttention(channels, reduction),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ResidualGroup(nn.Module):
    """Blocks, a convolution, and the input again (Eq. 6)."""

    def __init__(self, config: RCANConfig) -> None:
        super().__init__()
        channels = config.channels
        blocks = [AttentionBlock(channels, config.reduction) for _ in range(config.blocks)]
        self.body = nn.Sequential(*blocks, nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class RCAN(nn.Module):
    """Pictures ``(N, 3, H, W)`` in [0, 1] to ``(N, 3, 2H, 2W)``.

    ``RCANConfig()`` is the paper's network, 15,444,643 parameters.
    """

    mean: Tensor

    def __init__(self, config: RCANConfig | None = None) -> None:
        super().__init__()
        self.config = config = RCANConfig() if config is None else config
        _check_config(config)
        channels = config.channels
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        groups = [ResidualGroup(config) for _ in range(config.groups)]
        self.body = nn.Sequential(*groups, nn.Conv2d(channels, channels, 3, padding=1))
        last = nn.Conv2d(channels, 3, 3, padding=1)
        if config.image_skip:  # it begins as the bicubic enlargement
            nn.init.zeros_(last.weight)
            assert last.bias is not None
            nn.init.zeros_(last.bias)
        self.tail = nn.Sequential(
            nn.Conv2d(channels, channels * SCALE**2, 3, padding=1), nn.PixelShuffle(SCALE), last
        )
        mean = torch.tensor(MEAN, device="cpu")[:, None, None]
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Enlarged pictures, not clamped, so that gradients pass; see `upscale`."""
        head = self.head(pictures - self.mean)
        made = self.tail(head + self.body(head))
        return made + (bicubic(pictures) if self.config.image_skip else self.mean)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        device: torch.device | str = "cpu",
        revision: str | None = None,
    ) -> RCAN:
        """A model in eval mode, with fp32 parameters, from a folder of `save_pretrained`.

        ``source`` may also be the ``config.json`` in it, or a hub id ``owner/name``.

        Raises:
            CheckpointError: a missing, damaged or foreign file, or weights that do not fit the
                configuration by name and shape.
            ImportError: a hub id without huggingface_hub installed.
        """
        from fastrecon.interop.checkpoints import (
            CONFIG_JSON,
            WEIGHTS,
            locate,
            read_config_dict,
            read_json,
            read_weights,
        )

        folder, _ = locate(source, revision=revision)
        path = folder / CONFIG_JSON
        config = read_config_dict(read_json(path), RCANConfig(), FORMAT, where=str(path))
        return cls.from_tensors(config, read_weights(folder / WEIGHTS)[0]).to(device)

    @classmethod
    def from_tensors(cls, config: RCANConfig, tensors: Mapping[str, Tensor]) -> RCAN:
        """A model in eval mode that owns fp32 copies of ``tensors``, matched by name and shape.

        Raises:
            CheckpointError: names or shapes differ from those of ``config``.
        """
        from fastrecon.interop.pretrained import adopt, build_skeleton

        layers = config.groups * config.blocks
        model = build_skeleton(lambda: cls(config), layers, len(tensors))
        adopt(model, tensors)
        return model.eval()

    def save_pretrained(
        self, folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32
    ) -> None:
        """Write ``config.json`` and ``model.safetensors`` (atomic each) for ``from_pretrained``.

        Raises:
            ValueError: neither float32 nor float16, or weights that are not finite in it.
            CheckpointError: the folder cannot be written.
        """
        from fastrecon.interop.checkpoints import config_to_dict
        from fastrecon.interop.pretrained import write_pretrained

        write_pretrained(folder, config_to_dict(self.config, FORMAT), self.state_dict(), dtype)


def _check_config(config: RCANConfig) -> None:
    for name in ("groups", "blocks", "channels", "reduction"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.channels % config.reduction:
        raise ValueError(
            f"channels = {config.channels} must be a multiple of reduction = {config.reduction}"
        )


def bicubic(pictures: Tensor) -> Tensor:
    """Pictures ``(N, C, H, W)`` at twice the side, not clamped.

    Keys's cubic with a = -1/2, as Pillow and the field's tables have it; without ``antialias``
    PyTorch takes a = -3/4, which bends even straight ramps.
    """
    return F.interpolate(
        pictures, scale_factor=SCALE, mode="bicubic", align_corners=False, antialias=True
    )


def load_upscaler(name: str, device: torch.device | str = "cpu") -> Upscaler | None:
    """What "none", "bicubic", or the folder of an `RCAN` stands for; None: nothing is enlarged.

    Raises:
        CheckpointError: no such weights.
    """
    if name == "none":
        return None
    return partial(
        upscale, model=None if name == "bicubic" else RCAN.from_pretrained(name, device=device)
    )


@overload
def upscale(pictures: Tensor, depth: None = None, model: RCAN | None = None) -> Tensor: ...
@overload
def upscale(
    pictures: Tensor, depth: Tensor, model: RCAN | None = None
) -> tuple[Tensor, Tensor]: ...
@torch.no_grad()
def upscale(
    pictures: Tensor, depth: Tensor | None = None, model: RCAN | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Pictures, and the depth that belongs to them, at twice the side.

    Args:
        pictures: ``(N, 3, H, H)`` in [0, 1].
        depth: ``(N, 1, H, H)`` in any unit, or None.
        model: None: bicubic.

    Returns:
        Pictures ``(N, 3, 2H, 2H)`` in [0, 1]; with depth, also depth ``(N, 1, 2H, 2H)``. It is
        interpolated linearly whatever the model: nothing beyond the surfaces on both sides of an
        edge is invented.

    Raises:
        ValueError, TypeError: wrong shape or dtype.
    """
    check_pictures("pictures", pictures)
    if model is None:
        larger = bicubic(pictures)
    else:
        device = next(model.parameters()).device
        parts = [model(part.to(device)) for part in pictures.split(BATCH)]
        larger = torch.cat(parts).to(pictures)
    larger = larger.clamp(0.0, 1.0)
    if depth is None:
        return larger
    if depth.shape != (len(pictures), 1, *pictures.shape[2:]) or not depth.is_floating_point():
        raise ValueError(
            f"depth must be floats ({len(pictures)}, 1, {pictures.shape[2]}, {pictures.shape[3]}), "
            f"one map for each picture, got {tuple(depth.shape)} of {depth.dtype}"
        )
    return larger, F.interpolate(depth, scale_factor=SCALE, mode="bilinear", align_corners=False)
