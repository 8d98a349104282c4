"""G3DR's recipes: functions that return a `G3DRConfig`; a variant is a `replace` of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..config import NetworksConfig, OptimConfig, RunConfig
from ..config.g3dr import G3DRConfig, G3DRLossConfig, TriGenConfig

NO_CLIPPING = 1e6
"""``optim.clip`` of runs whose gradients are taken as they are, as the published ones' were."""


def g3dr_tiny() -> G3DRConfig:
    """0.2 M parameters on procedural scenes, 32 px: a few minutes on two CPU cores, no weights."""
    return G3DRConfig(
        model=TriGenConfig.tiny(),
        loss=G3DRLossConfig(clip=0.0, deep=0.0),
        networks=NetworksConfig(perceptual="ssim"),
        optim=OptimConfig(
            steps=500,
            batch_size=4,
            lr=2e-3,
            betas=(0.9, 0.99),
            eps=1e-8,
            weight_decay=0.0,
            warmup=25,
            ema=0.99,
            precision="fp32",
        ),
        run=RunConfig(
            out="runs/g3dr_tiny",
            validate_every=250,
            checkpoint_every=250,
            validation_objects=32,
            validation_views=4,
            data_workers=1,
        ),
    )


def g3dr() -> G3DRConfig:
    """G3DR's 147 M parameters as its supplement trains them; pictures with depth in data.path."""
    return G3DRConfig(
        optim=OptimConfig(
            steps=300_000,
            batch_size=48,
            lr=1e-4,
            start_lr=0.02,
            betas=(0.9, 0.99),
            eps=1e-8,
            weight_decay=0.0,
            warmup=20_000,
            clip=NO_CLIPPING,
            ema=0.0,
        ),
        run=RunConfig(
            out="runs/g3dr",
            validate_every=5000,
            checkpoint_every=1000,
            keep_best=True,
            data_workers=8,
        ),
    )


def g3dr_released() -> G3DRConfig:
    """G3DR as its public code trains it: other weights, ramps and rates, EG3D's plane axes."""
    start = g3dr()
    return replace(
        start,
        model=TriGenConfig.released(),
        loss=replace(
            start.loss,
            perceptual=1.0,
            perceptual_from=0.5,
            clip_ramp=0,
            clip_canonical=0.175,
            deep=2.0,
        ),
        # The same rate to begin with, 2e-6.
        optim=replace(start.optim, lr=5e-5, start_lr=0.04, warmup=6000),
        run=replace(start.run, out="runs/g3dr_released"),
    )


def g3dr_mini() -> G3DRConfig:
    """One run of Table S1 in miniature, see `experiments.g3dr`: `g3dr_tiny` with one scene a step.

    The kernel leaves a twentieth of the gradient away from the surface, so that what stands before
    it needs steps more than scenes. The opacity term is a tenth of G3DR's: there it has LPIPS and
    CLIP for a counterweight in novel views.
    """
    start = g3dr_tiny()
    return replace(
        start,
        loss=replace(start.loss, opacity=0.1),
        optim=replace(
            start.optim, steps=1600, batch_size=1, lr=2.5e-3, warmup=50, clip=0.5, ema=0.99
        ),
        run=replace(
            start.run,
            out="runs/g3dr_mini",
            validate_every=1_000_000,
            checkpoint_every=400,
            validation_objects=64,
            data_workers=0,
        ),
    )


G3DR_RECIPES: dict[str, Callable[[], G3DRConfig]] = {
    "g3dr_tiny": g3dr_tiny,
    "g3dr": g3dr,
    "g3dr_released": g3dr_released,
}
