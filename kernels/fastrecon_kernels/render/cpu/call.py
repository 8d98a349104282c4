"""What the objects of one call share, and how their gradients are put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...settings import RenderSettings
from ...types import Decoder
from .field import Field, Wanted
from .network import Network
from .texels import make_layout, worth_folding

GROUP_POINTS = 1 << 14
"""Most points that are looked up, and composited, together."""
GROUP_BYTES = 24 << 20
"""Most memory for what the gradient of one group needs."""
POINT_BYTES = 120
"""What the gradient needs of a sample besides activations: outputs, cells, weights, lengths."""


@dataclass(frozen=True)
class Shape:
    """How the tensors of a call are laid out in the flat list that autograd sees."""

    n_levels: int
    has_bias: tuple[bool, ...]
    activation: str

    @classmethod
    def of(cls, levels: tuple[Tensor, ...], decoder: Decoder) -> Shape:
        """The shape of one call."""
        return cls(len(levels), tuple(b is not None for b in decoder.biases), decoder.activation)

    def wanted(self, points: bool, tensors: Sequence[bool]) -> Wanted:
        """Gradients to collect, from which of ``(*levels, *decoder.parameters)`` need one."""
        return Wanted(any(tensors[: self.n_levels]), points, any(tensors[self.n_levels :]))

    def unpack(self, tensors: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Decoder]:
        """Levels and decoder from ``(*levels, *decoder.parameters)``."""
        rest = list(tensors[self.n_levels :])
        weights = [rest.pop(0) for _ in self.has_bias]
        biases = [rest.pop(0) if there else None for there in self.has_bias]
        return tensors[: self.n_levels], Decoder(weights, biases, self.activation)


def differentiable_gradients(
    outputs: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    inputs: Sequence[Tensor],
    needed: Sequence[bool],
) -> Iterator[Tensor | None]:
    """Gradients of the needed inputs that can be differentiated again."""
    pairs = [(x, g) for x, g in zip(outputs, grads, strict=False) if g is not None]
    found = torch.autograd.grad(
        [x for x, _ in pairs],
        [x for x, need in zip(inputs, needed, strict=True) if need],
        [g for _, g in pairs],
        create_graph=True,
        allow_unused=True,
    )
    each = iter(found)
    return (next(each) if need else None for need in needed)


class Call:
    """The fields of one call's objects, and in a backward pass the sums of their gradients.

    Args:
        levels: (B, 3, C, H, W) each, detached.
        decoder: detached.
        n_points: field evaluations per object, to choose whether to fold the first layer.
        half: compute the decoder's other layers in bf16.
    """

    def __init__(
        self,
        levels: tuple[Tensor, ...],
        decoder: Decoder,
        settings: RenderSettings,
        occupancy: Tensor | None,
        n_points: int,
        wanted: Wanted,
        half: bool,
    ) -> None:
        self.levels, self.decoder, self.settings = levels, decoder, settings
        self.occupancy, self.wanted = occupancy, wanted
        self.layout = make_layout(levels, settings.axes)
        folded = worth_folding(self.layout, decoder, levels[0].shape[2], n_points)
        self.network = Network(decoder, folded, half)
        self.d_levels = [torch.zeros_like(x) if wanted.levels else None for x in levels]
        self.d_weight = torch.zeros_like(decoder.weights[0])
        self.d_bias = None if decoder.biases[0] is None else torch.zeros_like(decoder.biases[0])

    @property
    def kept_bytes(self) -> int:
        """What the gradient needs of one point."""
        widths = sum(len(weight) for weight in self.decoder.weights[:-1])
        first = 0 if self.network.folded else self.decoder.n_features
        size = self.decoder.weights[0].element_size()
        return POINT_BYTES * len(self.levels) + (widths + first) * size

    def group_points(self, keep: bool) -> int:
        """Points of a group, of which ``keep`` says whether it is kept for a gradient."""
        if not keep:
            return GROUP_POINTS
        return max(1, min(GROUP_POINTS, GROUP_BYTES // self.kept_bytes))

    def field(self, b: int) -> Field:
        """The field of object ``b``."""
        cells = None if self.occupancy is None else self.occupancy[b]
        levels = tuple(level[b : b + 1] for level in self.levels)
        return Field(
            levels, self.decoder, self.network, self.layout, self.settings, cells, self.wanted
        )

    def finish(self, b: int, field: Field) -> None:
        """Add up the gradients of object ``b``."""
        if not field.wants_rows:
            return
        d_levels, d_first = field.finish()
        for total, d_level in zip(self.d_levels, d_levels, strict=True):
            if total is not None:
                total[b] = d_level[0]
        first = [x for x in (self.d_weight, self.d_bias) if x is not None]
        for total, part in zip(first, d_first, strict=False):
            total += part

    def gradients(self) -> list[Tensor | None]:
        """Gradients of ``(*levels, *decoder.parameters)``."""
        weights, biases = self.network.d_weights, self.network.d_biases
        if self.network.folded:
            weights, biases = [self.d_weight, *weights], [self.d_bias, *biases]
        return [*self.d_levels, *weights, *(b for b in biases if b is not None)]
