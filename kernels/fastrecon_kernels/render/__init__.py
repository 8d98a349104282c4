"""The renderer: sample a triplane along rays, decode, composite."""

from .occupancy import build_occupancy
from .op import query_points, render_rays
from .rays import sample_rays
from .reference import query_points_reference, render_rays_reference

__all__ = [
    "build_occupancy",
    "query_points",
    "query_points_reference",
    "render_rays",
    "render_rays_reference",
    "sample_rays",
]
