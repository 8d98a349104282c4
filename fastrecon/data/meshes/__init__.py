"""Meshes from files, and pictures of them."""

from ...errors import MeshError
from .mesh import Mesh, load_mesh
from .render import SOFT, UNLIT, Lighting, MeshRenderer, RenderError

__all__ = [
    "SOFT",
    "UNLIT",
    "Lighting",
    "Mesh",
    "MeshError",
    "MeshRenderer",
    "RenderError",
    "load_mesh",
]
