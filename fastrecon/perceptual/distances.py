"""The distance between pictures that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..config import NetworksConfig
from .lpips_vgg import load_lpips
from .ssim import l1_ssim


def build_perceptual(
    networks: NetworksConfig, device: torch.device | str
) -> Callable[[Tensor, Tensor], Tensor]:
    """``networks.perceptual`` as a function of pictures and target, (N, 3, H, W) in [0, 1].

    It gives (N,) distances, 0 for equal pictures, differentiable in the first argument.

    Raises:
        WeightsError, ImportError: the network's weights or its library cannot be had.
    """
    if networks.perceptual == "ssim":
        return l1_ssim
    if networks.perceptual == "lpips":
        return load_lpips(networks, device)
    raise ValueError(
        'a perceptual distance needs networks.perceptual to be "lpips" or "ssim", got '
        f"{networks.perceptual!r}; pass --networks.perceptual lpips"
    )
