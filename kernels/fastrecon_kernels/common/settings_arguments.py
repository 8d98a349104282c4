"""Render settings as the arguments of an operator, whose schema knows no dataclass.

One string, one list of ints and one of floats; the operator turns them back into settings, once
per distinct value. While torch.compile traces, strings are constants, and ints and floats may be
symbols, which is why they are not written into the string.
"""

from __future__ import annotations

import functools
from typing import Any

from ..settings import DepthKernel, RenderSettings

SCHEMA = "str words, int[] counts, float[] numbers"
"""The three arguments in an operator's schema."""

SettingsArguments = tuple[str, list[int], list[float]]


def pack_settings(settings: RenderSettings, n_colours: int) -> SettingsArguments:
    """``settings`` for a call with ``n_colours`` colours."""
    bounds = settings.near_far
    words = (
        settings.quadrature,
        settings.interval,
        settings.outside,
        settings.reduction,
        settings.density_activation,
        "stratified" if settings.stratified else "",
        bounds if isinstance(bounds, str) else "",
        *settings.axes,
    )
    numbers = [
        settings.radius,
        settings.density_shift,
        settings.density_scale,
        settings.rgb_padding,
        settings.depth_eps,
        settings.early_stop,
        *settings.rgb_range,
        *settings.depth_kernel,
        *((0.0, 0.0) if isinstance(bounds, str) else bounds),
        *settings.background_colour(n_colours),
    ]
    return ",".join(words), [settings.n_samples, settings.n_importance], numbers


def unpack_settings(words: str, counts: list[int], numbers: list[float]) -> RenderSettings:
    """The settings of `pack_settings`, their background as numbers."""
    return _unpack(words, tuple(counts), tuple(numbers))


@functools.lru_cache(maxsize=256)
def _unpack(words: str, counts: tuple[int, ...], numbers: tuple[float, ...]) -> RenderSettings:
    quadrature, interval, outside, reduction, activation, stratified, box, *axes = words.split(",")
    radius, shift, scale, padding, depth_eps, early_stop, low, high, *rest = numbers
    fields: dict[str, Any] = {
        "quadrature": quadrature,
        "interval": interval,
        "outside": outside,
        "reduction": reduction,
        "density_activation": activation,
        "stratified": bool(stratified),
        "near_far": box or tuple(rest[4:6]),
        "axes": tuple(axes),
        "n_samples": counts[0],
        "n_importance": counts[1],
        "radius": radius,
        "density_shift": shift,
        "density_scale": scale,
        "rgb_padding": padding,
        "depth_eps": depth_eps,
        "early_stop": early_stop,
        "rgb_range": (low, high),
        "depth_kernel": DepthKernel(*rest[:4]),
        "background": tuple(rest[6:]),
    }
    return RenderSettings(**fields)
