"""Frozen dataclasses of f_rgb: the autoencoder of RGB-D pictures and the diffusion on its latents.

The specification gives the setup (LDM3D's); sizes and weights are the latent-diffusion field's
usual ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .common import NetworksConfig, OptimConfig, RunConfig
from .g3dr import G3DRConfig, RGBDDataConfig, TriGenConfig


@dataclass(frozen=True)
class AutoencoderConfig:
    """The KL autoencoder of RGB-D pictures, and the PatchGAN critic that trains it."""

    size: int = 256
    """Side of the pictures, pixels."""
    widths: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of the stages; the side halves from one to the next, so four stages are f8."""
    layers: int = 2
    """Residual blocks of a stage."""
    groups: int = 32
    """Of the group norms; divides every width."""
    latent_channels: int = 4
    critic_width: int = 64
    """Channels of the critic's first convolution; 0: no critic, as in a frozen autoencoder."""
    critic_layers: int = 3
    """Convolutions of the critic that halve the side."""

    @property
    def factor(self) -> int:
        """Pixels along a side that become one latent."""
        return 2 ** (len(self.widths) - 1)

    @property
    def latent_size(self) -> int:
        """Side of the latents."""
        return self.size // self.factor

    @classmethod
    def tiny(cls) -> AutoencoderConfig:
        """Every part at a size that a CPU trains: 32 x 32 pictures, f8."""
        return cls(
            size=32, widths=(16, 16, 32, 32), layers=1, groups=8, critic_width=8, critic_layers=2
        )


@dataclass(frozen=True)
class DenoiserConfig:
    """The network that predicts noise in latents."""

    kind: str = "unet"
    """"unet" (LDM-8's: 395 M parameters with text, 259 M with classes) or "dit" (classes only)."""
    conditioning: str = "class"
    """"class" (a learned embedding for each) or "text" (attention to CLIP's text features)."""
    head_dim: int = 32
    """Channels of an attention head."""
    widths: tuple[int, ...] = (256, 512, 1024)
    """Channels of the U-Net's stages, all of which attend."""
    layers: int = 2
    """Residual blocks of a U-Net's stage."""
    groups: int = 32
    """Of the U-Net's group norms."""
    depth: int = 28
    """Blocks of the DiT."""
    heads: int = 16
    """Attention heads of the DiT; its width is heads * head_dim."""
    patch: int = 2
    """Side of the DiT's patches, latents."""

    @classmethod
    def tiny(cls) -> DenoiserConfig:
        """About 300,000 parameters."""
        return cls(head_dim=8, widths=(32, 64), layers=1, groups=8, depth=2, heads=4, patch=1)

    @classmethod
    def dit_xl(cls) -> DenoiserConfig:
        """DiT-XL/2 (Peebles and Xie 2023)."""
        return cls(kind="dit", head_dim=72)


@dataclass(frozen=True)
class TextConfig:
    """CLIP's text transformer; the defaults are ViT-B/16's."""

    width: int = 512
    layers: int = 12
    heads: int = 8
    context: int = 77
    """Tokens of a caption, padded."""
    vocabulary: int = 49408


@dataclass(frozen=True)
class DiffusionConfig:
    """Class- or text-conditional diffusion on the latents of a frozen autoencoder."""

    autoencoder: AutoencoderConfig = AutoencoderConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    text: TextConfig = TextConfig()
    """Used with ``denoiser.conditioning`` "text" only."""
    classes: tuple[str, ...] = ("scene",)
    """Names by number; training takes them from its data."""
    noise_steps: int = 1000
    """Steps from a picture to noise (DDPM)."""
    betas: tuple[float, float] = (0.00085, 0.012)
    """First and last variance of a step; the square roots in between are linear."""
    guidance: float = 3.0
    """Scale of classifier-free guidance unless another is asked for; 1 is none."""
    sampling_steps: int = 50
    """DDIM steps unless others are asked for."""

    @classmethod
    def tiny(cls) -> DiffusionConfig:
        """On the latents of `AutoencoderConfig.tiny`."""
        return cls(
            autoencoder=AutoencoderConfig.tiny(),
            denoiser=DenoiserConfig.tiny(),
            text=TextConfig(width=16, layers=1, heads=2),
        )


@dataclass(frozen=True)
class AutoencoderLossConfig:
    """Weights of the autoencoder's terms."""

    rgb: float = 1.0
    """L1 in [-1, 1]."""
    perceptual: float = 1.0
    """``networks.perceptual`` on RGB."""
    depth: float = 1.0
    """L1 in [-1, 1]."""
    kl: float = 1e-6
    """KL of the posterior to a standard normal, summed over latents, where the other terms are sums
    over a picture's values too (all are then divided by the number of those)."""
    adversarial: float = 0.5
    """PatchGAN, hinge; relative to the gradient that the other terms give the last layer."""
    adversarial_from: int = 50_000
    """Steps before the critic starts."""


@dataclass(frozen=True)
class DiffusionLossConfig:
    """The diffusion's one term is the mean squared error of the predicted noise."""

    label_dropout: float = 0.1
    """Share of pictures whose condition is replaced by the null one."""


@dataclass(frozen=True)
class RGBDAutoencoderConfig:
    """Everything that a training run of the autoencoder is a function of."""

    model: AutoencoderConfig = AutoencoderConfig()
    data: RGBDDataConfig = field(default_factory=RGBDDataConfig)
    loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)
    networks: NetworksConfig = NetworksConfig(perceptual="lpips")
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def stream(self) -> G3DRConfig:
        """The pictures of a run, as `fastrecon.data.scene_stream` is asked for them."""
        return _stream(self.model.size, self.data, self.optim, self.run)


@dataclass(frozen=True)
class RGBDDiffusionConfig:
    """Everything that a training run of the diffusion is a function of."""

    model: DiffusionConfig = DiffusionConfig()
    autoencoder: str = ""
    """Weights of the autoencoder, as ``RGBDAutoencoder.from_pretrained`` reads them; frozen."""
    class_names: str = ""
    """A text file with a line "<folder> <name>" for each class (n02099601 golden retriever); if
    empty, a class is called as its folder is."""
    data: RGBDDataConfig = field(default_factory=RGBDDataConfig)
    loss: DiffusionLossConfig = field(default_factory=DiffusionLossConfig)
    networks: NetworksConfig = field(default_factory=NetworksConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def stream(self) -> G3DRConfig:
        """The pictures of a run, as `fastrecon.data.scene_stream` is asked for them."""
        return _stream(self.model.autoencoder.size, self.data, self.optim, self.run)


def _stream(size: int, data: RGBDDataConfig, optim: OptimConfig, run: RunConfig) -> G3DRConfig:
    return G3DRConfig(model=TriGenConfig(size=size), data=data, optim=optim, run=run)
