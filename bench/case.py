"""What is measured: a case is an operator on one workload, with everybody who can compute it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Pass = Literal["forward", "forward+backward"]
PASSES: tuple[Pass, ...] = ("forward", "forward+backward")
PEER, EAGER = "published", "reference"
"""The renderers that ratios are taken against; parity is checked against the first that runs."""


@dataclass(frozen=True)
class Size:
    """How much of a workload: views, and rays of each from the middle of its picture."""

    views: int
    rays: int
    image_side: int = 128

    def __str__(self) -> str:
        return f"{self.views} x {self.rays} rays"


FULL = Size(8, 128 * 128)
QUICK = Size(1, 64)
TINY = Size(1, 2)
"""Enough to load what a renderer needs before its memory is measured."""


@dataclass(frozen=True)
class Tolerance:
    """How far results may lie from the peer's: root mean square and largest, and gradients.

    Gradients are compared leaf by leaf by the norm of the difference over that of the peer's.
    """

    rms: float
    largest: float
    gradient: float


EXACT = Tolerance(rms=2e-5, largest=1e-3, gradient=1e-3)
"""fp32 in another order; of a million rays one may lie where a sample changes its interval."""
TF32 = Tolerance(rms=3e-3, largest=0.1, gradient=0.05)
BF16 = Tolerance(rms=2e-2, largest=0.5, gradient=0.1)
"""bf16 products through nine layers (bench/NOTES.md has what autocast itself is off by)."""


class Problem(Protocol):
    """A case's inputs on a device."""

    @property
    def leaves(self) -> list[Tensor]:
        """What gradients are taken of."""
        ...

    @property
    def n_samples(self) -> int:
        """Points, or samples along rays, of one forward pass."""
        ...


@dataclass(frozen=True)
class Renderer:
    """Someone who can compute a case: inputs to a tuple of tensors, the same for all of a case."""

    run: Callable[[Any], tuple[Tensor, ...]]
    tolerance: Tolerance = EXACT
    devices: tuple[str, ...] = ("cpu", "cuda")
    compiled: bool = False  # by torch.compile, which needs a C++ compiler on a CPU


@dataclass(frozen=True)
class Case:
    """One operator on one workload."""

    name: str
    make: Callable[[Size, torch.device, bool], Problem]
    renderers: Mapping[str, Renderer]
    cpu: Mapping[Pass, Size] = field(default_factory=dict)
    full: Size = FULL
    passes: tuple[Pass, ...] = PASSES
    memory: bool = False  # whether a CPU's memory is measured too, in processes of their own
    extra: bool = False  # no operator's own row: run by default on a GPU only
    sweep: tuple[str, float] | None = None  # what is varied, and its value: run when named only

    def size(self, which: Pass, device: torch.device, quick: bool) -> Size:
        """The size to measure at."""
        if quick:
            return QUICK if device.type == "cpu" else Size(2, 1024)
        return self.full if device.type == "cuda" else self.cpu[which]
