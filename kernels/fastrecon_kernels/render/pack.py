"""The decoder as the kernels read it: one buffer of zero-padded matrices, one of biases.

Weights lie as (in, out) in the order W_0, hidden ones, W_last. W_0 is BLOCKS matrices
(BLOCK_C, WIDTH), one per plane for "concat"; hidden ones are (WIDTH, WIDTH), W_last is
(WIDTH, OUT). Biases are (WIDTH,) each, the last (OUT,). Padding is zero, so padded units change
nothing, whatever the activation makes of them. Gradients have the same layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..types import Decoder

MAX_WIDTH = 128
"""Widest block of features or layer that the kernels keep whole in a program; half of it without
tensor cores, which keep operands out of registers."""


def pad_side(n: int) -> int:
    """The smallest side >= n that a matrix product in a kernel can have."""
    return max(16, 1 << (n - 1).bit_length())


@dataclass(frozen=True)
class DecoderShape:
    """Sizes that the kernels are compiled for."""

    channels: int  # C of a plane
    blocks: int  # 3 for "concat", else 1
    widths: tuple[int, ...]  # outputs of each layer; the last is 1 + K

    @classmethod
    def of(cls, decoder: Decoder, channels: int) -> DecoderShape:
        widths = tuple(w.shape[0] for w in decoder.weights)
        return cls(channels, decoder.n_features // channels, widths)

    def fits(self, precision: str) -> bool:
        """Whether the fused kernels serve this decoder."""
        limit = MAX_WIDTH // 2 if precision == "fp32" else MAX_WIDTH
        return max(self.channels, *self.widths) <= limit

    @property
    def n_layers(self) -> int:
        return len(self.widths)

    @property
    def n_hidden(self) -> int:
        """Square layers: all but the first and the last."""
        return max(0, self.n_layers - 2)

    @property
    def block_c(self) -> int:
        return pad_side(self.channels)

    @property
    def out(self) -> int:
        return pad_side(self.widths[-1])

    @property
    def width(self) -> int:
        """Padded outputs of the first and hidden layers, or of the only layer."""
        return pad_side(max(self.widths[:-1])) if self.n_layers > 1 else self.out

    def matrices(self) -> list[tuple[int, int, int]]:
        """(blocks, rows, columns) of each layer's packed weight."""
        first = (self.blocks, self.block_c, self.width)
        if self.n_layers == 1:
            return [first]
        return [first, *[(1, self.width, self.width)] * self.n_hidden, (1, self.width, self.out)]

    @property
    def n_weights(self) -> int:
        return sum(blocks * rows * columns for blocks, rows, columns in self.matrices())

    @property
    def n_biases(self) -> int:
        return sum(columns for _, _, columns in self.matrices())

    def weight_offset(self, layer: int) -> int:
        """Where a layer's weight begins in the packed buffer."""
        return sum(blocks * rows * columns for blocks, rows, columns in self.matrices()[:layer])

    def weight_views(self, packed: Tensor) -> Iterator[Tensor]:
        """Each layer's weight within a packed buffer, as (blocks, in / blocks, out)."""
        rows_used = [self.channels, *self.widths[:-1]]
        start = 0
        for shape, n_in, n_out in zip(self.matrices(), rows_used, self.widths, strict=True):
            size = shape[0] * shape[1] * shape[2]
            yield packed[start : start + size].view(shape)[:, :n_in, :n_out]
            start += size

    def bias_views(self, packed: Tensor) -> Iterator[Tensor]:
        """Each layer's bias (out,) within a packed buffer."""
        start = 0
        for (_, _, columns), n_out in zip(self.matrices(), self.widths, strict=True):
            yield packed[start : start + n_out]
            start += columns


class PackedDecoder(NamedTuple):
    """A decoder's values; the tensors are copies."""

    weights: Tensor  # (n_weights,) in the type of the matrix products
    biases: Tensor  # (2, n_biases) fp32: they and their halves, which `field_kernel` takes for SiLU
    shape: DecoderShape
    activation: str


@torch.no_grad()
def pack_decoder(decoder: Decoder, channels: int, dtype: torch.dtype) -> PackedDecoder:
    """Pack a decoder that reads planes of ``channels`` channels."""
    shape = DecoderShape.of(decoder, channels)
    device = decoder.weights[0].device
    weights = torch.zeros(shape.n_weights, dtype=dtype, device=device)
    biases = torch.zeros(2, shape.n_biases, dtype=torch.float32, device=device)
    for view, weight in zip(shape.weight_views(weights), decoder.weights, strict=True):
        view.copy_(weight.unflatten(1, view.shape[:2]).permute(1, 2, 0))
    for view, bias in zip(shape.bias_views(biases[0]), decoder.biases, strict=True):
        if bias is not None:
            view.copy_(bias)
    torch.mul(biases[0], 0.5, out=biases[1])
    return PackedDecoder(weights, biases, shape, decoder.activation)


def unpack_gradients(
    d_weights: Tensor, d_biases: Tensor, shape: DecoderShape
) -> tuple[list[Tensor], list[Tensor]]:
    """Packed gradients as one (out, in) and one (out,) per layer."""
    weights = [view.permute(2, 0, 1).flatten(1) for view in shape.weight_views(d_weights)]
    return weights, list(shape.bias_views(d_biases))
