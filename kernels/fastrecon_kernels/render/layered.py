"""The field of decoders that are too wide for the kernels: torch's matrix products per layer.

Planes are read by the sampling kernels and pixels made by the compositing kernels as in the fused
path; in between, a chunk's activations go through memory. The backward pass is written out, since
autograd cannot run inside an operator.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.lookup_launch import look_up, look_up_backward
from ..common.texels import Texels, pack_texels, unpack_gradient
from ..types import Decoder
from .field import FieldGradients, FieldPlan
from .launch import Records, Samples
from .reference import ACTIVATE, mask_empty
from .scatter import scatter_features


class Kept(NamedTuple):
    """What the backward pass of a chunk needs of its forward pass."""

    unit: Tensor  # (M, 3) positions with the box at [-1, 1]
    inputs: list[Tensor]  # (M, in) of each layer, in the type of its product
    outputs: list[Tensor]  # (M, out) of each layer but the last, before its activation


class LayeredField:
    """Sampling kernels, then one matrix product per layer."""

    one_object = True

    def __init__(
        self,
        plan: FieldPlan,
        levels: tuple[Tensor, ...],
        decoder: Decoder,
        occupancy: Tensor | None,
    ) -> None:
        self.plan, self.levels, self.decoder, self.occupancy = plan, levels, decoder, occupancy
        self.texels = pack_texels(levels, levels[0].dtype)
        height, width, first = self.texels.table.unbind(1)
        zero = torch.zeros_like(first)
        self.next_object = torch.stack([zero, zero, 3 * height * width], 1)
        half = torch.bfloat16 if plan.precision == "bf16" else torch.float32
        kinds = [half] * (len(decoder.weights) - 1) + [torch.float32]
        self.weights = [w.to(kind) for w, kind in zip(decoder.weights, kinds, strict=True)]
        self.biases = [
            None if b is None else b.to(kind) for b, kind in zip(decoder.biases, kinds, strict=True)
        ]
        rows = self.texels.rows
        self.d_rows = torch.zeros_like(rows, dtype=torch.float32) if plan.planes else None
        self.d_weights = [_sum_of(w) if plan.decoder else None for w in decoder.weights]
        self.d_biases = [
            _sum_of(b) if plan.decoder and b is not None else None for b in decoder.biases
        ]
        self.kept: Kept | None = None

    def sample_bytes(self, backward: bool) -> int:
        widths = [self.decoder.n_features, *(w.shape[0] for w in self.decoder.weights)]
        # fp32: every layer's result and activation for the backward pass, two of them otherwise.
        return 4 * (3 * sum(widths) if backward else 4 * max(widths))

    def records(self, samples: Samples, *, cuts: bool = False) -> Records:
        if not samples.count:
            raw = torch.zeros(0, dtype=torch.float32, device=samples.rays_o.device)
            return Records(raw, raw.new_zeros(0, self.decoder.n_colours), None)
        settings, b = self.plan.settings, samples.first_ray // samples.rays_per_object
        unit = samples.positions() / settings.radius
        points = unit.view(1, -1, samples.per_ray, 3)
        x = look_up(self.object_texels(b), points, settings.axes, settings.reduction).flatten(0, 2)
        inputs, outputs = [], []
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x.to(weight.dtype)
            if cuts:
                inputs.append(x)
            x = F.linear(x, weight, bias)
            if i + 1 < len(self.weights):
                if cuts:
                    outputs.append(x.clone())
                x = ACTIVATE[self.decoder.activation](x)
        padding = settings.rgb_padding
        rgb = x[:, 1:].sigmoid() * (1 + 2 * padding) - padding
        self.kept = Kept(unit, inputs, outputs) if cuts else None
        cells = None if self.occupancy is None else self.occupancy[b]
        return Records(*mask_empty(x[:, 0], rgb, unit, settings, cells), None)

    def seen_records(
        self, samples: Samples, deltas: Tensor | None, chord: Tensor | None, *, stop: bool
    ) -> Records:
        """All of them: to leave some out, the host would have to wait for their number."""
        return self.records(samples)

    def backward(
        self, samples: Samples, records: Records, d_raw: Tensor, d_rgb: Tensor
    ) -> Tensor | None:
        assert self.kept is not None
        unit, inputs, outputs = self.kept
        self.kept = None
        padded = 1 + 2 * self.plan.settings.rgb_padding
        share = (records.rgb + self.plan.settings.rgb_padding) / padded
        grad = torch.cat([d_raw[:, None], d_rgb * padded * share * (1 - share)], 1)
        grad = grad.masked_fill((records.raw == -torch.inf)[:, None], 0)
        for i in reversed(range(len(self.weights))):
            d_weight, d_bias = self.d_weights[i], self.d_biases[i]
            if d_weight is not None:
                d_weight += grad.t() @ inputs[i]
            if d_bias is not None:
                d_bias += grad.sum(0, dtype=torch.float32)
            if i == 0 and not (self.plan.planes or self.plan.positions):
                return None
            grad = grad @ self.weights[i]
            if i:
                before = outputs[i - 1]
                grad = _through_activation(grad.to(before.dtype), before, self.decoder.activation)
        return self._scatter(samples, unit, grad.float())

    def _scatter(self, samples: Samples, unit: Tensor, d_features: Tensor) -> Tensor | None:
        """Gradients of the planes, added up, and of the positions (M, 3), from the features'."""
        settings, b = self.plan.settings, samples.first_ray // samples.rays_per_object
        sorted_sum = self.plan.deterministic and self.d_rows is not None
        if sorted_sum:
            assert self.d_rows is not None
            scale = 1 / 3 if settings.reduction == "mean" else 1
            objects = torch.full((len(unit),), b, dtype=torch.int64, device=unit.device)
            scatter_features(
                self.d_rows, d_features * scale, unit, objects, settings.axes, self.levels
            )
        d_rows = None if sorted_sum else self.d_rows
        if d_rows is None and not self.plan.positions:
            return None
        d_unit = look_up_backward(
            self.object_texels(b),
            unit.view(1, -1, samples.per_ray, 3),
            d_features,
            settings.axes,
            settings.reduction,
            d_rows,
            self.plan.positions,
        )
        return None if d_unit is None else d_unit.flatten(0, 2) / settings.radius

    def gradients(self) -> FieldGradients:
        d_levels: list[Tensor | None] = [None] * len(self.levels)
        if self.d_rows is not None:
            d_levels = list(unpack_gradient(self.d_rows, self.levels))
        cast = [
            None if total is None or tensor is None else total.to(tensor.dtype)
            for total, tensor in zip(
                [*self.d_weights, *self.d_biases],
                [*self.decoder.weights, *self.decoder.biases],
                strict=True,
            )
        ]
        split = len(self.weights)
        return FieldGradients(d_levels, cast[:split], cast[split:])

    def object_texels(self, b: int) -> Texels:
        """The table as one object's kernels read it: object 0 is object b."""
        table = torch.add(self.texels.table, self.next_object, alpha=b)
        return self.texels._replace(table=table)


def _through_activation(grad: Tensor, before: Tensor, activation: str) -> Tensor:
    """Gradient before an activation from that behind it, and from its argument."""
    if activation == "silu":
        return torch.ops.aten.silu_backward(grad, before)
    if activation == "relu":
        return torch.ops.aten.threshold_backward(grad, before, 0)
    return torch.ops.aten.softplus_backward(grad, before, 1, 20)


def _sum_of(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, dtype=torch.float32, memory_format=torch.contiguous_format)
