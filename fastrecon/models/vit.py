"""The image encoder: a ViT with DINO's parameter names (Dosovitskiy et al., Caron et al. 2021).

Parameters are named as in TripoSR's checkpoint, which took them from the ViT of transformers 4.x,
so that released weights load by name. Attention runs through PyTorch's fused kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrecon.config import EncoderConfig

from .attention import attend

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LAYER_NORM_EPS = 1e-12
INIT_STD = 0.02


class ImageTokenizer(nn.Module):
    """Pictures to tokens: ImageNet normalisation, then the ViT.

    ``forward``: images ``(B, 3, S, S)`` in [0, 1] -> tokens ``(B, 1 + (S / patch)^2, dim)``, the
    CLS token first.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.model = VisionTransformer(config)
        self.register_buffer("mean", torch.empty(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.empty(1, 3, 1, 1), persistent=False)
        self.reset_statistics()

    def reset_statistics(self) -> None:
        """Fill the mean and std again: no checkpoint holds them, and a meta build has no values."""
        device = self.model.layernorm.weight.device
        self.mean = torch.tensor(IMAGENET_MEAN, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(IMAGENET_STD, device=device).view(1, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        dtype = self.model.layernorm.weight.dtype
        return self.model(((images - self.mean) / self.std).to(dtype))


class VisionTransformer(nn.Module):
    """Pre-norm ViT; ``(B, 3, S, S)`` normalised pictures -> ``(B, 1 + N, dim)`` final states."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.layernorm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        # Released checkpoints carry a pooler; nothing reads its output.
        self.pooler = Dense(config.dim, config.dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal(0.02) weights; residual branches divided by sqrt(2 depth), as GPT-2 does it,
        so that the residual stream's scale does not grow with depth. Patches of another size than
        16 x 16 start as loud as those."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
        patch = self.embeddings.patch_embeddings.projection.weight
        nn.init.trunc_normal_(patch, std=INIT_STD * (3 * 16 * 16 / patch[0].numel()) ** 0.5)
        scale = (2 * max(len(self.encoder.layer), 1)) ** -0.5
        for layer in self.encoder.layer:
            assert isinstance(layer, Layer)
            for dense in (layer.attention.output.dense, layer.output.dense):
                nn.init.trunc_normal_(dense.weight, std=INIT_STD * scale)

    def forward(self, images: Tensor) -> Tensor:
        return self.layernorm(self.encoder(self.embeddings(images)))


class Embeddings(nn.Module):
    """Patches, the CLS token and the position table ``(1, 1 + grid^2, dim)``."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        table = torch.empty(1, 1 + config.position_grid**2, config.dim)
        self.position_embeddings = nn.Parameter(table)
        self.patch_embeddings = PatchEmbeddings(config)
        nn.init.trunc_normal_(self.position_embeddings, std=INIT_STD)
        nn.init.trunc_normal_(self.cls_token, std=INIT_STD)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embeddings.projection(images)  # (B, dim, h, w)
        height, width = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return tokens + resize_positions(self.position_embeddings, height, width)


def resize_positions(table: Tensor, height: int, width: int) -> Tensor:
    """A position table ``(1, 1 + g^2, dim)`` for a grid of ``height x width`` tokens, CLS kept.

    Bicubic by the *scale factor* ``(n + 0.1) / g``, not to the size ``n``: sampling positions
    differ slightly, and TripoSR's and Real3D's weights were trained with the former (transformers
    4.35). The table itself where the grids agree.
    """
    grid = round((table.shape[1] - 1) ** 0.5)
    if (height, width) == (grid, grid):
        return table
    image = table[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    scale = ((height + 0.1) / grid, (width + 0.1) / grid)
    image = F.interpolate(image, scale_factor=scale, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], image.flatten(2).transpose(1, 2)], dim=1)


class PatchEmbeddings(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        patch = config.patch_size
        self.projection = nn.Conv2d(3, config.dim, kernel_size=patch, stride=patch)


class Encoder(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.depth))

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layer:
            tokens = layer(tokens)
        return tokens


class Layer(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))`` with exact GELU."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = Attention(config.dim, config.heads)
        self.intermediate = Dense(config.dim, config.mlp_dim)
        self.output = Dense(config.mlp_dim, config.dim)
        self.layernorm_before = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.layernorm_after = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.layernorm_before(tokens))
        hidden = F.gelu(self.intermediate.dense(self.layernorm_after(tokens)))
        return tokens + self.output.dense(hidden)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads)
        self.output = Dense(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output.dense(self.attention(tokens))


class SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return attend(self.query(tokens), self.key(tokens), self.value(tokens), self.heads)


class Dense(nn.Module):
    """A linear layer one level down, where the checkpoint's names want it."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim_in, dim_out)
