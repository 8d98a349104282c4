"""The networks. `LRM` is the reconstruction model of TripoSR and Real3D, in every size."""

from .decoder import TriplaneDecoder
from .lrm import LRM
from .triplane import TriplaneTransformer
from .vit import VisionTransformer

__all__ = ["LRM", "TriplaneDecoder", "TriplaneTransformer", "VisionTransformer"]
