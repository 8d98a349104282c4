"""The rendering half of a model: settings held beside a model, kernels called with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from fastrecon_kernels import Decoder, Rendering, RenderSettings, query_points, render_rays
from torch import Tensor, nn

EARLY_STOP = 1e-3
"""Transmittance at which a ray is dropped in evaluation: at most this much of a colour is lost."""


class TriplaneRenderer(nn.Module):
    """Calls ``fastrecon_kernels`` with one ``RenderSettings``; holds no parameters."""

    def __init__(self, settings: RenderSettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(
        self,
        planes: Tensor | Sequence[Tensor],
        decoder: Decoder,
        rays_o: Tensor,
        rays_d: Tensor,
        *,
        settings: RenderSettings | None = None,
        **kwargs: Any,
    ) -> Rendering:
        """``fastrecon_kernels.render_rays``; keyword arguments pass through.

        In eval mode with gradients off a ray stops at a transmittance of 1e-3. Settings that have
        an ``early_stop`` of their own keep it.
        """
        settings = self.settings if settings is None else settings
        if not self.training and not torch.is_grad_enabled() and settings.early_stop == 0:
            settings = replace(settings, early_stop=EARLY_STOP)
        return render_rays(planes, decoder, rays_o, rays_d, settings, **kwargs)

    def query(
        self,
        planes: Tensor | Sequence[Tensor],
        decoder: Decoder,
        points: Tensor,
        *,
        settings: RenderSettings | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """``fastrecon_kernels.query_points``: sigmas ``(B, ...)`` and rgbs ``(B, ..., 3)``."""
        settings = self.settings if settings is None else settings
        return query_points(planes, decoder, points, settings, **kwargs)
