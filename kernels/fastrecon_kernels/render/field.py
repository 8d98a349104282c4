"""The field as the Triton path uses it: values at samples, gradients summed over chunks.

A field is made from a call's tensors, once for the forward pass and again for the backward pass.
`FusedField` runs the whole decoder in kernels; `layered.py` has the one for wider decoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..common.backend import interpreting
from ..common.texels import pack_texels, unpack_gradient
from ..settings import RenderSettings
from ..types import Decoder
from .launch import FieldInputs, Records, Samples, Sums, differentiate, evaluate
from .launch_first import unfold_gradient
from .pack import pack_decoder, unpack_gradients
from .skip import seen_records
from .tuned import FieldKey, tuning_for
from .tuning import Tuning, first_programs, groups, n_programs


@dataclass(frozen=True)
class FieldPlan:
    """How a field computes, and which gradients its backward pass sums."""

    settings: RenderSettings
    precision: str  # "bf16" | "tf32" | "fp32"
    deterministic: bool
    planes: bool = False
    decoder: bool = False
    positions: bool = False


class FieldGradients:
    """Gradients in the shape and dtype of the tensors they belong to; None if not asked for."""

    def __init__(
        self,
        levels: Sequence[Tensor | None],
        weights: Sequence[Tensor | None],
        biases: Sequence[Tensor | None],
    ) -> None:
        self.levels, self.weights, self.biases = levels, weights, biases


class Field(Protocol):
    """What the chunk loop needs."""

    one_object: bool
    """Whether a chunk of samples must not reach from one object into the next."""

    def sample_bytes(self, backward: bool) -> int:
        """Bytes of buffers per sample in flight."""
        ...

    def records(self, samples: Samples, *, cuts: bool = False) -> Records:
        """Raw density and colour; with ``cuts`` also what `backward` needs."""
        ...

    def seen_records(
        self, samples: Samples, deltas: Tensor | None, chord: Tensor | None, *, stop: bool
    ) -> Records:
        """`records` along rays, free to call empty what adds nothing; see `skip.seen_records`."""
        ...

    def backward(
        self, samples: Samples, records: Records, d_raw: Tensor, d_rgb: Tensor
    ) -> Tensor | None:
        """Add up gradients; returns those of the positions (M, 3), in scene units, if needed."""
        ...

    def gradients(self) -> FieldGradients:
        """The sums over all calls of `backward`, once."""
        ...


class FusedField:
    """The kernels of `launch.py` on packed tensors; ``tuning``: None, or not the kept choice."""

    one_object = False

    def __init__(
        self,
        plan: FieldPlan,
        levels: tuple[Tensor, ...],
        decoder: Decoder,
        occupancy: Tensor | None,
        tuning: Tuning | None = None,
    ) -> None:
        self.plan, self.levels, self.decoder = plan, levels, decoder
        half = plan.precision == "bf16"
        # The interpreter gets bf16 products wrong; it multiplies in fp32.
        product = torch.bfloat16 if half and not interpreting() else torch.float32
        texels = pack_texels(levels, torch.bfloat16 if half else levels[0].dtype)
        packed = pack_decoder(decoder, levels[0].shape[2], product)
        sizes = tuple((level.shape[3], level.shape[4]) for level in levels)
        device = levels[0].device
        if tuning is None:
            reduction = plan.settings.reduction
            key = FieldKey(packed.shape, len(levels), reduction, decoder.activation, plan.precision)
            sides = tuple(max(size) for size in sizes)
            tuning = tuning_for(device, key, sides, plan.planes or plan.decoder or plan.positions)
        self.inputs = FieldInputs(texels, packed, occupancy, sizes, tuning)

        def zeros(wanted: bool, *size: int) -> Tensor | None:
            return torch.zeros(size, dtype=torch.float32, device=device) if wanted else None

        shape, programs = packed.shape, n_programs(device, tuning.group_programs)
        self.sums = Sums(
            zeros(plan.decoder, programs, shape.n_weights - shape.weight_offset(1)),
            zeros(plan.decoder, programs, shape.n_biases),
            zeros(plan.decoder and shape.n_layers == 1, 3, first_programs(device), shape.width),
            zeros(plan.planes or plan.decoder, texels.rows.shape[0], shape.width),
        )

    def sample_bytes(self, backward: bool) -> int:
        shape = self.inputs.decoder.shape
        record = 4 * shape.widths[-1]
        if not backward:
            return record + (4 if self.may_skip else 0)
        cut = shape.width * self.inputs.decoder.weights.element_size()
        # 12 for what windows leave of a sample on each plane.
        total = 2 * record + (len(groups(shape, self.inputs.tuning)) + 1) * cut + 12
        if self.plan.positions:
            total += 12 * (3 + 1)
        return total

    def records(self, samples: Samples, *, cuts: bool = False) -> Records:
        return evaluate(samples, self.inputs, self.plan.settings, self.plan.precision, cuts=cuts)

    @property
    def may_skip(self) -> bool:
        """Whether anything says which samples add nothing."""
        return self.inputs.occupancy is not None or self.plan.settings.early_stop > 0

    def seen_records(
        self, samples: Samples, deltas: Tensor | None, chord: Tensor | None, *, stop: bool
    ) -> Records:
        settings, precision = self.plan.settings, self.plan.precision
        if not (self.may_skip and (stop or self.inputs.occupancy is not None)):
            return self.records(samples)
        return seen_records(samples, deltas, chord, self.inputs, settings, precision, stop=stop)

    def backward(
        self, samples: Samples, records: Records, d_raw: Tensor, d_rgb: Tensor
    ) -> Tensor | None:
        return differentiate(
            samples,
            records,
            d_raw,
            d_rgb,
            self.inputs,
            self.plan.settings,
            self.plan.precision,
            self.sums,
            need_points=self.plan.positions,
            exact=self.plan.deterministic,
        )

    def decoder_sums(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the packed weights, ``first`` being the first layer's, and of biases."""
        sums = self.sums
        assert sums.weights is not None
        assert sums.biases is not None
        biases = sums.biases.sum(0) if sums.only is None else sums.only.sum((0, 1))
        return torch.cat([first, sums.weights.sum(0)]), biases

    def gradients(self) -> FieldGradients:
        plan, n_layers = self.plan, len(self.decoder.weights)
        d_levels: Sequence[Tensor | None] = [None] * len(self.levels)
        d_weights: list[Tensor | None] = [None] * n_layers
        d_biases: list[Tensor | None] = [None] * n_layers
        if self.sums.folded is None:
            return FieldGradients(d_levels, d_weights, d_biases)
        d_rows, first = unfold_gradient(
            self.sums.folded,
            self.inputs,
            plan.settings,
            plan.precision,
            planes=plan.planes,
            weights=plan.decoder,
        )
        self.sums = self.sums._replace(folded=None)
        if d_rows is not None:
            d_levels = unpack_gradient(d_rows, self.levels)
        if first is not None:
            weights, biases = unpack_gradients(*self.decoder_sums(first), self.inputs.decoder.shape)
            for i, (weight, bias) in enumerate(
                zip(self.decoder.weights, self.decoder.biases, strict=True)
            ):
                d_weights[i] = weights[i].to(weight.dtype)
                d_biases[i] = None if bias is None else biases[i].to(bias.dtype)
        return FieldGradients(d_levels, d_weights, d_biases)
