"""The renderer in plain PyTorch: the definition.

Sample positions come from `rays.py`, features from the sampling operators' references, pixels from
the compositing reference; here is only what lies between: the decoder, and chunks of rays that
are computed again in the backward pass, so that memory does not grow with the number of rays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..common.random import seed_tensor
from ..composite import composite_reference, half_way_deltas
from ..multires_lookup import sample_multires_reference
from ..settings import RenderSettings
from ..types import Decoder, RaySamples, Rendering
from .rays import importance_samples, place_samples, ray_range

Field = Callable[[Tensor], tuple[Tensor, Tensor]]

CHUNK_SAMPLES = 16384
"""Samples in flight on a CPU: 4k to 32k ran equally fast (bench/NOTES.md)."""
GPU_CHUNKS = 16
"""CPU chunks in one GPU chunk, which would otherwise wait for its launches."""

# The argument is always a linear layer's fresh output: where no gradient needs it, it is reused.
ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": lambda x: F.silu(x, inplace=not x.requires_grad),
    "relu": lambda x: F.relu(x, inplace=not x.requires_grad),
    "softplus": F.softplus,
}


def chunk_samples(device: torch.device) -> int:
    """Samples in flight on a device: what bounds the reference's memory."""
    return CHUNK_SAMPLES if device.type == "cpu" else GPU_CHUNKS * CHUNK_SAMPLES


def decode(features: Tensor, decoder: Decoder, settings: RenderSettings) -> tuple[Tensor, Tensor]:
    """(M, features) -> raw density (M,) and colours (M, K): ``sigmoid(x) (1 + 2 p) - p``."""
    x = features
    for i, (weight, bias) in enumerate(zip(decoder.weights, decoder.biases, strict=True)):
        x = F.linear(x if i == 0 else ACTIVATE[decoder.activation](x), weight, bias)
    padding = settings.rgb_padding
    return x[..., 0], x[..., 1:].sigmoid() * (1 + 2 * padding) - padding


def mask_empty(
    raw: Tensor, rgb: Tensor, unit: Tensor, settings: RenderSettings, occupancy: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Give empty points raw density -inf and colour 0.

    Empty is what lies out of the box under ``outside="empty"`` or in a false cell of the occupancy
    grid. ``unit`` (..., 3) are the points with the box at [-1, 1]; ``occupancy`` is (R, R, R).
    """
    empty = None
    if settings.outside == "empty":
        empty = (unit.abs() > 1).any(-1)
    if occupancy is not None:
        skipped = ~occupied(occupancy, unit)
        empty = skipped if empty is None else empty | skipped
    if empty is None:
        return raw, rgb
    return raw.masked_fill(empty, -torch.inf), rgb.masked_fill(empty[..., None], 0)


def occupied(occupancy: Tensor, unit: Tensor) -> Tensor:
    """Whether points (..., 3) lie in a true cell; there are no cells outside [-1, 1]^3."""
    resolution = occupancy.shape[0]
    x, y, z = ((unit.detach() + 1) * (resolution / 2)).floor().clamp(0, resolution - 1).unbind(-1)
    found = occupancy[x.long(), y.long(), z.long()]
    return found | (unit.detach().abs() > 1).any(-1)


def make_field(
    levels: tuple[Tensor, ...],
    decoder: Decoder,
    settings: RenderSettings,
    occupancy: Tensor | None,
) -> Field:
    """The field of one object: points (..., 3) in scene units -> raw density (...), rgb (..., K).

    levels are (1, 3, C, H, W), ``occupancy`` (R, R, R) or None.
    """

    def look(points: Tensor) -> tuple[Tensor, Tensor]:
        unit = points / settings.radius
        features = sample_multires_reference(levels, unit[None], settings.axes, settings.reduction)
        raw, rgb = decode(features[0], decoder, settings)
        return mask_empty(raw, rgb, unit, settings, occupancy)

    return look


def render_chunk(
    look: Field,
    rays_o: Tensor,
    rays_d: Tensor,
    settings: RenderSettings,
    ts: Tensor | None,
    depth_prior: Tensor | None,
    per_sample: bool,
    seed: Tensor | None,
    first_ray: int,
) -> Rendering:
    """Render rays (N, 3) of one object, whose flat indices begin at ``first_ray``."""

    def at(t: Tensor) -> tuple[Tensor, Tensor]:
        return look(rays_o[:, None] + t[..., None] * rays_d[:, None])

    near, far = ray_range(rays_o, rays_d, settings)
    if ts is not None:
        deltas = half_way_deltas(ts) if settings.quadrature == "bins" else None
        raw, rgb = at(ts)
    else:
        ts, deltas = place_samples(near, far, settings, seed, first_ray)
        raw, rgb = at(ts)
        if settings.n_importance:
            with torch.no_grad():
                exact = composite_reference(raw, rgb, ts, None, settings, per_sample=True).samples
            assert exact is not None
            fine = importance_samples(ts, exact.weights, settings, seed, first_ray)
            fine_raw, fine_rgb = at(fine)
            ts, order = torch.cat([ts, fine], 1).sort(dim=1, stable=True)
            raw = torch.cat([raw, fine_raw], 1).gather(1, order)
            colours = order[..., None].expand(-1, -1, rgb.shape[-1])
            rgb = torch.cat([rgb, fine_rgb], 1).gather(1, colours)
    bins = deltas if settings.quadrature == "bins" else None
    return composite_reference(
        raw, rgb, ts, bins, settings, depth_prior, per_sample, chord=far - near
    )


def render_rays_reference(
    levels: tuple[Tensor, ...],
    decoder: Decoder,
    rays_o: Tensor,
    rays_d: Tensor,
    settings: RenderSettings,
    *,
    ts: Tensor | None = None,
    depth_prior: Tensor | None = None,
    occupancy: Tensor | None = None,
    per_sample: bool = False,
    seed: int | Tensor | None = None,
) -> Rendering:
    """Render rays (B, N, 3) in chunks; tensors are already in the dtype to compute in."""
    batch, n_rays, _ = rays_o.shape
    n_samples = settings.n_samples + settings.n_importance if ts is None else ts.shape[-1]
    key = seed_tensor(seed, rays_o.device) if settings.stratified and ts is None else None
    recompute = _needs_gradient(*levels, *decoder.parameters, rays_o, rays_d)
    step = max(1, chunk_samples(rays_o.device) // n_samples)

    objects: list[list[Rendering]] = []
    for b in range(batch):
        cells = None if occupancy is None else occupancy[b]
        look = make_field(tuple(level[b : b + 1] for level in levels), decoder, settings, cells)
        chunks = []
        for start in range(0, max(n_rays, 1), step):
            part = slice(start, start + step)
            chunks.append(
                _run(
                    recompute,
                    render_chunk,
                    look,
                    rays_o[b, part],
                    rays_d[b, part],
                    settings,
                    None if ts is None else ts[b, part],
                    None if depth_prior is None else depth_prior[b, part],
                    per_sample,
                    key,
                    b * n_rays + start,
                )
            )
        objects.append(chunks)
    if not objects:
        inputs = [*levels, *decoder.parameters, rays_o, rays_d]
        return _nothing(inputs, decoder.n_colours, rays_o, settings, n_samples, per_sample)
    return _join(objects)


def _needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _run(recompute: bool, function: Callable[..., Any], *args: Any) -> Any:
    """Call ``function``, keeping its arguments alone for the backward pass if there is one."""
    if recompute:
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
    return function(*args)


def _graph(inputs: list[Tensor]) -> Tensor:
    """A zero that hangs on every input, so that an empty result can be differentiated too."""
    return torch.stack([x.flatten()[:0].sum() for x in inputs]).sum()


def _nothing(
    inputs: list[Tensor],
    n_colours: int,
    rays: Tensor,
    settings: RenderSettings,
    n_samples: int,
    per_sample: bool,
) -> Rendering:
    """The rendering of no objects."""
    empty = rays.new_zeros(rays.shape[:2]) + _graph(inputs)
    n_weights = n_samples - (settings.quadrature == "midpoint")
    each = rays.new_zeros(*rays.shape[:2], n_weights)
    samples = RaySamples(each, each, each) if per_sample else None
    rgb = empty[..., None].expand(*rays.shape[:2], n_colours)
    return Rendering(rgb, empty, empty, samples)


def _join(chunks: list[list[Rendering]]) -> Rendering:
    """Chunks of rays, per object, to one rendering (B, N, ...)."""

    def stack(get: Callable[[Rendering], Tensor]) -> Tensor:
        return torch.stack([torch.cat([get(chunk) for chunk in row]) for row in chunks])

    samples = None
    if chunks[0][0].samples is not None:
        samples = RaySamples(
            *(stack(lambda r, i=i: r.samples[i]) for i in range(3))  # type: ignore[index,misc]
        )
    return Rendering(
        stack(lambda r: r.rgb), stack(lambda r: r.opacity), stack(lambda r: r.depth), samples
    )


def query_points_reference(
    levels: tuple[Tensor, ...], decoder: Decoder, points: Tensor, settings: RenderSettings
) -> tuple[Tensor, Tensor]:
    """Raw density and colours at points (B, N, 3) in scene units, in chunks."""
    recompute = _needs_gradient(*levels, *decoder.parameters, points)
    raws, rgbs = [], []
    for b in range(points.shape[0]):
        look = make_field(tuple(level[b : b + 1] for level in levels), decoder, settings, None)
        chunks = points[b].split(chunk_samples(points.device))
        parts = [_run(recompute, look, chunk) for chunk in chunks]
        raws.append(torch.cat([raw for raw, _ in parts]))
        rgbs.append(torch.cat([rgb for _, rgb in parts]))
    if not raws:
        shape = points.shape[:2]
        raw = points.new_zeros(shape) + _graph([*levels, *decoder.parameters, points])
        return raw, raw[..., None].expand(*shape, decoder.n_colours)
    return torch.stack(raws), torch.stack(rgbs)
