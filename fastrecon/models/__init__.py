"""The networks. `LRM` is the model of TripoSR, Real3D and OpenLRM, `TriGen` that of G3DR."""

from .decoder import TriplaneDecoder
from .dinov2 import Dinov2
from .lrm import LRM
from .modulated import ModulatedTransformer
from .trigen import TriGen
from .triplane import TriplaneTransformer
from .vit import VisionTransformer

__all__ = [
    "LRM",
    "Dinov2",
    "ModulatedTransformer",
    "TriGen",
    "TriplaneDecoder",
    "TriplaneTransformer",
    "VisionTransformer",
]
