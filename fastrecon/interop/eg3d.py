"""EG3D (Chan et al. 2022): a renderer for its own code, and for code that grew from it.

``Renderer`` is called as ``training.volumetric_rendering.renderer.ImportanceRenderer`` is, so that
a program built on EG3D swaps one object::

    G.renderer = Renderer()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from fastrecon_kernels import Decoder, RenderSettings, query_points, render_rays, sample_rays
from torch import Tensor, nn

Planes = Tensor | Sequence[Tensor]
DECIDED = ("radius", "n_samples", "n_importance", "near_far", "background")
"""Settings that every call reads from its ``rendering_options``."""


def render_settings(options: Mapping[str, Any], base: RenderSettings) -> RenderSettings:
    """EG3D's ``rendering_options`` on top of ``base``.

    Read are ``depth_resolution``, ``depth_resolution_importance``, ``ray_start`` and ``ray_end``
    (two numbers, or both "auto": each ray's own chord of the box), ``box_warp`` (side of the box)
    and ``white_back``; what belongs to other parts of EG3D is ignored.

    Raises:
        ValueError: an option is missing, or asks for what the fused renderer does not do.
    """
    _check_supported(options)
    if options.get("disparity_space_sampling", False):
        raise ValueError(
            "disparity_space_sampling=True is not supported; samples are uniform in distance, "
            "so set it to False"
        )
    clamp_mode = options.get("clamp_mode", "softplus")
    if clamp_mode != "softplus":
        raise ValueError(f"clamp_mode must be 'softplus', got {clamp_mode!r}")
    start, end = _take(options, "ray_start"), _take(options, "ray_end")
    automatic = [isinstance(x, str) and x == "auto" for x in (start, end)]
    if any(automatic) and not all(automatic):
        raise ValueError(
            f"ray_start and ray_end must both be 'auto' or both numbers, got {start!r} and {end!r}"
        )
    picked = {
        "radius": _half_side(options),
        "n_samples": _take(options, "depth_resolution"),
        "n_importance": _take(options, "depth_resolution_importance"),
        "near_far": "box" if all(automatic) else (start, end),
        "background": "white" if options.get("white_back", False) else "black",
    }
    try:
        return replace(base, **picked)
    except (TypeError, ValueError) as error:
        raise ValueError(f"rendering_options give unusable settings: {error}") from error


def decoder_view(decoder: Decoder | nn.Module) -> Decoder:
    """The MLP of an ``OSGDecoder`` (its ``net``), of an `nn.Sequential`, or a `Decoder` itself.

    EG3D's equalised layers compute ``x (weight_gain W)^T + bias_gain b``; the products are taken
    here, so gradients reach the module's own parameters.

    Raises:
        TypeError: there is no such MLP in ``decoder``.
        ValueError: its layers are not linear, softplus (or silu, relu), ..., linear.
    """
    if isinstance(decoder, Decoder):
        return decoder
    net = decoder if isinstance(decoder, nn.Sequential) else getattr(decoder, "net", None)
    if not isinstance(net, nn.Sequential):
        raise TypeError(
            "decoder must be a Decoder, an nn.Sequential, or have its MLP as an nn.Sequential "
            f"named `net`, as EG3D's OSGDecoder has, got {type(decoder).__name__}"
        )
    weights: list[Tensor] = []
    biases: list[Tensor | None] = []
    skeleton: list[nn.Module] = []
    for layer in net:
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        gain = getattr(layer, "weight_gain", None)
        if isinstance(weight, Tensor) and (gain is not None or isinstance(layer, nn.Linear)):
            if getattr(layer, "activation", "linear") != "linear":
                raise ValueError(
                    f"layers must be linear, got one with activation={layer.activation!r}; put "
                    "the activation beside it in the nn.Sequential"
                )
            if gain is not None:
                weight = weight * float(gain)
                bias = None if bias is None else bias * float(getattr(layer, "bias_gain", 1))
            weights.append(weight)
            biases.append(bias)
            layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        skeleton.append(layer)
    # The skeleton has the layers' kinds and sizes and no numbers: from_mlp checks their order.
    return Decoder(weights, biases, Decoder.from_mlp(nn.Sequential(*skeleton)).activation)


class Renderer(nn.Module):
    """Drop-in for ``ImportanceRenderer``, fused and with nothing per sample kept.

    Colours, opacity and depth are EG3D's: depth is the mean distance under the weights, which
    lies among the samples by itself, and a ray of no opacity gets the farthest sample of the whole
    batch (EG3D's NaN -> inf -> clamp). There are two differences, both under
    ``ray_start = ray_end = "auto"``: a ray that misses the box shows the background, where EG3D
    samples it at distances borrowed from other rays; and nothing behind the camera is seen.

    Args:
        overrides: `RenderSettings` fields that ``rendering_options`` do not decide, on top of
            `RenderSettings.eg3d`: ``stratified=False`` for a repeatable picture,
            ``axes=("xy", "xz", "zy")`` for weights trained with three different planes (EG3D's
            own have the third plane as (z, x)), ``depth_eps=1e-3`` for G3DR.

    Raises:
        ValueError, TypeError: an override that the options decide, or one that does not exist.
    """

    def __init__(self, **overrides: Any) -> None:
        super().__init__()
        decided = [name for name in DECIDED if name in overrides]
        if decided:
            raise ValueError(
                f"{', '.join(decided)} cannot be fixed here; rendering_options decide them per call"
            )
        self.settings = RenderSettings.eg3d(**overrides)

    def forward(
        self,
        planes: Planes,
        decoder: Decoder | nn.Module,
        ray_origins: Tensor,
        ray_directions: Tensor,
        rendering_options: Mapping[str, Any],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Render rays; random samples follow torch's generator.

        Args:
            planes: (B, 3, C, H, W), or G3DR's levels from `build_pyramid`.
            decoder: ``OSGDecoder``, or what `decoder_view` reads.
            ray_origins, ray_directions: (B, N, 3); distances are in units of the directions.
            rendering_options: EG3D's, see `render_settings`.

        Returns:
            rgb (B, N, K) in (-1, 1), depth (B, N, 1), sum of the weights (B, N, 1).
        """
        settings = render_settings(rendering_options, self.settings)
        # One seed for both calls, so that `ts` are the coarse samples of the rendering.
        seed = torch.randint(2**63 - 1, ()) if settings.stratified else None
        rendering = render_rays(
            planes, decoder_view(decoder), ray_origins, ray_directions, settings, seed=seed
        )
        depth = rendering.depth
        if depth.numel():
            # Fine samples lie between coarse ones: the farthest of all is a coarse one.
            ts, _ = sample_rays(ray_origins, ray_directions, settings, seed=seed)
            depth = torch.where(rendering.opacity > 0, depth, ts.amax().to(depth.dtype))
        return rendering.rgb, depth[..., None], rendering.opacity[..., None]

    def run_model(
        self,
        planes: Planes,
        decoder: Decoder | nn.Module,
        sample_coordinates: Tensor,
        sample_directions: Tensor | None,
        options: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """The field at ``sample_coordinates (B, M, 3)``, in scene units.

        Of ``options`` only ``box_warp`` is needed; directions are not looked at, nor does EG3D's
        decoder.

        Returns:
            ``rgb`` (B, M, K) in the unit range and ``sigma`` (B, M, 1), the density before its
            activation.
        """
        _check_supported(options)
        settings = replace(self.settings, radius=_half_side(options))
        raw, rgb = query_points(
            planes, decoder_view(decoder), sample_coordinates, settings, raw=True
        )
        return {"rgb": rgb, "sigma": raw[..., None]}


def _check_supported(options: Mapping[str, Any]) -> None:
    """Refuse noise on the density, which rendering and `run_model` would both have to add."""
    if options.get("density_noise", 0) > 0:
        raise ValueError(
            f"density_noise must be 0, got {options['density_noise']}; noise on the density is "
            "not supported"
        )


def _half_side(options: Mapping[str, Any]) -> float:
    side = _take(options, "box_warp")
    if not isinstance(side, int | float) or not 0 < side < float("inf"):
        raise ValueError(f"box_warp must be a positive number, got {side!r}")
    return side / 2


def _take(options: Mapping[str, Any], key: str) -> Any:
    if key not in options:
        raise ValueError(f"rendering_options lack {key!r}")
    return options[key]
