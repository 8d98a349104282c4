"""Frozen dataclasses that describe models, data and training; ``recipes`` fills them.

Those of G3DR, of the RGB-D diffusion and of super-resolution are in files of their own.
"""

from .common import NetworksConfig, OptimConfig, RunConfig
from .reconstruction import (
    INPUT_GREY,
    BackboneConfig,
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    LossConfig,
    LRMConfig,
    SelfTrainingConfig,
)

__all__ = [
    "INPUT_GREY",
    "BackboneConfig",
    "Config",
    "DataConfig",
    "DecoderConfig",
    "EncoderConfig",
    "LRMConfig",
    "LossConfig",
    "NetworksConfig",
    "OptimConfig",
    "RunConfig",
    "SelfTrainingConfig",
]
