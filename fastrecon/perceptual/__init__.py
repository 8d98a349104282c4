"""Frozen networks that judge pictures: LPIPS (VGG-16), CLIP's image encoder, and SSIM without one.

Pictures are (N, 3, H, W) in [0, 1] and results are one per picture, in fp32, differentiable in the
pictures and never in the weights. The libraries and the weights are looked for when a network is
built, not before; weights that cannot be had are a `WeightsError`, never a network made up.
"""

from .clip import ClipEncoder, load_clip
from .distances import build_perceptual
from .lpips_vgg import Lpips, load_lpips
from .ssim import l1_ssim
from .weights import WeightsError

__all__ = [
    "ClipEncoder",
    "Lpips",
    "WeightsError",
    "build_perceptual",
    "l1_ssim",
    "load_clip",
    "load_lpips",
]
