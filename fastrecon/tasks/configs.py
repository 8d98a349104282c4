"""The configurations that there are tasks for."""

from __future__ import annotations

from ..config import Config
from ..config_g3dr import G3DRConfig
from ..config_rgbd import RGBDAutoencoderConfig, RGBDDiffusionConfig
from ..config_super_resolution import SuperResolutionConfig

AnyConfig = (
    Config | G3DRConfig | SuperResolutionConfig | RGBDAutoencoderConfig | RGBDDiffusionConfig
)
