"""A field as the arguments of an operator, and its gradients as an operator's results.

Operators take lists of tensors; autograd functions take them one by one. `FieldLayout` goes from
one to the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..common.operators import separate
from ..common.settings_arguments import (
    SCHEMA,
    SettingsArguments,
    pack_settings,
    unpack_settings,
)
from ..settings import RenderSettings
from ..types import Decoder
from .field import Field, FieldPlan
from .triton_path import Call, FieldTensors

FIELD_SCHEMA = f"Tensor[] levels, Tensor[] weights, Tensor?[] biases, {SCHEMA}, str activation, "
FIELD_SCHEMA += "str precision, bool deterministic"


class FieldArguments(NamedTuple):
    """What `FIELD_SCHEMA` names."""

    levels: Sequence[Tensor]
    weights: Sequence[Tensor]
    biases: Sequence[Tensor | None]
    words: str
    counts: list[int]
    numbers: list[float]
    activation: str
    precision: str
    deterministic: bool

    @property
    def settings(self) -> RenderSettings:
        return unpack_settings(self.words, self.counts, self.numbers)

    def call(
        self,
        rays_per_object: int,
        needs: Sequence[bool] = (False, False, False),
        per_sample: bool = False,
    ) -> Call:
        """The call; ``needs`` are those of planes, decoder and positions."""
        plan = FieldPlan(self.settings, self.precision, self.deterministic, *needs)
        return Call(plan, self.activation, rays_per_object, per_sample)

    def tensors(self, occupancy: Tensor | None = None) -> FieldTensors:
        return FieldTensors(self.levels, self.weights, self.biases, occupancy)


def field_arguments(
    levels: tuple[Tensor, ...],
    decoder: Decoder,
    settings: RenderSettings,
    precision: str,
    deterministic: bool | None,
) -> FieldArguments:
    """Settle what is left to "auto" while the caller's autocast state is in force."""
    if precision == "auto":
        half = levels[0].dtype == torch.bfloat16
        half = half or torch.is_autocast_enabled(levels[0].device.type)
        precision = "bf16" if half else "tf32"
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    words, counts, numbers = pack_settings(settings, decoder.n_colours)
    return FieldArguments(
        levels,
        decoder.weights,
        decoder.biases,
        words,
        counts,
        numbers,
        decoder.activation,
        precision,
        bool(deterministic),
    )


def field_gradients(field: Field, plan: FieldPlan) -> list[Tensor]:
    """The sums that the plan asks for: levels, then weights, then the biases that there are."""
    sums = field.gradients()
    results = []
    if plan.planes:
        results += separate([x for x in sums.levels if x is not None])
    if plan.decoder:
        parts = [x for x in (*sums.weights, *sums.biases) if x is not None]
        results += separate([x.contiguous() for x in parts])
    return results


def field_gradients_fake(arguments: FieldArguments, needs: Sequence[bool]) -> list[Tensor]:
    """Planes' gradients lie channel-last in memory, as the kernels sum them up."""
    planes, decoder, _ = needs
    results = []
    if planes:
        for level in arguments.levels:
            batch, three, channels, height, width = level.shape
            last = level.new_empty((batch, three, height, width, channels))
            results.append(last.permute(0, 1, 4, 2, 3))
    if decoder:
        parts = (*arguments.weights, *arguments.biases)
        results += [x.new_empty(x.shape) for x in parts if x is not None]
    return results


def spread_gradients(
    gradients: Sequence[Tensor], arguments: FieldArguments, needs: Sequence[bool]
) -> list[Tensor | None]:
    """The list of `field_gradients` with a place for every level, weight and bias."""
    planes, decoder, _ = needs
    rest = iter(gradients)
    levels = [next(rest) if planes else None for _ in arguments.levels]
    parameters = (*arguments.weights, *arguments.biases)
    return [*levels, *(next(rest) if decoder and p is not None else None for p in parameters)]


class FieldLayout(NamedTuple):
    """How the field's arguments are spread over an autograd function's."""

    n_levels: int
    n_layers: int
    settings: SettingsArguments
    activation: str
    precision: str
    deterministic: bool

    def gather(self, tensors: Sequence[Any]) -> FieldArguments:
        """The operator's arguments again."""
        end = self.n_levels + self.n_layers
        levels, weights, biases = (
            tensors[: self.n_levels],
            tensors[self.n_levels : end],
            tensors[end:],
        )
        return FieldArguments(levels, weights, biases, *self.settings, *self[3:])

    def needs(self, wanted: Sequence[bool], positions: bool) -> list[bool]:
        """Whether gradients are wanted of planes, decoder and positions."""
        return [any(wanted[: self.n_levels]), any(wanted[self.n_levels :]), positions]


def spread(arguments: FieldArguments) -> tuple[FieldLayout, list[Tensor | None]]:
    """The layout of a field's arguments, and its tensors one after the other."""
    levels, weights, biases, words, counts, numbers = arguments[:6]
    settings = (words, counts, numbers)
    layout = FieldLayout(len(levels), len(weights), settings, *arguments[6:])
    return layout, [*levels, *weights, *biases]
