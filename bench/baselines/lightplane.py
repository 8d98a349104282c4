"""Lightplane: its formula written the plain way, and its own renderer where it is installed.

Lightplane (https://github.com/facebookresearch/lightplane; Cao et al., "Lightplane: Highly-Scalable
Components for Neural 3D Fields", 2024) renders triplanes in two Triton kernels, a forward pass
that keeps one number per ray and a backward pass that recomputes. What it computes:

- S samples from the first to the last *inclusive*, each with the weight of one step. Bins of
  [near, far] sampled at their centres are the same when the ray is handed over from the first
  centre to the last (`centres`): equal positions and equal lengths.
- Planes in [-1, 1]^3, bilinear, zero padding, ``align_corners=False``, width axis first: xy, xz and
  yz, their features *summed*.
- A trunk with ReLU after every layer, its last one too; from it one head for opacity and one for
  colour. With heads of one layer that is one MLP whose last layer holds both.
- ``sigma = gain softplus(raw)``, colour ``sigmoid``, no background, and ``-log T`` for the opacity.

It cannot express concat or mean, other activations, widths that differ or are no powers of two of
at least 16, importance sampling, the midpoint rule, or gradients of rays (`check_expressible`).
Its three colours are padded to 16 channels, every ray carries an encoding (zeros here, and their
gradient), and products are fp32 without tensor cores.

Its setup asks for Triton 2.1 (commit 34fe6c6, of 2024). What Triton 3.6 and installing it as a
wheel need changed in a copy of it, file by file; none of its code is part of this repository:

- ``triton_src/shared/const.py``: declare ALLOW_TF32 a ``tl.constexpr``; a kernel may no longer read
  another global.
- ``triton_src/shared/grid_sample_util.py``: ``tl.floor`` in its ``_floor``. Float ``%`` follows C
  in Triton 3, which would extrapolate in the outer half of the border texels.
- everything in ``triton_src``: ``tl.reshape`` for ``tl.view``, which is deprecated and may reorder.
  With both, the forward kernel of workload L has 528 multiply-adds in its PTX for sm_90 where it
  had 945 (917 with the first alone), and 184 registers where it had 255 and spilled.
- ``__init__.py``: leave out ``visualize``, which needs plotly.
- ``setup.py``: ``find_namespace_packages``, or the wheel lacks the kernels (their folders have no
  ``__init__.py``), and no pin of Triton.

Then ``pip wheel --no-deps`` of the copy and of cogapp, which writes its kernels when they are first
called, and ``pip install --no-index --no-deps`` of both on the machine with the GPU.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
import torch.nn.functional as F
from fastrecon_kernels import RenderSettings
from torch import Tensor, nn

from bench.baselines.eg3d import features

NAME = "Lightplane"
"""Its rows in a table begin with this."""
AXES = ("xy", "xz", "yz")
MIN_WIDTH = 16
"""Of planes and layers: the least that its matrix products take."""
EXPRESSIBLE = {
    "radius": 1.0,
    "n_importance": 0,
    "stratified": False,
    "quadrature": "bins",
    "interval": "distance",
    "outside": "zero",
    "axes": AXES,
    "reduction": "sum",
    "density_activation": "softplus",
    "density_shift": 0.0,
    "rgb_padding": 0.0,
    "background": "black",
    "rgb_range": (0.0, 1.0),
    "early_stop": 0.0,
}
"""Settings that it has one value of; a decoder and near and far are checked beside them."""


@functools.cache
def absence() -> str:
    """Why Lightplane cannot be imported, or nothing; asked once, when it is first needed."""
    try:
        importlib.import_module("lightplane")
    except ModuleNotFoundError as error:
        return f"not installed: {error}"
    except Exception as error:
        return f"not installed: importing it fails with {type(error).__name__}: {error}"
    return ""


def linears_of(mlp: nn.Sequential) -> list[nn.Linear]:
    """The layers with weights."""
    return [layer for layer in mlp if isinstance(layer, nn.Linear)]


def is_width(n: int) -> bool:
    """Whether it takes a layer or plane of this width."""
    return n >= MIN_WIDTH and n & (n - 1) == 0


def check_expressible(settings: RenderSettings, mlp: nn.Sequential, channels: int) -> None:
    """Whether Lightplane can compute a workload.

    Raises:
        ValueError: if it cannot; says what stands in the way.
    """
    for name, value in EXPRESSIBLE.items():
        found = getattr(settings, name)
        if found != value:
            raise ValueError(f"Lightplane renders with {name}={value!r} only, got {found!r}")
    if isinstance(settings.near_far, str):
        raise ValueError(
            f"Lightplane is given near and far; pass near_far as a pair, got {settings.near_far!r}"
        )
    if settings.n_samples < 2:
        raise ValueError("Lightplane's step is (far - near) / (n_samples - 1); take 2 or more")
    hidden = {layer.out_features for layer in linears_of(mlp)[:-1]}
    if not all(isinstance(layer, nn.ReLU) for layer in list(mlp)[1::2]):
        raise ValueError("Lightplane has ReLU between all layers and no other activation")
    if len(hidden) != 1:
        raise ValueError(f"Lightplane's trunk has layers of one width, got {sorted(hidden)}")
    if not all(map(is_width, (channels, *hidden))):
        raise ValueError(
            f"Lightplane's widths are powers of two of at least {MIN_WIDTH}; got planes of "
            f"{channels} channels and layers of {hidden.pop()}"
        )


def centres(settings: RenderSettings) -> tuple[float, float]:
    """The centres of the first and of the last bin: what Lightplane calls near and far."""
    assert not isinstance(settings.near_far, str)
    near, far = settings.near_far
    half = (far - near) / (2 * settings.n_samples)
    return near + half, far - half


def render_plain(
    planes: Tensor, mlp: nn.Module, rays_o: Tensor, rays_d: Tensor, settings: RenderSettings
) -> tuple[Tensor, Tensor]:
    """Lightplane's formula, all samples at once; nothing is recomputed.

    Args:
        planes: (B, 3, C, H, W).
        mlp: (M, C) -> (M, 4): raw density and three colour logits.
        rays_o, rays_d: (B, N, 3).
        settings: what `check_expressible` accepts.

    Returns:
        rgb (B, N, 3) on black and opacity (B, N).
    """
    first, last = centres(settings)
    steps = torch.linspace(0, 1, settings.n_samples, device=rays_o.device, dtype=rays_o.dtype)
    ts = first + steps * (last - first)
    points = rays_o[:, :, None] + ts[:, None] * rays_d[:, :, None]
    read = features((planes,), points.flatten(1, 2), AXES).sum(1)
    out = mlp(read.flatten(0, 1)).view(*points.shape[:-1], -1).to(points.dtype)
    delta = (last - first) / (settings.n_samples - 1)
    absorbed = (settings.density_scale * delta * F.softplus(out[..., 0])).cumsum(-1)
    weights = -F.pad(absorbed, (1, 0)).neg().exp().diff(dim=-1)
    rgb = (weights[..., None] * out[..., 1:].sigmoid()).sum(-2)
    return rgb, 1 - torch.exp(-absorbed[..., -1])


def grids(planes: Tensor) -> list[Tensor]:
    """(B, 3, C, H, W) -> its grids of (B, D, H, W, C), one of the three sides being 1."""
    xy, xz, yz = planes.permute(0, 1, 3, 4, 2).unbind(1)
    return [xy[:, None], xz[:, :, None], yz[:, :, :, None]]


def decoder_of(lightplane: Any, mlp: nn.Sequential) -> Any:
    """The MLP as its trunk and two heads of one layer; gradients reach the MLP."""
    linears = linears_of(mlp)
    weights = [layer.weight.T for layer in linears]
    biases = [layer.bias for layer in linears]
    trunk, opacity = (weights[:-1], biases[:-1]), ([weights[-1][:, :1]], [biases[-1][:1]])
    colour = ([weights[-1][:, 1:]], [biases[-1][1:]])
    flat = lightplane.flatten_decoder_params(*trunk, *opacity, *colour)
    return lightplane.DecoderParams(*flat, color_chn=linears[-1].out_features - 1)


def render_lightplane(
    planes: Tensor,
    mlp: nn.Sequential,
    rays_o: Tensor,
    rays_d: Tensor,
    settings: RenderSettings,
    *,
    block_size: int = 16,
    num_warps: int = 4,
) -> tuple[Tensor, Tensor]:
    """Lightplane's own renderer, called as its documentation says.

    Putting planes and decoder into its layout is part of the call, as it is for `render_rays`: for
    workload L a copy of 3 MB and one of 4 thousand numbers.

    Args:
        planes, mlp, rays_o, rays_d, settings: as for `render_plain`.
        block_size: rays of a program; its benchmark has 16.
        num_warps: of a program in the forward pass; its backward pass always has 4.

    Returns:
        rgb (B, N, 3) on black and opacity (B, N).

    Raises:
        RuntimeError: Lightplane cannot be imported.
        ValueError: it cannot express the settings or the decoder.
    """
    if absence():
        raise RuntimeError(f"{NAME}: {absence()}")
    check_expressible(settings, mlp, planes.shape[2])
    lightplane: Any = importlib.import_module("lightplane")
    batch, n = rays_o.shape[:2]
    near, far = centres(settings)
    objects = torch.arange(batch, device=planes.device, dtype=torch.int32)
    rays = lightplane.Rays(
        directions=rays_d.reshape(-1, 3),
        origins=rays_o.reshape(-1, 3),
        grid_idx=objects.repeat_interleave(n),
        near=rays_o.new_full((batch * n,), near),
        far=rays_o.new_full((batch * n,), far),
        encoding=rays_o.new_zeros(batch * n, linears_of(mlp)[-1].in_features),
    )
    _, absorbed, rgb = lightplane.lightplane_renderer(
        rays,
        grids(planes),
        decoder_of(lightplane, mlp),
        num_samples=settings.n_samples,
        gain=settings.density_scale,
        triton_block_size=block_size,
        triton_num_warps=num_warps,
    )
    return rgb.view(batch, n, -1), 1 - torch.exp(-absorbed).view(batch, n)
