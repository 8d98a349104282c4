"""A typical call that launch choices are measured on: made up here, never a user's tensors.

Two objects seen by a camera each; as many of their rays as a call's chunk has, so that memory is
bounded as a call's is, and launches are as large.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..settings import RenderSettings
from ..types import Decoder
from .field import FieldPlan, FusedField
from .launch import FieldInputs, Records, Samples, differentiate, evaluate
from .launch_first import differentiate_points, scatter_first, unfold_gradient
from .triton_path import Call, Rays, make_chunk, split_rays
from .tuned import FieldKey
from .tuning import Tuning

Step = Callable[[], object]
"""Launches some kernels."""
FirstLayer = tuple[
    Samples, Records, Tensor | None, Tensor, Tensor, FieldInputs, RenderSettings, str
]

OBJECTS = 2
DISTANCE, FOV = 2.7, math.radians(40)
"""Of a camera that sees all of a box of half side 1."""
MAX_SIDE = 256
"""Larger planes are measured as planes of this side."""


class Size(NamedTuple):
    """How much is measured."""

    picture: int = 128  # rays across and down
    samples: int = 64  # along a ray


class Trial:
    """Inputs for one field, and the work that a stage's choices differ in."""

    def __init__(
        self,
        device: torch.device,
        key: FieldKey,
        sides: tuple[int, ...],
        size: Size,
        default: Tuning,
    ) -> None:
        self.device, self.key, self.size, self.default = device, key, size, default
        self.settings = RenderSettings(n_samples=size.samples, reduction=key.reduction)  # type: ignore[arg-type]
        generator = torch.Generator("cpu").manual_seed(0)

        def normal(*shape: int) -> Tensor:
            made = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
            return made.to(device)

        shape, planes = key.shape, OBJECTS * 3
        widths = [shape.channels * shape.blocks, *shape.widths]
        self.levels = tuple(
            normal(planes, shape.channels, side, side).unflatten(0, (OBJECTS, 3))
            for side in (min(side, MAX_SIDE) for side in sides)
        )
        # Variance stays about what it is from layer to layer.
        weights = [normal(b, a) * math.sqrt(2 / a) for a, b in itertools.pairwise(widths)]
        self.decoder = Decoder(weights, [0.1 * normal(b) for b in widths[1:]], key.activation)
        self.rays = camera_rays(size.picture, device)
        self.shared: dict[tuple[bool, int], FusedField] = {}
        self.forward_samples = self.middle_chunk(backward=False)
        self.samples = self.middle_chunk(backward=True)
        count, field = self.samples.count, self.field(default)
        self.d_raw, self.d_rgb = normal(count), normal(count, shape.widths[-1] - 1)
        self.records, self.grad = field.records(self.samples), None
        if shape.n_layers > 1:
            self.grad = normal(count, shape.width).to(field.inputs.decoder.weights.dtype)

    def field(self, tuning: Tuning, *, backward: bool = True) -> FusedField:
        """The field with a choice; its sums are zero."""
        plan = FieldPlan(self.settings, self.key.precision, False, backward, backward)
        return FusedField(plan, self.levels, self.decoder, None, tuning)

    def middle_chunk(self, *, backward: bool) -> Samples:
        """As many rays as a chunk has, from the middle of the pictures."""
        rays, field = self.rays, self.field(self.default, backward=backward)
        call = Call(field.plan, self.key.activation, self.size.picture**2)
        length = split_rays(len(rays.rays_o), self.size.samples, call, field, backward)[0].stop
        start = max(0, call.rays_per_object - length) // 2
        start -= start % 4
        return make_chunk(call, rays, slice(start, start + length)).samples

    def prepare(self, stage: str, tuning: Tuning) -> tuple[FusedField, Samples]:
        """The field with a choice, and samples such that the stage's kernels serve them."""
        if stage == "forward":
            return self.field(tuning, backward=False), self.forward_samples
        if stage == "taps":
            tuning = tuning._replace(window_warps=0)
        rows = stage == "rows"
        return self.field(tuning), self.samples._replace(picture_width=0) if rows else self.samples

    def results(self, stage: str, tuning: Tuning) -> list[Tensor]:
        """Raw density and colours, and in stages of the backward pass all gradients."""
        field, samples = self.prepare(stage, tuning)
        records = field.records(samples, cuts=stage != "forward")
        found = [records.raw, records.rgb]
        if stage != "forward":
            field.backward(samples, records, self.d_raw, self.d_rgb)
            gradients = field.gradients()
            every = (*gradients.levels, *gradients.weights, *gradients.biases)
            found += [gradient for gradient in every if gradient is not None]
            found.append(differentiate_points(*self.first_layer(field, samples)))
        return found

    def step(self, stage: str, tuning: Tuning) -> Step:
        """The launches that a stage's choices are timed by."""
        field, samples = self.prepare(stage, tuning)
        # Steps wait in memory for each other: one copy of planes and sums serves them all.
        shared = self.shared.setdefault((stage == "forward", tuning.group_programs), field)
        field.inputs, field.sums = shared.inputs._replace(tuning=field.inputs.tuning), shared.sums
        if stage == "forward":
            return lambda: field.records(samples)
        if stage == "training":
            return lambda: field.records(samples, cuts=True)
        if stage == "layers":
            return lambda: self.layers(field)
        if stage == "points":
            return lambda: differentiate_points(*self.first_layer(field, samples))
        if stage == "fold":
            return lambda: self.fold(field)
        return lambda: scatter_first(*self.first_layer(field, samples), field.sums, exact=False)

    def layers(self, field: FusedField) -> None:
        """All layers but the first, there and back."""
        inputs, precision = field.inputs, self.key.precision
        differentiate(
            self.samples,
            evaluate(self.samples, inputs, self.settings, precision, cuts=True),
            self.d_raw,
            self.d_rgb,
            inputs,
            self.settings,
            precision,
            field.sums._replace(folded=None),
            need_points=False,
            exact=False,
        )

    def first_layer(self, field: FusedField, samples: Samples) -> FirstLayer:
        """What the backward pass of the first layer and the lookup begins with."""
        given = (self.d_raw, self.d_rgb, field.inputs, self.settings, self.key.precision)
        return samples, self.records, self.grad, *given

    def fold(self, field: FusedField) -> None:
        """From the gradient of the folded texels to planes and weight."""
        folded, precision = field.sums.folded, self.key.precision
        assert folded is not None
        unfold_gradient(folded, field.inputs, self.settings, precision, planes=True, weights=True)


def camera_rays(side: int, device: torch.device) -> Rays:
    """Rays of ``side`` x ``side`` pictures, row by row, one of each object."""
    pixels = (torch.arange(side, dtype=torch.float32, device="cpu") + 0.5) / side * 2 - 1
    down, across = torch.meshgrid(pixels, pixels, indexing="ij")
    slope = math.tan(FOV / 2)
    vector = functools.partial(torch.tensor, dtype=torch.float32, device="cpu")
    origins, directions = [], []
    for azimuth in (0.4, 2.0):
        # The camera stands at the azimuth, a little above, and looks at the middle.
        back = vector([math.cos(azimuth), math.sin(azimuth), 0.4])
        back = torch.nn.functional.normalize(back, dim=0)
        right = vector([-math.sin(azimuth), math.cos(azimuth), 0.0])
        up = torch.linalg.cross(back, right)
        towards = slope * (across[..., None] * right - down[..., None] * up) - back
        directions.append(torch.nn.functional.normalize(towards, dim=-1).flatten(0, 1))
        origins.append((DISTANCE * back).expand(side * side, 3))
    rays_o, rays_d = (torch.cat(parts).contiguous().to(device) for parts in (origins, directions))
    return Rays(rays_o, rays_d, None, None, side)
