"""f_rgb: pictures with depth from a class or a caption, by diffusion on an autoencoder's latents.

Needs diffusers, which is imported when a model is made.
"""

from .autoencoder import RGBDAutoencoder
from .diffusion import RGBDDiffusion, RGBDSamples

__all__ = ["RGBDAutoencoder", "RGBDDiffusion", "RGBDSamples"]
