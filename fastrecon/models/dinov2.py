"""The other image encoder: DINOv2, with or without registers (Oquab et al., Darcet et al. 2024).

Parameters are named as in its authors' checkpoints, and so in OpenLRM's. Unlike DINO's ViT it
scales every residual branch per channel (LayerScale) and may carry register tokens, which attend
like all others and are dropped at the end. OpenLRM feeds it pictures in [0, 1] without taking off a
mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrecon.config import EncoderConfig

from .attention import attend
from .vit import INIT_STD, resize_positions

LAYER_NORM_EPS = 1e-6


class Dinov2Tokenizer(nn.Module):
    """Pictures ``(B, 3, S, S)`` in [0, 1] -> tokens ``(B, 1 + (S / patch)^2, dim)``, CLS first."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.model = Dinov2(config)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.to(self.model.norm.weight.dtype))


class Dinov2(nn.Module):
    """Pre-norm ViT; ``(B, 3, S, S)`` -> normed final states ``(B, 1 + N, dim)`` of CLS and patches.

    The position table is ``(1, 1 + grid^2, dim)`` (grid 37 in the released weights: 518 pixels in
    patches of 14); registers have no position.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        dim = config.dim
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.position_grid**2, dim))
        self.register_tokens = (
            nn.Parameter(torch.empty(1, config.registers, dim)) if config.registers else None
        )
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As the other ViT starts: normal(0.02), residual branches divided by sqrt(2 depth)."""
        for table in (self.cls_token, self.pos_embed, self.register_tokens):
            if table is not None:
                nn.init.trunc_normal_(table, std=INIT_STD)
        patch = self.patch_embed.proj.weight
        nn.init.trunc_normal_(patch, std=INIT_STD * (3 * 16 * 16 / patch[0].numel()) ** 0.5)
        scale = (2 * max(len(self.blocks), 1)) ** -0.5
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            assert isinstance(block, Block)
            for linear in (block.attn.proj, block.mlp.fc2):
                nn.init.trunc_normal_(linear.weight, std=INIT_STD * scale)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed.proj(images)  # (B, dim, h, w)
        height, width = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = tokens + self.positions(height, width)
        registers = 0
        if self.register_tokens is not None:
            registers = self.register_tokens.shape[1]
            extra = self.register_tokens.expand(len(tokens), -1, -1)
            tokens = torch.cat([tokens[:, :1], extra.to(tokens.dtype), tokens[:, 1:]], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(torch.cat([tokens[:, :1], tokens[:, 1 + registers :]], dim=1))

    def positions(self, height: int, width: int) -> Tensor:
        """The table for ``height x width`` patches.

        The weights with registers were trained with antialiased bicubic resizing to the size, those
        without with DINO's (`resize_positions`).
        """
        grid = round((self.pos_embed.shape[1] - 1) ** 0.5)
        if self.register_tokens is None or (height, width) == (grid, grid):
            return resize_positions(self.pos_embed, height, width)
        image = self.pos_embed[:, 1:].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        image = F.interpolate(image, (height, width), mode="bicubic", antialias=True)
        return torch.cat([self.pos_embed[:, :1], image.flatten(2).transpose(1, 2)], dim=1)


class PatchEmbed(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        patch = config.patch_size
        self.proj = nn.Conv2d(3, config.dim, kernel_size=patch, stride=patch)


class Block(nn.Module):
    """``x + gamma1 attn(norm1(x))``, then ``x + gamma2 mlp(norm2(x))``."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(config.dim, config.heads)
        self.ls1 = LayerScale(config.dim)
        self.norm2 = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(config.dim, config.mlp_dim)
        self.ls2 = LayerScale(config.dim)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class Attention(nn.Module):
    """Self-attention; one matrix gives q, k and v."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        return self.proj(attend(q, k, v, self.heads))


class LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, branch: Tensor) -> Tensor:
        return branch * self.gamma


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))
