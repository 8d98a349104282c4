"""Procedural objects: random compositions of solids, with texture and light, from a seed."""

from ..pictures import Pictures
from .draws import uniforms
from .objects import ProceduralObjects
from .photos import Photographs, photographs
from .scene import Scene, Trace

__all__ = [
    "Photographs",
    "Pictures",
    "ProceduralObjects",
    "Scene",
    "Trace",
    "photographs",
    "uniforms",
]
