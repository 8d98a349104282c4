"""Recipes of super-resolution: functions that return a `SuperResolutionConfig`."""

from __future__ import annotations

from collections.abc import Callable

from ..config import OptimConfig, RunConfig
from ..config.super_resolution import (
    RCANConfig,
    SuperResolutionConfig,
    SuperResolutionDataConfig,
)


def rcan() -> SuperResolutionConfig:
    """RCAN's 15.4 M parameters and its own training: 48 x 48 crops, L1, Adam at 1e-4."""
    return SuperResolutionConfig(
        optim=OptimConfig(
            steps=300_000,
            batch_size=16,
            lr=1e-4,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            warmup=0,
        ),
        run=RunConfig(out="runs/rcan", validate_every=5000, checkpoint_every=2000, keep_best=True),
    )


def rcan_tiny() -> SuperResolutionConfig:
    """102,000 parameters from 32 x 32 to 64 x 64, made to beat bicubic in a minute of CPU time."""
    return SuperResolutionConfig(
        model=RCANConfig.tiny(),
        data=SuperResolutionDataConfig(size=64, patch=16, scenes=96),
        optim=OptimConfig(
            steps=400,
            batch_size=8,
            lr=2e-3,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.0,
            warmup=20,
            ema=0.98,
            precision="fp32",
        ),
        run=RunConfig(
            out="runs/rcan_tiny",
            validate_every=200,
            checkpoint_every=200,
            validation_objects=32,
        ),
    )


SUPER_RESOLUTION_RECIPES: dict[str, Callable[[], SuperResolutionConfig]] = {
    "rcan_tiny": rcan_tiny,
    "rcan": rcan,
}
