"""Volume rendering of samples into colour, opacity and depth, with G3DR's depth kernel."""

from .depth_kernel import depth_kernel
from .op import composite
from .reference import composite_reference, half_way_deltas

__all__ = ["composite", "composite_reference", "depth_kernel", "half_way_deltas"]
