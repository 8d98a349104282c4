"""Argument checks that read like repair notes. They look at shapes and types, never at values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..settings import Axes, RenderSettings

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_float(name: str, tensor: object) -> Tensor:
    """``tensor`` must be a floating-point torch tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.dtype not in FLOATS:
        raise TypeError(
            f"{name} must be floating point, got {tensor.dtype}; convert it with {name}.float()"
        )
    return tensor


def check_settings(settings: object) -> None:
    """``settings`` must be RenderSettings."""
    if not isinstance(settings, RenderSettings):
        raise TypeError(
            f"settings must be RenderSettings, got {type(settings).__name__}; "
            "RenderSettings() has the defaults"
        )


def check_same_device(**tensors: Tensor | None) -> torch.device:
    """All given tensors must live on one device, which is returned."""
    present = {name: t for name, t in tensors.items() if t is not None}
    devices = {t.device for t in present.values()}
    if len(devices) > 1:
        found = ", ".join(f"{name} on {t.device}" for name, t in present.items())
        raise ValueError(f"all tensors must be on one device, got {found}; move them with .to()")
    return devices.pop()


def check_planes(name: str, planes: object) -> Tensor:
    """``planes`` must be (B, 3, C, H, W)."""
    planes = check_float(name, planes)
    if planes.ndim != 5 or planes.shape[1] != 3:
        hint = ""
        if planes.ndim == 4 and planes.shape[0] == 3:
            hint = f"; add a batch dimension with {name}[None]"
        raise ValueError(f"{name} must be (B, 3, C, H, W), got {tuple(planes.shape)}{hint}")
    if min(planes.shape[2:]) < 1:
        raise ValueError(f"{name} must have channels and texels, got {tuple(planes.shape)}")
    return planes


def check_levels(levels: object) -> tuple[Tensor, ...]:
    """A non-empty sequence of planes that agree in all but their resolution."""
    if isinstance(levels, Tensor) or not isinstance(levels, Sequence):
        raise TypeError(
            "levels must be a sequence of planes, finest first (see build_pyramid), got "
            f"{type(levels).__name__}"
        )
    if not levels:
        raise ValueError("levels must hold at least one (B, 3, C, H, W) tensor, got none")
    checked = tuple(check_planes(f"levels[{i}]", level) for i, level in enumerate(levels))
    first = checked[0]
    for i, level in enumerate(checked[1:], start=1):
        if level.shape[:3] != first.shape[:3] or level.dtype != first.dtype:
            raise ValueError(
                "all levels must agree in batch, channels and dtype: levels[0] is "
                f"{tuple(first.shape)} {first.dtype}, levels[{i}] is {tuple(level.shape)} "
                f"{level.dtype}"
            )
    check_same_device(**{f"levels[{i}]": level for i, level in enumerate(checked)})
    return checked


def check_points(name: str, points: object, batch: int) -> Tensor:
    """``points`` must be (B, ..., 3) with the planes' B."""
    points = check_float(name, points)
    if points.ndim < 2 or points.shape[-1] != 3:
        raise ValueError(f"{name} must be (B, ..., 3), got {tuple(points.shape)}")
    if points.shape[0] != batch:
        raise ValueError(
            f"{name} must have the planes' batch size {batch}, got {tuple(points.shape)}; "
            f"use {name}[None].expand({batch}, ...) to share them among objects"
        )
    return points


def feature_width(channels: int, reduction: str) -> int:
    """Width of a triplane feature: 3 C for "concat", C for "sum" and "mean"."""
    return 3 * channels if reduction == "concat" else channels


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The dtype the reference computes in: that of its inputs, at least fp32."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def axis_indices(axes: Axes) -> tuple[tuple[int, int], ...]:
    """World coordinate index of each plane's (width, height) axis."""
    return tuple(("xyz".index(a[0]), "xyz".index(a[1])) for a in axes)
