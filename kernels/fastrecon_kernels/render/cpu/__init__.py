"""The renderer's fast path on CPUs, in plain PyTorch, tested against ``render/reference.py``."""

from .query import query_points_cpu
from .rendering import render_rays_cpu

__all__ = ["query_points_cpu", "render_rays_cpu"]
