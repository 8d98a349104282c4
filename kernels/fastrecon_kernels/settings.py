"""How a triplane is rendered: one frozen value that every operator reads.

Settings hold scalars, strings and tuples only, so they hash, compare and never make a compiled
kernel compile again. Every field's exact meaning is stated beside it; the presets reproduce the
renderers of four published systems.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal, NamedTuple

Axes = tuple[str, str, str]
NearFar = str | tuple[float, float]
Background = str | tuple[float, ...]

QUADRATURES = ("bins", "midpoint")
INTERVALS = ("distance", "chord")
OUTSIDE = ("zero", "empty")
REDUCTIONS = ("concat", "sum", "mean")
DENSITY_ACTIVATIONS = ("exp", "trunc_exp", "softplus", "relu", "none")
BOXES = ("box", "tsr_box")
BACKGROUNDS = {"white": 1.0, "black": 0.0}


class DepthKernel(NamedTuple):
    """``k(t, d) = clamp(s1 exp(-(t - d)^2 / s2), c_min, c_max)`` (G3DR, supplementary S.1)."""

    s1: float = 1.25
    s2: float = 0.03
    c_min: float = 0.05
    c_max: float = 1.0


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ``ValueError`` with the choices spelled out unless ``value`` is one of them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def check_axes(axes: Axes) -> None:
    """Three pairs of distinct letters of "xyz"; the first of each pair is the width axis."""
    good = (
        len(axes) == 3
        and not isinstance(axes, str)
        and all(len(a) == 2 and set(a) <= set("xyz") and a[0] != a[1] for a in axes)
    )
    if not good:
        raise ValueError(
            f'axes must be three pairs of distinct letters such as ("xy", "xz", "yz"), got {axes!r}'
        )


def _numbers(name: str, value: object, n: int | None = None) -> tuple[float, ...]:
    """``value`` as a tuple of ``n`` floats (any number of them if None)."""
    try:
        numbers = tuple(float(x) for x in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        numbers = None
    if numbers is None or (n is not None and len(numbers) != n):
        expected = "numbers" if n is None else f"{n} numbers"
        raise ValueError(f"{name} must be a tuple of {expected}, got {value!r}")
    return numbers


@dataclass(frozen=True)
class RenderSettings:
    """Everything about rendering that is not a tensor.

    Positions are ``o + t d``. ``near_far``, sample positions, interval lengths and depths are in
    units of ``t``; ``radius`` is in scene units (the same when directions have unit length).
    """

    radius: float = 1.0
    """The planes span ``[-radius, radius]^3``."""
    n_samples: int = 128
    """Samples per ray, or coarse samples where importance sampling is on."""
    n_importance: int = 0
    """Fine samples drawn from the coarse weights; needs ``quadrature="midpoint"``."""
    stratified: bool = False
    """Jitter the samples, coarse and fine."""
    quadrature: Literal["bins", "midpoint"] = "bins"
    """"bins": equal bins, sampled at their centres. "midpoint": samples at both ends of every
    interval, raw density, colour and ``t`` averaged over it (EG3D)."""
    interval: Literal["distance", "chord"] = "distance"
    """Unit of interval lengths: ``t``, or the fraction of the ray's own chord (TripoSR; bins)."""
    near_far: NearFar = "box"
    """"box", "tsr_box" (cube shrunk by 1e-3, chord at least 0.01) or the pair ``(near, far)``."""
    outside: Literal["zero", "empty"] = "zero"
    """Samples out of the box: per-plane zero padding, or no density and no colour."""
    axes: Axes = ("xy", "xz", "yz")
    """World axes of each plane; the first letter of each pair is the width axis."""
    reduction: Literal["concat", "sum", "mean"] = "concat"
    """How the three plane features become the decoder's input."""
    density_activation: Literal["exp", "trunc_exp", "softplus", "relu", "none"] = "trunc_exp"
    """``sigma = density_scale * act(raw + density_shift)``, never below 0; "trunc_exp" is ``exp``
    with its gradient clamped at ``exp(15)``."""
    density_shift: float = -1.0
    density_scale: float = 1.0
    rgb_padding: float = 0.0
    """``c = sigmoid(x) (1 + 2 p) - p``."""
    background: Background = "white"
    """"white", "black" or K numbers in the unit range."""
    rgb_range: tuple[float, float] = (0.0, 1.0)
    """Range that rendered colours are mapped to."""
    depth_eps: float = 1e-3
    """``depth = sum(w t) / (sum(w) + depth_eps)``."""
    depth_kernel: DepthKernel = DepthKernel()
    early_stop: float = 0.0
    """Drop samples whose transmittance is below this; 0 is exact."""

    def __post_init__(self) -> None:
        check_choice("quadrature", self.quadrature, QUADRATURES)
        check_choice("interval", self.interval, INTERVALS)
        check_choice("outside", self.outside, OUTSIDE)
        check_choice("reduction", self.reduction, REDUCTIONS)
        check_choice("density_activation", self.density_activation, DENSITY_ACTIVATIONS)
        check_axes(self.axes)
        self._normalise_sequences()
        for name in ("radius", "density_scale"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        for name in ("density_shift", "rgb_padding"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")
        for name in ("n_samples", "n_importance"):
            if not isinstance(getattr(self, name), Integral):
                raise TypeError(f"{name} must be an int, got {getattr(self, name)!r}")
        least = 2 if self.quadrature == "midpoint" else 1
        if self.n_samples < least:
            raise ValueError(
                f"n_samples must be at least {least} for quadrature={self.quadrature!r}, "
                f"got {self.n_samples}"
            )
        if self.n_importance < 0:
            raise ValueError(f"n_importance must not be negative, got {self.n_importance}")
        if self.n_importance and self.quadrature != "midpoint":
            raise ValueError(
                "n_importance > 0 needs quadrature='midpoint' (merged passes have no bins), "
                "got quadrature='bins'"
            )
        if self.n_importance and self.n_samples < 4:
            raise ValueError(
                f"importance sampling needs n_samples of at least 4, got {self.n_samples}"
            )
        if self.interval == "chord" and self.quadrature != "bins":
            raise ValueError("interval='chord' needs quadrature='bins', got 'midpoint'")
        if not 0 <= self.depth_eps < math.inf:
            raise ValueError(f"depth_eps must be at least 0 and finite, got {self.depth_eps}")
        if not 0 <= self.early_stop < 1:
            raise ValueError(f"early_stop must lie in [0, 1), got {self.early_stop}")

    def _normalise_sequences(self) -> None:
        """Turn lists into tuples, so that settings read from JSON hash and compare too."""
        if isinstance(self.near_far, str):
            check_choice("near_far", self.near_far, BOXES)
        else:
            near, far = _numbers("near_far", self.near_far, 2)
            if not 0 <= near < far < math.inf:
                raise ValueError(f"near_far must satisfy 0 <= near < far, got {(near, far)}")
            object.__setattr__(self, "near_far", (near, far))
        if isinstance(self.background, str):
            check_choice("background", self.background, tuple(BACKGROUNDS))
        else:
            colour = _numbers("background", self.background)
            if not all(0 <= x <= 1 for x in colour):
                raise ValueError(f"background must lie in the unit range, got {colour}")
            object.__setattr__(self, "background", colour)
        object.__setattr__(self, "axes", tuple(self.axes))
        object.__setattr__(self, "rgb_range", _numbers("rgb_range", self.rgb_range, 2))
        kernel = DepthKernel(*_numbers("depth_kernel", self.depth_kernel, 4))
        object.__setattr__(self, "depth_kernel", kernel)

    def background_colour(self, n_colours: int) -> tuple[float, ...]:
        """The background as ``n_colours`` numbers in the unit range."""
        if isinstance(self.background, str):
            return (BACKGROUNDS[self.background],) * n_colours
        if len(self.background) != n_colours:
            raise ValueError(
                f"background has {len(self.background)} numbers but the decoder gives {n_colours} "
                "colours; pass one number per colour"
            )
        return self.background

    @classmethod
    def triposr(cls, **overrides: Any) -> RenderSettings:
        """TripoSR and Real3D: 128 chord-scaled bins in a cube of half side 0.87."""
        preset = cls(radius=0.87, interval="chord", near_far="tsr_box", density_activation="exp")
        return replace(preset, **overrides)

    @classmethod
    def g3dr(cls, **overrides: Any) -> RenderSettings:
        """G3DR: 32 + 32 samples, softplus, black. Released weights: ``axes=("xy","xz","zx")``."""
        preset = cls(
            n_samples=32,
            n_importance=32,
            stratified=True,
            quadrature="midpoint",
            reduction="mean",
            density_activation="softplus",
            rgb_padding=0.001,
            background="black",
            rgb_range=(-1.0, 1.0),
            axes=("xy", "xz", "zy"),
        )
        return replace(preset, **overrides)

    @classmethod
    def openlrm(cls, **overrides: Any) -> RenderSettings:
        """OpenLRM: 48 + 48 samples (its large model: 64 + 64), nothing outside the cube."""
        preset = cls(
            n_samples=48,
            n_importance=48,
            stratified=True,
            quadrature="midpoint",
            density_activation="softplus",
            rgb_padding=0.001,
            axes=("xy", "xz", "zy"),
            outside="empty",
        )
        return replace(preset, **overrides)

    @classmethod
    def eg3d(cls, **overrides: Any) -> RenderSettings:
        """EG3D as trained on FFHQ: a cube of half side 0.5 between 2.25 and 3.3."""
        preset = cls(
            radius=0.5,
            n_samples=48,
            n_importance=48,
            stratified=True,
            quadrature="midpoint",
            near_far=(2.25, 3.3),
            reduction="mean",
            density_activation="softplus",
            rgb_padding=0.001,
            background="black",
            rgb_range=(-1.0, 1.0),
            depth_eps=0.0,
            axes=("xy", "xz", "zx"),
        )
        return replace(preset, **overrides)
