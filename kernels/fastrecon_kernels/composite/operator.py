"""The operator behind `composite`: the kernels on flat records, which are all that is kept."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..common.operators import below_autograd, register
from ..common.settings_arguments import (
    SCHEMA,
    SettingsArguments,
    pack_settings,
    unpack_settings,
)
from ..settings import RenderSettings
from ..types import RaySamples, Rendering
from .launch import composite_backward, composite_forward


def _forward(
    raw: Tensor,
    rgbs: Tensor,
    ts: Tensor,
    deltas: Tensor | None,
    depth_prior: Tensor | None,
    words: str,
    counts: list[int],
    numbers: list[float],
    per_sample: bool,
) -> list[Tensor]:
    settings = unpack_settings(words, counts, numbers)
    out = composite_forward(raw, rgbs, ts, deltas, settings, depth_prior, per_sample)
    return [out.rgb, out.opacity, out.depth, *(out.samples or ())]


def _forward_fake(
    raw: Tensor,
    rgbs: Tensor,
    ts: Tensor,
    deltas: Tensor | None,
    depth_prior: Tensor | None,
    words: str,
    counts: list[int],
    numbers: list[float],
    per_sample: bool,
) -> list[Tensor]:
    n_rays, n_samples, n_colours = rgbs.shape
    midpoint = unpack_settings(words, counts, numbers).quadrature == "midpoint"
    shapes = [(n_rays, n_colours), (n_rays,), (n_rays,)]
    if per_sample:
        shapes += [(n_rays, n_samples - 1 if midpoint else n_samples)] * 3
    return [raw.new_empty(shape, dtype=torch.float32) for shape in shapes]


def _backward(
    grads: list[Tensor | None],
    raw: Tensor,
    rgbs: Tensor,
    ts: Tensor,
    deltas: Tensor | None,
    depth_prior: Tensor | None,
    opacity: Tensor,
    depth: Tensor,
    words: str,
    counts: list[int],
    numbers: list[float],
) -> tuple[Tensor, Tensor]:
    settings = unpack_settings(words, counts, numbers)
    d_rgb, d_opacity, d_depth, d_weights = grads
    return composite_backward(
        d_rgb,
        d_opacity,
        d_depth,
        d_weights,
        raw,
        rgbs,
        ts,
        deltas,
        settings,
        opacity,
        depth,
        depth_prior,
    )


def _backward_fake(
    grads: list[Tensor | None], raw: Tensor, rgbs: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return raw.new_empty(raw.shape), rgbs.new_empty(rgbs.shape)


class Composite(torch.autograd.Function):
    """`forward` with its gradients; the per-sample positions and lengths have none."""

    @staticmethod
    def forward(
        ctx: Any,
        raw: Tensor,
        rgbs: Tensor,
        ts: Tensor,
        deltas: Tensor | None,
        depth_prior: Tensor | None,
        settings: SettingsArguments,
        per_sample: bool,
    ) -> tuple[Tensor, ...]:
        with below_autograd():
            results = forward(raw, rgbs, ts, deltas, depth_prior, *settings, per_sample)
        ctx.save_for_backward(raw, rgbs, ts, deltas, depth_prior, *results[1:3])
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*results[4:])
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        d_raw, d_rgbs = backward([*grads, None][:4], *ctx.saved_tensors, *ctx.settings)
        return d_raw, d_rgbs, None, None, None, None, None


def _differentiate(*arguments: Any) -> list[Tensor]:
    *records, words, counts, numbers, per_sample = arguments
    results: Any = Composite.apply(*records, (words, counts, numbers), per_sample)
    return list(results)


forward = register(
    "composite(Tensor raw, Tensor rgbs, Tensor ts, Tensor? deltas, Tensor? depth_prior, "
    f"{SCHEMA}, bool per_sample) -> Tensor[]",
    _forward,
    _forward_fake,
    _differentiate,
)
backward = register(
    "composite_backward(Tensor?[] grads, Tensor raw, Tensor rgbs, Tensor ts, Tensor? deltas, "
    f"Tensor? depth_prior, Tensor opacity, Tensor depth, {SCHEMA}) -> (Tensor, Tensor)",
    _backward,
    _backward_fake,
)


def composite_triton(
    raw: Tensor,
    rgbs: Tensor,
    ts: Tensor,
    deltas: Tensor | None,
    settings: RenderSettings,
    depth_prior: Tensor | None,
    per_sample: bool,
) -> Rendering:
    """`composite_reference` on the kernels: any leading shape, differentiable."""
    *shape, n_samples = raw.shape
    n_rays, n_colours = math.prod(shape), rgbs.shape[-1]
    rgb, opacity, depth, *samples = forward(
        raw.reshape(n_rays, n_samples),
        rgbs.reshape(n_rays, n_samples, n_colours),
        ts.detach().reshape(n_rays, n_samples),
        None if deltas is None else deltas.detach().reshape(n_rays, n_samples),
        None if depth_prior is None else depth_prior.detach().reshape(n_rays),
        *pack_settings(settings, n_colours),
        per_sample,
    )
    return Rendering(
        rgb.reshape(*shape, n_colours),
        opacity.reshape(shape),
        depth.reshape(shape),
        RaySamples(*(x.reshape(*shape, x.shape[-1]) for x in samples)) if samples else None,
    )
