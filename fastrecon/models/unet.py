"""The U-Net of G3DR: a picture with depth becomes the channels of three planes (section 3.1).

A denoising network without noise. Its time embedding is kept, at the constant time 1, so that the
scale and shift of every residual block are learned constants. Beside the picture it reads a learned
map of the picture's size. `fastrecon.interop.g3dr` has the public code's names of the parameters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8
"""Of every GroupNorm."""
TIME_FREQUENCIES = 10_000.0
"""Ratio of the highest to the lowest frequency of the time embedding."""
EPS = 1e-5


class StandardisedConv(nn.Conv2d):
    """A convolution whose filters have mean 0 and variance 1 (Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) * (var + EPS).rsqrt()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of ``(B, C, H, W)``, with a gain and no shift, in fp32 at least.

    The values after linear attention are so small that the epsilon decides how much they count: it
    must be the same in every precision.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        var, mean = torch.var_mean(wide, dim=1, correction=0, keepdim=True)
        return (wide - mean) * (var + EPS).rsqrt() * self.weight


class ResidualBlock(nn.Module):
    """Twice standardised 3x3 convolution, GroupNorm and SiLU; scale and shift after the first."""

    def __init__(self, dim: int, dim_out: int, time_dim: int) -> None:
        super().__init__()
        self.film = nn.Linear(time_dim, 2 * dim_out)
        self.conv1 = StandardisedConv(dim, dim_out, 3, padding=1)
        self.norm1 = nn.GroupNorm(GROUPS, dim_out)
        self.conv2 = StandardisedConv(dim_out, dim_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, dim_out)
        self.skip = nn.Identity() if dim == dim_out else nn.Conv2d(dim, dim_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """``x (B, dim, H, W)`` and ``time (1, time_dim)`` -> ``(B, dim_out, H, W)``."""
        scale, shift = self.film(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        h = F.silu(self.norm1(self.conv1(x)) * (scale + 1) + shift)
        return F.silu(self.norm2(self.conv2(h))) + self.skip(x)


class Attention(nn.Module):
    """``x + attention(norm(x))`` over all positions.

    Args:
        linear: attention linear in the number of positions (Shen et al. 2018), normed once more;
            else softmax attention.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, *, linear: bool) -> None:
        super().__init__()
        self.heads = heads
        self.linear = linear
        self.norm = ChannelNorm(dim)
        self.qkv = nn.Conv2d(dim, 3 * heads * head_dim, 1, bias=False)
        self.out = nn.Conv2d(heads * head_dim, dim, 1)
        self.out_norm = ChannelNorm(dim) if linear else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        qkv = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1))
        q, k, v = qkv.unbind(1)  # (B, heads, head_dim, positions) each
        if self.linear:
            q = q.softmax(dim=-2) * q.shape[-2] ** -0.5
            context = v @ k.softmax(dim=-1).mT / (height * width)
            mixed = context @ q
        else:
            mixed = F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
        mixed = mixed.flatten(1, 2).unflatten(-1, (height, width))
        return self.out_norm(self.out(mixed)) + x


class Stage(nn.Module):
    """The parts of a level: two residual blocks, attention, a change of size."""

    def __init__(
        self, dim: int, inner: int, time_dim: int, heads: int, head_dim: int, resize: nn.Module
    ) -> None:
        super().__init__()
        self.block1 = ResidualBlock(dim, inner, time_dim)
        self.block2 = ResidualBlock(dim, inner, time_dim)
        self.attention = Attention(inner, heads, head_dim, linear=True)
        self.resize = resize


class Down(Stage):
    """Leaves what it saw after the first block and after the attention in ``skips``."""

    def forward(self, x: Tensor, time: Tensor, skips: list[Tensor]) -> Tensor:
        x = self.block1(x, time)
        skips.append(x)
        x = self.attention(self.block2(x, time))
        skips.append(x)
        return self.resize(x)


class Up(Stage):
    """Takes the two newest of ``skips``, one before each block."""

    def forward(self, x: Tensor, time: Tensor, skips: list[Tensor]) -> Tensor:
        x = self.block1(torch.cat([x, skips.pop()], dim=1), time)
        x = self.block2(torch.cat([x, skips.pop()], dim=1), time)
        return self.resize(self.attention(x))


def shrink(dim: int, dim_out: int) -> nn.Module:
    """Half the side: 2x2 pixels become channels, mixed by a 1x1 convolution."""
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * dim, dim_out, 1))


def grow(dim: int, dim_out: int) -> nn.Module:
    """Twice the side: the nearest pixel, then a 3x3 convolution."""
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(dim, dim_out, 3, padding=1))


class UNet(nn.Module):
    """``(B, in_channels, S, S)`` -> ``(B, out_channels, S, S)``.

    Args:
        in_channels: of the picture.
        out_channels: of the result.
        size: S; a multiple of 2 for each stage but the last.
        width: channels of the first convolution, a multiple of 8.
        multipliers: channels after each stage, in widths.
        learned: channels of the learned map.
        heads, head_dim: of every attention.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        size: int,
        width: int,
        multipliers: Sequence[int],
        learned: int,
        heads: int,
        head_dim: int,
    ) -> None:
        super().__init__()
        self.width = width
        self.in_channels = in_channels
        time_dim = 4 * width
        dims = [width, *(width * m for m in multipliers)]
        pairs = list(itertools.pairwise(dims))
        last = len(pairs) - 1
        attention = (heads, head_dim)

        self.learned = nn.Parameter(torch.ones(1, learned, size, size))
        self.conv_in = nn.Conv2d(in_channels + learned, width, 7, padding=3)
        self.time_mlp = nn.Sequential(
            nn.Linear(width, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim)
        )
        self.downs = nn.ModuleList()
        for i, (dim, dim_out) in enumerate(pairs):
            resize = shrink(dim, dim_out) if i < last else nn.Conv2d(dim, dim_out, 3, padding=1)
            self.downs.append(Down(dim, dim, time_dim, *attention, resize))
        self.mid_block1 = ResidualBlock(dims[-1], dims[-1], time_dim)
        self.mid_attention = Attention(dims[-1], *attention, linear=False)
        self.mid_block2 = ResidualBlock(dims[-1], dims[-1], time_dim)
        self.ups = nn.ModuleList()
        for i, (dim_out, dim) in reversed(list(enumerate(pairs))):
            resize = grow(dim, dim_out) if i else nn.Conv2d(dim, dim_out, 3, padding=1)
            self.ups.append(Up(dim + dim_out, dim, time_dim, *attention, resize))
        self.final_block = ResidualBlock(2 * width, 2 * width, time_dim)
        self.conv_out = nn.Conv2d(2 * width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = first = self.stem(x)
        time = self.time_mlp(time_embedding(self.width, like=self.conv_in.weight))
        skips: list[Tensor] = []
        for down in self.downs:
            x = down(x, time, skips)
        x = self.mid_block2(self.mid_attention(self.mid_block1(x, time)), time)
        for up in self.ups:
            x = up(x, time, skips)
        return self.conv_out(self.final_block(torch.cat([x, first], dim=1), time))

    def stem(self, x: Tensor) -> Tensor:
        """The 7x7 convolution of picture and learned map together.

        The map is the same for the whole batch, and with 256 of 260 channels nearly all the work:
        it is convolved once.
        """
        weight, n = self.conv_in.weight, self.in_channels
        constant = F.conv2d(self.learned, weight[:, n:], self.conv_in.bias, padding=3)
        return F.conv2d(x, weight[:, :n], padding=3) + constant


def time_embedding(width: int, *, like: Tensor) -> Tensor:
    """Sines, then cosines, of the time 1 at ``width / 2`` frequencies: ``(1, width)``."""
    half = width // 2
    steps = torch.arange(half, dtype=like.dtype, device=like.device)
    angles = torch.exp(steps * -(math.log(TIME_FREQUENCIES) / (half - 1)))
    return torch.cat([angles.sin(), angles.cos()])[None]
