"""Captions to features: CLIP's text transformer (Radford et al. 2021), frozen.

As in latent diffusion on text, what conditions is the sequence of the last layer's features, not
the one pooled vector that CLIP compares with pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastrecon.config import NetworksConfig
from fastrecon.config.rgbd import TextConfig
from fastrecon.perceptual.clip import ADVICE, read_clip
from fastrecon.perceptual.libraries import import_open_clip
from fastrecon.perceptual.weights import take

CAPTION = "a photo of a {}"
"""Of a class, by its name."""
TEXT_ADVICE = ADVICE.split(";")[0] + '; --model.denoiser.conditioning "class" needs no weights'


def caption(name: str) -> str:
    """The caption of a class."""
    return CAPTION.format(name.replace("_", " "))


class TextTower(nn.Module):
    """Tokens ``(B, context)`` to features ``(B, context, width)``; frozen, in evaluation mode."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        import_open_clip()
        from open_clip.transformer import (  # type: ignore[import-not-found]
            QuickGELU,
            TextTransformer,
        )

        self.network = TextTransformer(
            context_length=config.context,
            vocab_size=config.vocabulary,
            width=config.width,
            heads=config.heads,
            layers=config.layers,
            output_dim=None,
            act_layer=QuickGELU,  # OpenAI's weights were trained with it
            output_tokens=True,
        )
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> TextTower:
        """It does not learn: evaluation mode, whatever is asked."""
        return super().train(False)

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """Token numbers ``(B, context)``; captions that are too long are cut."""
        from open_clip.tokenizer import SimpleTokenizer  # type: ignore[import-not-found]

        return SimpleTokenizer(context_length=self.config.context)(list(captions))

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> Tensor:
        return self.network(tokens)[1].float()

    def load(self, networks: NetworksConfig) -> None:
        """Take the weights in ``networks.clip_weights``, else OpenAI's through open_clip.

        Raises:
            WeightsError: missing, damaged, another network's, or not to be fetched.
        """
        path, tensors = read_clip(networks)
        shapes = {name: tensor.shape for name, tensor in self.network.state_dict().items()}
        found = take(tensors, shapes, f"{path} (CLIP's text encoder)", TEXT_ADVICE)
        self.network.load_state_dict(found)
