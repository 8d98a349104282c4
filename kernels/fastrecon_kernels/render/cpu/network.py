"""The decoder on a CPU, a tile of points at a time, and its gradient written out.

Tiles are small enough for the processor's cache. `Network` holds what one call shares among its
tiles: the layers that are left to compute per point, and the sums of their gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...types import Decoder

TILE_NUMBERS = 1 << 17
"""Numbers in one activation of a tile, per thread: 512 KiB, of which two stay in a core's cache."""
LEAST_TILE = 256
"""Points of a tile at any width."""
SOFTPLUS_LINEAR = 20.0
"""Where torch's softplus goes over into its argument."""


def activate(x: Tensor, name: str, out: Tensor) -> Tensor:
    """The activation of ``x`` in ``out``, which may be ``x`` itself."""
    if name == "silu":
        return torch.ops.aten.silu.out(x, out=out)
    if name == "relu":
        return torch.clamp(x, min=0, out=out)
    # Three vectorised passes take a third of the time of torch's own softplus.
    grown = torch.clamp(x, max=SOFTPLUS_LINEAR).exp_().add_(1).log_()
    return torch.maximum(x, grown, out=out)


def activate_backward(grad: Tensor, x: Tensor, name: str) -> Tensor:
    """Gradient of the argument ``x`` of an activation, in place of ``grad``."""
    if name == "silu":
        return torch.ops.aten.silu_backward.grad_input(grad, x, grad_input=grad)
    if name == "relu":
        return torch.ops.aten.threshold_backward.grad_input(grad, x, 0, grad_input=grad)
    return grad.mul_(x.sigmoid())


class Record(NamedTuple):
    """What the gradient of one block needs; values of activations are computed again."""

    features: Tensor  # (M, features) that came in
    arguments: list[Tensor]  # (M, width) of every activation, ``features`` if it is the first


class Network:
    """The layers of a decoder that are computed per point.

    Args:
        decoder: in the dtype to compute in, without gradients.
        folded: whether the first layer is in the texels; what comes in is its output then.
        half: compute the layers in bf16.
    """

    def __init__(self, decoder: Decoder, folded: bool, half: bool) -> None:
        skip = 1 if folded else 0
        self.folded, self.half = folded, half
        self.activation = decoder.activation
        self.dtype = torch.bfloat16 if half else decoder.weights[0].dtype
        self.weights = [w.to(self.dtype) for w in decoder.weights[skip:]]
        self.biases = [None if b is None else b.to(self.dtype) for b in decoder.biases[skip:]]
        self.width = max(w.shape[0] for w in decoder.weights)
        self.first_width = decoder.weights[0].shape[0]
        self.n_outputs = decoder.weights[-1].shape[0]
        self.d_weights = [torch.zeros_like(w) for w in decoder.weights[skip:]]
        self.d_biases = [None if b is None else torch.zeros_like(b) for b in decoder.biases[skip:]]

    def width_of_rows(self, channels: int) -> int:
        """Numbers per texel row of planes with so many channels."""
        return self.first_width if self.folded else channels

    def forward(self, x: Tensor, keep: bool) -> tuple[Tensor, Record]:
        """(M, features), or the first layer's (M, hidden) -> outputs (1 + K, M).

        ``x`` is overwritten unless ``keep``, which fills the record.
        """
        x = x.to(self.dtype)
        arguments = [x] if self.folded else []
        if keep:
            arguments += [x.new_empty(len(x), len(weight)) for weight in self.weights[:-1]]
        outputs = x.new_empty(self.n_outputs, len(x))
        for tile in self._tiles(len(x)):
            if keep:
                outputs[:, tile] = self._forward(x[tile], [each[tile] for each in arguments])
            else:
                outputs[:, tile] = self._forward(x[tile], None)
        return outputs, Record(x, arguments)

    def _forward(self, x: Tensor, arguments: list[Tensor] | None) -> Tensor:
        """One tile; ``arguments`` are filled, or ``x`` is overwritten."""
        spare = None
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            activated = i > 0 or self.folded
            if activated:
                x = activate(x, self.activation, x if arguments is None else _like(x, spare))
            if i == len(self.weights) - 1:
                outputs = weight @ x.t()
                return outputs if bias is None else outputs.add_(bias[:, None])
            if arguments is None:
                out = _like(x, spare, len(weight))
            else:
                out = arguments[i + 1 if self.folded else i]
            spare = x if activated or arguments is None else None
            if bias is not None and self.half:
                x = torch.addmm(bias, x, weight.t(), out=out)
                continue
            x = torch.mm(x, weight.t(), out=out)
            if bias is not None:
                x += bias  # in fp32 `addmm` copies the bias first, which takes longer
        return x.t()  # a single layer, folded

    def backward(self, grad: Tensor, record: Record) -> Tensor:
        """Gradient of what `forward` read, from that of the outputs (1 + K, M)."""
        flowing = torch.empty_like(record.features, dtype=grad.dtype)
        for tile in self._tiles(grad.shape[1]):
            arguments = [each[tile] for each in record.arguments]
            flowing[tile] = self._backward(grad[:, tile], record.features[tile], arguments)
        return flowing

    def _backward(self, grad: Tensor, features: Tensor, arguments: list[Tensor]) -> Tensor:
        """One tile."""
        flowing, spare = grad.t().to(self.dtype), None
        for i in reversed(range(len(self.weights))):
            activated = i > 0 or self.folded
            argument = arguments[i if self.folded else i - 1] if activated else features
            value = argument
            if activated:
                value = spare = activate(argument, self.activation, _like(argument, spare))
            if self.half:
                self.d_weights[i] += flowing.t() @ value
            else:
                self.d_weights[i].addmm_(flowing.t(), value)
            d_bias = self.d_biases[i]
            if d_bias is not None:
                d_bias += flowing.sum(0)
            flowing = flowing @ self.weights[i]
            if activated:
                flowing = activate_backward(flowing, argument, self.activation)
        return flowing

    def _tiles(self, n_points: int) -> Iterator[slice]:
        """Equal parts of which a matrix product reads and writes the cache only."""
        most = max(LEAST_TILE, TILE_NUMBERS // self.width) * torch.get_num_threads()
        return equal_parts(n_points, most)


def equal_parts(n: int, most: int) -> Iterator[slice]:
    """``n`` in as few parts of at most ``most`` as will do, all but equal."""
    step = max(1, math.ceil(n / max(1, math.ceil(n / most))))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _like(x: Tensor, spare: Tensor | None, width: int | None = None) -> Tensor:
    """Uninitialised (M, width) like ``x``: the spare tensor if it fits."""
    shape = (len(x), x.shape[1] if width is None else width)
    return spare if spare is not None and spare.shape == shape else x.new_empty(shape)
