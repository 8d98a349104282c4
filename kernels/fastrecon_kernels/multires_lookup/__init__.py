"""Features of points in a pyramid of triplanes: the sum of the levels' lookups (G3DR)."""

from .op import sample_multires
from .pyramid import build_pyramid
from .reference import sample_multires_reference

__all__ = ["build_pyramid", "sample_multires", "sample_multires_reference"]
