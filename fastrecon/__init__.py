"""One picture becomes a 3D object: reconstruction models over fused triplane rendering."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Config, LRMConfig
    from .config.g3dr import G3DRConfig, TriGenConfig
    from .errors import ImageError, MeshError
    from .export.mesh import extract_mesh
    from .images import load_image, prepare_input
    from .models.lrm import LRM
    from .models.trigen import TriGen
    from .trainer import Trainer

__version__ = "0.1.0"

_HOMES = {
    "LRM": "models.lrm",
    "LRMConfig": "config",
    "Config": "config",
    "TriGen": "models.trigen",
    "TriGenConfig": "config.g3dr",
    "G3DRConfig": "config.g3dr",
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
    "G3DRConfig",
    "ImageError",
    "LRMConfig",
    "MeshError",
    "Trainer",
    "TriGen",
    "TriGenConfig",
    "extract_mesh",
    "load_image",
    "prepare_input",
]


def __getattr__(name: str) -> Any:
    # Lazily, so that `fastrecon --help` does not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'fastrecon' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastrecon.{_HOMES[name]}"), name)
