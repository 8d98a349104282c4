"""From image tokens to planes: learned plane tokens, a transformer and an upsampling convolution.

The architecture and the parameter names are TripoSR's (Tochilkin et al. 2024), an LRM (Hong et al.
2024) whose blocks are those of latent diffusion: self-attention, cross-attention, GEGLU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrecon.config import BackboneConfig

from .attention import attend

GROUPS = 32
GROUP_NORM_EPS = 1e-6


class PlaneTokens(nn.Module):
    """The learned start of every object: ``embeddings (3, dim, grid, grid)``."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        shape = (3, config.dim, config.grid, config.grid)
        self.embeddings = nn.Parameter(torch.randn(shape) * config.dim**-0.5)

    def forward(self) -> Tensor:
        """Tokens ``(1, 3 grid^2, dim)``, plane by plane, row by row."""
        return self.embeddings.permute(0, 2, 3, 1).flatten(0, 2)[None]


class TriplaneTransformer(nn.Module):
    """``tokens (1 or B, N, dim)``, ``context (B, M, context_dim)`` -> ``(B, N, dim)``."""

    def __init__(self, config: BackboneConfig, context_dim: int) -> None:
        super().__init__()
        dim = config.dim
        self.norm = nn.GroupNorm(GROUPS, dim, eps=GROUP_NORM_EPS)
        self.proj_in = nn.Linear(dim, dim)
        self.transformer_blocks = nn.ModuleList(
            Block(dim, context_dim, config.heads, config.head_dim) for _ in range(config.depth)
        )
        self.proj_out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        normed = self.norm(tokens.transpose(1, 2)).transpose(1, 2)
        # Back to the tokens' dtype: under autocast the residual stream stays in fp32.
        hidden = self.proj_in(normed).to(tokens.dtype)
        for block in self.transformer_blocks:
            hidden = block(hidden, context)
        return self.proj_out(hidden) + tokens


class Block(nn.Module):
    """Pre-norm: self-attention, cross-attention to the image, gated feed-forward."""

    def __init__(self, dim: int, context_dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, dim, heads, head_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, context_dim, heads, head_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, hidden: Tensor, context: Tensor) -> Tensor:
        normed = self.norm1(hidden)
        hidden = hidden + self.attn1(normed, normed)
        # Every object starts from the same tokens, so all work until the first look at the image
        # is done once for the batch.
        hidden = hidden.expand(context.shape[0], -1, -1)
        hidden = hidden + self.attn2(self.norm2(hidden), context)
        return hidden + self.ff(self.norm3(hidden))


class Attention(nn.Module):
    """Multi-head attention; no bias on q, k, v, one on the output (OpenLRM: none)."""

    def __init__(
        self, dim: int, context_dim: int, heads: int, head_dim: int, *, out_bias: bool = True
    ) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(context_dim, inner, bias=False)
        self.to_v = nn.Linear(context_dim, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, dim, bias=out_bias))

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        attended = attend(self.to_q(tokens), self.to_k(context), self.to_v(context), self.heads)
        return self.to_out(attended)


class FeedForward(nn.Module):
    """``dim -> 2 x 4 dim, value * gelu(gate), -> dim`` (GEGLU, Shazeer 2020)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # The identity stands where the original has its dropout: the output layer is `net.2`.
        self.net = nn.Sequential(GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.net(hidden)


class GEGLU(nn.Module):
    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim_in, 2 * dim_out)

    def forward(self, hidden: Tensor) -> Tensor:
        value, gate = self.proj(hidden).chunk(2, dim=-1)
        return value * F.gelu(gate)


class PlaneUpsampler(nn.Module):
    """Tokens ``(B, 3 g^2, dim)`` -> planes ``(B, 3, channels, g * upsample, g * upsample)``."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.upsample = nn.ConvTranspose2d(
            config.dim, config.channels, kernel_size=config.upsample, stride=config.upsample
        )

    def forward(self, tokens: Tensor) -> Tensor:
        planes = tokens.unflatten(1, (3, self.grid, self.grid)).permute(0, 1, 4, 2, 3)
        return self.upsample(planes.flatten(0, 1)).unflatten(0, (-1, 3))
