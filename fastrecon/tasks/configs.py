"""The configurations that there are tasks for."""

from __future__ import annotations

from ..config import Config
from ..config.g3dr import G3DRConfig
from ..config.rgbd import RGBDAutoencoderConfig, RGBDDiffusionConfig
from ..config.super_resolution import SuperResolutionConfig

AnyConfig = (
    Config | G3DRConfig | SuperResolutionConfig | RGBDAutoencoderConfig | RGBDDiffusionConfig
)
