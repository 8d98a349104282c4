"""Fused triplane rendering in Triton, with a plain PyTorch reference for every operator.

Installs with torch, triton and numpy; imports without a GPU and without Triton.
"""

from .composite import composite, depth_kernel
from .multires_lookup import build_pyramid, sample_multires
from .render import build_occupancy, query_points, render_rays, sample_rays
from .settings import DepthKernel, RenderSettings
from .triplane_sample import sample_triplane
from .types import Decoder, RaySamples, Rendering

__all__ = [
    "Decoder",
    "DepthKernel",
    "RaySamples",
    "RenderSettings",
    "Rendering",
    "build_occupancy",
    "build_pyramid",
    "composite",
    "depth_kernel",
    "query_points",
    "render_rays",
    "sample_multires",
    "sample_rays",
    "sample_triplane",
]
