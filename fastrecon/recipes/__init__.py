"""Recipes: functions that return a configuration; a variant is a `replace` of another."""

from __future__ import annotations

from collections.abc import Callable

from ..tasks.configs import AnyConfig
from .g3dr import G3DR_RECIPES
from .reconstruction import (
    RECONSTRUCTION_RECIPES,
    base,
    openlrm_base,
    openlrm_large,
    openlrm_small,
    real3d,
    real3d_released,
    real3d_small,
    real3d_stage0,
    small,
    tiny,
    triposr,
)
from .rgbd import RGBD_RECIPES
from .super_resolution import SUPER_RESOLUTION_RECIPES

RECIPES: dict[str, Callable[[], AnyConfig]] = {
    **RECONSTRUCTION_RECIPES,
    **G3DR_RECIPES,
    **RGBD_RECIPES,
    **SUPER_RESOLUTION_RECIPES,
}
"""Everything that ``fastrecon train`` trains."""

__all__ = [
    "RECIPES",
    "RECONSTRUCTION_RECIPES",
    "base",
    "openlrm_base",
    "openlrm_large",
    "openlrm_small",
    "real3d",
    "real3d_released",
    "real3d_small",
    "real3d_stage0",
    "small",
    "tiny",
    "triposr",
]
