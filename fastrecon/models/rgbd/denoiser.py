"""Networks that predict the noise in latents, from diffusers."""

from __future__ import annotations

from torch import Tensor, nn

from fastrecon.config.rgbd import DiffusionConfig

from .libraries import import_diffusers


class Denoiser(nn.Module):
    """Noisy latents, their step and a condition to the noise.

    ``predict(latents (B, C, s, s), steps (B,), condition)``: the condition is class numbers
    ``(B,)``, of which the number of classes is the null one, or text features ``(B, L, W)``.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.by_text = config.denoiser.conditioning == "text"
        self.network = _dit(config) if config.denoiser.kind == "dit" else _unet(config)

    def forward(self, latents: Tensor, steps: Tensor, condition: Tensor) -> Tensor:
        name = "encoder_hidden_states" if self.by_text else "class_labels"
        return self.network(latents, steps, **{name: condition}).sample


def _unet(config: DiffusionConfig) -> nn.Module:
    sizes, latent = config.denoiser, config.autoencoder
    stages = len(sizes.widths)
    by_text = sizes.conditioning == "text"
    kind = "CrossAttn" if by_text else "Attn"
    shape = {
        "sample_size": latent.latent_size,
        "in_channels": latent.latent_channels,
        "out_channels": latent.latent_channels,
        "down_block_types": (f"{kind}DownBlock2D",) * stages,
        "up_block_types": (f"{kind}UpBlock2D",) * stages,
        "block_out_channels": sizes.widths,
        "layers_per_block": sizes.layers,
        "norm_num_groups": sizes.groups,
    }
    diffusers = import_diffusers()
    if by_text:
        # diffusers calls it a dimension, but it is the number of heads
        heads = tuple(width // sizes.head_dim for width in sizes.widths)
        return diffusers.UNet2DConditionModel(
            **shape, attention_head_dim=heads, cross_attention_dim=config.text.width
        )
    return diffusers.UNet2DModel(
        **shape,
        attention_head_dim=sizes.head_dim,
        num_class_embeds=len(config.classes) + 1,
    )


def _dit(config: DiffusionConfig) -> nn.Module:
    sizes, latent = config.denoiser, config.autoencoder
    network = import_diffusers().DiTTransformer2DModel(
        num_attention_heads=sizes.heads,
        attention_head_dim=sizes.head_dim,
        in_channels=latent.latent_channels,
        out_channels=latent.latent_channels,
        num_layers=sizes.depth,
        sample_size=latent.latent_size,
        patch_size=sizes.patch,
        num_embeds_ada_norm=len(config.classes),  # it adds the null class itself
    )
    for module in network.modules():
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0  # labels are dropped by the objective, once for all layers
    _zero_start(network)
    return network


def _zero_start(network: nn.Module) -> None:
    """DiT's start: every block is the identity (adaLN-Zero) and the prediction is 0."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and (
            name.endswith("norm1.linear") or name in ("proj_out_1", "proj_out_2")
        ):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
