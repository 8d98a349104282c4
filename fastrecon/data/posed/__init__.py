"""Posed pictures of objects and single pictures, in the layouts that data sets come in."""

from ..camera_files import CollectionError
from .collection import Collection, PosedViews
from .opening import open_collection
from .photos import PhotoSet, open_photos
from .real import OBJECT_ALPHA

__all__ = [
    "OBJECT_ALPHA",
    "Collection",
    "CollectionError",
    "PhotoSet",
    "PosedViews",
    "open_collection",
    "open_photos",
]
