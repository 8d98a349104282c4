"""Volume rendering of samples into colour, opacity and depth, with G3DR's depth kernel."""

from typing import Any

from .depth_kernel import depth_kernel
from .op import composite
from .reference import activate_density, composite_reference, half_way_deltas

__all__ = [
    "activate_density",
    "composite",
    "composite_reference",
    "depth_kernel",
    "half_way_deltas",
]


def __getattr__(name: str) -> Any:
    # The launchers import Triton, without which this package must import too.
    if name in ("composite_backward", "composite_forward"):
        from . import launch

        return getattr(launch, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
