"""One object's field on a CPU, and the gradient of everything that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...settings import RenderSettings
from ...types import Decoder
from ..reference import occupied
from .lookup import Cells, find_cells, gather, point_gradient, texel_gradient
from .network import Network, Record, equal_parts
from .texels import Layout, level_rows

GROUPED_POINTS = 1 << 14, 1 << 15
"""Fewest and most points whose texel gradients are summed at once: twice the number of texels in
between, for grouping them costs a pass over all texels."""
BLOCK_TAPS = 1 << 17
"""Taps of the points that are looked up at once, per thread."""


class Looked(NamedTuple):
    """What the gradient of M points needs."""

    outputs: Tensor  # (1 + K, M kept) raw density and colours
    kept: Tensor | None  # indices of the points that were looked up; None: all
    n_points: int
    blocks: list[tuple[slice, Cells, Record]]  # empty unless kept for a gradient


@dataclass(frozen=True)
class Wanted:
    """Which gradients are asked for."""

    levels: bool = False
    points: bool = False
    parameters: bool = False


class Field:
    """The field of one object.

    Args:
        levels: (1, 3, C, H, W), detached.
        decoder: detached.
        network: `Network` of the decoder, shared by the objects of a call, like the layout.
        occupancy: (R, R, R) bool or None.
        wanted: gradients to collect; none of them in a forward pass.
    """

    def __init__(
        self,
        levels: tuple[Tensor, ...],
        decoder: Decoder,
        network: Network,
        layout: Layout,
        settings: RenderSettings,
        occupancy: Tensor | None,
        wanted: Wanted,
    ) -> None:
        self.settings, self.network, self.occupancy = settings, network, occupancy
        self.layout = layout
        self.per_plane = not network.folded and settings.reduction == "concat"
        self.levels = levels
        folds = network.folded
        self.first = (decoder.weights[0], decoder.biases[0]) if folds else (None, None)
        self.wants_rows = wanted.levels or (folds and wanted.parameters)
        self.wants_points = wanted.points
        self.rows = levels[0].new_empty(layout.n_rows, network.width_of_rows(levels[0].shape[2]))
        for level, start, end in zip(levels, layout.starts, layout.starts[1:], strict=False):
            self.rows[start:end] = self._rows(level, *self.first)
        self.d_rows: Tensor | None = None
        self.waiting: list[tuple[Cells, Tensor]] = []

    def _rows(self, level: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return level_rows(level, weight, bias, self.settings.reduction, len(self.levels))

    def look(self, unit: Tensor, alive: Tensor | None, keep: bool) -> tuple[Tensor, Looked]:
        """Raw density and colours (1 + K, M) at points (3, M), the box at [-1, 1].

        Points that ``alive`` (M,) rules out and those in empty space are not looked up: -inf and 0.
        """
        n_points = unit.shape[1]
        kept = self._kept(unit, alive)
        if kept is not None:
            unit = unit.index_select(1, kept)
        outputs = unit.new_empty(self.network.n_outputs, unit.shape[1])
        blocks = []
        for part in self._blocks(unit.shape[1]):
            cells = find_cells(unit[:, part], self.layout)
            features = gather(self.rows, cells, self.layout, self.per_plane)
            outputs[:, part], record = self.network.forward(features, keep)
            if keep:
                blocks.append((part, cells, record))
        padding = self.settings.rgb_padding
        colours = outputs[1:].sigmoid_()
        if padding:
            colours.mul_(1 + 2 * padding).sub_(padding)
        looked = Looked(outputs, kept, n_points, blocks)
        if kept is not None:
            everywhere = outputs.new_zeros(len(outputs), n_points)
            everywhere[0] = -torch.inf
            outputs = everywhere.index_copy_(1, kept, outputs)
        return outputs, looked

    def _blocks(self, n_points: int) -> Iterator[slice]:
        """Equal parts that are looked up at once."""
        most = max(1, BLOCK_TAPS // (12 * len(self.layout.sides))) * torch.get_num_threads()
        return equal_parts(n_points, most)

    def _kept(self, unit: Tensor, alive: Tensor | None) -> Tensor | None:
        if self.settings.outside == "empty":
            inside = (unit.abs() > 1).any(0).logical_not_()
            alive = inside if alive is None else alive & inside
        if self.occupancy is not None:
            full = occupied(self.occupancy, unit.t())
            alive = full if alive is None else alive & full
        if alive is None or bool(alive.all()):
            return None
        return alive.nonzero()[:, 0]

    def look_backward(self, looked: Looked, d_outputs: Tensor) -> Tensor | None:
        """Collect the gradients of one block; returns that of the points (3, M) if wanted.

        ``d_outputs`` (1 + K, M) belongs to what `look` gave and is overwritten.
        """
        if looked.kept is not None:
            d_outputs = d_outputs.index_select(1, looked.kept)
        padding = self.settings.rgb_padding
        colours = looked.outputs[1:]
        slope = (1 + padding - colours).mul_(colours + padding if padding else colours)
        d_outputs[1:].mul_(slope)
        if padding:
            d_outputs[1:].div_(1 + 2 * padding)
        d_unit = d_outputs.new_empty(3, d_outputs.shape[1]) if self.wants_points else None
        for part, cells, record in looked.blocks:
            grad = self.network.backward(d_outputs[:, part], record)
            if self.wants_rows:
                self.waiting.append((cells, grad))
            if d_unit is not None:
                d_unit[:, part] = point_gradient(
                    self.rows, cells, grad, self.layout, self.per_plane
                )
        least, most = GROUPED_POINTS
        enough = min(max(least, 2 * self.layout.n_rows), most)
        if sum(len(grad) for _, grad in self.waiting) >= enough:
            self._group()
        if d_unit is not None and looked.kept is not None:
            everywhere = d_unit.new_zeros(3, looked.n_points)
            d_unit = everywhere.index_copy_(1, looked.kept, d_unit)
        return d_unit

    def _group(self) -> None:
        """Turn the gradients that wait into those of the rows."""
        if not self.waiting:
            return
        cells = Cells(
            *(torch.cat(parts, -1) for parts in zip(*(c for c, _ in self.waiting), strict=True))
        )
        grad = torch.cat([grad for _, grad in self.waiting])
        self.waiting = []
        d_rows = texel_gradient(cells, grad, self.layout, self.per_plane)
        self.d_rows = d_rows if self.d_rows is None else self.d_rows.add_(d_rows)

    def finish(self) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients of the levels, and of the first layer's tensors if it is folded."""
        self._group()
        first = [x for x in self.first if x is not None]
        d_levels, d_first = [], [torch.zeros_like(x) for x in first]
        for i, level in enumerate(self.levels):
            if self.d_rows is None:
                d_levels.append(torch.zeros_like(level))
                continue
            sources = [x.detach().requires_grad_() for x in (level, *first)]
            with torch.enable_grad():
                rows = self._rows(sources[0], *(*sources[1:], None, None)[:2])
            start, end = self.layout.starts[i : i + 2]
            d_level, *found = torch.autograd.grad(rows, sources, self.d_rows[start:end])
            d_levels.append(d_level)
            for total, part in zip(d_first, found, strict=True):
                total += part
        return d_levels, d_first
