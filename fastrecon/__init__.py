"""One picture becomes a 3D object: reconstruction models over fused triplane rendering."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Config, LRMConfig
    from .errors import ImageError, MeshError
    from .export.mesh import extract_mesh
    from .images import load_image, prepare_input
    from .models.lrm import LRM
    from .trainer import Trainer

__version__ = "0.1.0"

_HOMES = {
    "LRM": "models.lrm",
    "LRMConfig": "config",
    "Config": "config",
    "ImageError": "errors",
    "MeshError": "errors",
    "Trainer": "trainer",
    "extract_mesh": "export.mesh",
    "load_image": "images",
    "prepare_input": "images",
}

__all__ = [
    "LRM",
    "Config",
    "ImageError",
    "LRMConfig",
    "MeshError",
    "Trainer",
    "extract_mesh",
    "load_image",
    "prepare_input",
]


def __getattr__(name: str) -> Any:
    # Lazily, so that `fastrecon --help` does not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'fastrecon' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastrecon.{_HOMES[name]}"), name)
