"""The field of decoders that are too wide for the kernels: torch's matrix products per layer.

Planes are read by the sampling kernels and pixels made by the compositing kernels as in the fused
path; in between, a chunk's activations go through memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.lookup_kernel import sample_levels_triton
from ..multires_lookup import sample_multires_reference
from ..types import Decoder
from .field import FieldGradients, FieldPlan
from .launch import Records, Samples
from .reference import ACTIVATE, mask_empty


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
        self.d_levels = [_sum_of(level) if plan.planes else None for level in levels]
        parameters = [*decoder.weights, *decoder.biases]
        self.d_parameters = [
            _sum_of(p) if plan.decoder and p is not None else None for p in parameters
        ]

    def sample_bytes(self, backward: bool) -> int:
        widths = [self.decoder.n_features, *(w.shape[0] for w in self.decoder.weights)]
        # fp32: every layer's result and activation for the backward pass, two of them otherwise.
        return 4 * (3 * sum(widths) if backward else 4 * max(widths))

    def records(self, samples: Samples, *, cuts: bool = False) -> Records:
        if not samples.count:
            raw = torch.zeros(0, dtype=torch.float32, device=samples.rays_o.device)
            return Records(raw, raw.view(0, 1).expand(0, self.decoder.n_colours), None)
        b = samples.first_ray // samples.rays_per_object
        with torch.no_grad():
            raw, rgb = self.look(samples.positions(), self.level(b), self.decoder, b)
        return Records(raw, rgb, None)

    def backward(
        self, samples: Samples, records: Records, d_raw: Tensor, d_rgb: Tensor
    ) -> Tensor | None:
        b = samples.first_ray // samples.rays_per_object
        plan, n_layers = self.plan, len(self.decoder.weights)
        points = samples.positions().detach().requires_grad_(plan.positions)
        levels = [level.detach().requires_grad_(plan.planes) for level in self.level(b)]
        parameters = [
            None if p is None else p.detach().float().requires_grad_(plan.decoder)
            for p in (*self.decoder.weights, *self.decoder.biases)
        ]
        weights = [p for p in parameters[:n_layers] if p is not None]
        decoder = Decoder(weights, parameters[n_layers:], self.decoder.activation)
        with torch.enable_grad():
            raw, rgb = self.look(points, tuple(levels), decoder, b)
        sums = [None if total is None else total[b : b + 1] for total in self.d_levels]
        sums += self.d_parameters
        wanted = [
            (leaf, total)
            for leaf, total in zip([*levels, *parameters], sums, strict=True)
            if leaf is not None and total is not None
        ]
        leaves = [leaf for leaf, _ in wanted] + ([points] if plan.positions else [])
        grads = torch.autograd.grad([raw, rgb], leaves, [d_raw, d_rgb])
        for (_, total), grad in zip(wanted, grads, strict=False):
            total += grad
        return grads[-1] if plan.positions else None

    def gradients(self) -> FieldGradients:
        n_layers = len(self.decoder.weights)
        tensors = [*self.levels, *self.decoder.weights, *self.decoder.biases]
        cast = [
            None if total is None or tensor is None else total.to(tensor.dtype)
            for total, tensor in zip([*self.d_levels, *self.d_parameters], tensors, strict=True)
        ]
        split = len(self.levels)
        return FieldGradients(
            cast[:split], cast[split : split + n_layers], cast[split + n_layers :]
        )

    def level(self, b: int) -> tuple[Tensor, ...]:
        """The levels of one object, in fp32, so that their gradients add up without rounding."""
        return tuple(level[b : b + 1].float() for level in self.levels)

    def look(
        self, points: Tensor, levels: tuple[Tensor, ...], decoder: Decoder, b: int
    ) -> tuple[Tensor, Tensor]:
        """Raw density (M,) and colours (M, K) at points (M, 3) in scene units."""
        settings = self.plan.settings
        unit = points / settings.radius
        # The reference's gradient is a sorted sum on a GPU, the kernels' one is not.
        lookup = sample_multires_reference if self.plan.deterministic else sample_levels_triton
        x = lookup(levels, unit[None], settings.axes, settings.reduction)[0]
        dtype = torch.bfloat16 if self.plan.precision == "bf16" else torch.float32
        last = len(decoder.weights) - 1
        for i, (weight, bias) in enumerate(zip(decoder.weights, decoder.biases, strict=True)):
            kind = dtype if i < last else torch.float32
            bias = None if bias is None else bias.to(kind)
            x = F.linear(x.to(kind), weight.to(kind), bias)
            if i < last:
                x = ACTIVATE[decoder.activation](x)
        padding = settings.rgb_padding
        rgb = x[:, 1:].sigmoid() * (1 + 2 * padding) - padding
        cells = None if self.occupancy is None else self.occupancy[b]
        return mask_empty(x[:, 0], rgb, unit, settings, cells)


def _sum_of(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, dtype=torch.float32, memory_format=torch.contiguous_format)
