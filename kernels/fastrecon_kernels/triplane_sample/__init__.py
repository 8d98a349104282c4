"""Features of points in a triplane: bilinear, zero-padded, gradients to planes and points."""

from .op import sample_triplane
from .reference import sample_triplane_reference

__all__ = ["sample_triplane", "sample_triplane_reference"]
