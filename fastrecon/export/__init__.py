"""Meshes and pictures from planes."""

from .mesh import extract_mesh, mesh_bytes
from .pictures import contact_sheet, depth_picture, gif_bytes, normal_picture, png_bytes
from .views import Viewer

__all__ = [
    "Viewer",
    "contact_sheet",
    "depth_picture",
    "extract_mesh",
    "gif_bytes",
    "mesh_bytes",
    "normal_picture",
    "png_bytes",
]
