"""Recipes: functions that return a `Config`; a variant is a `replace` of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastrecon_kernels import RenderSettings

from .config import (
    BackboneConfig,
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    LossConfig,
    LRMConfig,
    OptimConfig,
    RunConfig,
)


def own_render(n_samples: int) -> RenderSettings:
    """Rendering of our own models: true distances, a box little larger than what they see."""
    return RenderSettings(radius=0.75, n_samples=n_samples, stratified=False)


def tiny() -> Config:
    """1.9 M parameters, made to learn something in five minutes on two CPU cores."""
    return Config(
        model=LRMConfig(
            encoder=EncoderConfig(
                image_size=64,
                patch_size=8,
                dim=128,
                depth=2,
                heads=4,
                mlp_dim=512,
                position_grid=8,
            ),
            backbone=BackboneConfig(
                grid=8, dim=128, depth=4, heads=4, head_dim=32, channels=16, upsample=4
            ),
            decoder=DecoderConfig(hidden=32, layers=2),
            render=own_render(32),
            position_init="sincos",
            mesh_level=3.0,
        ),
        data=DataConfig(rays_per_view=128, max_parts=4),
        loss=LossConfig(depth=0.2),
        optim=OptimConfig(kind="muon", steps=500, batch_size=8, lr=3e-3, warmup=50, ema=0.99),
        run=RunConfig(
            out="runs/tiny",
            validate_every=250,
            checkpoint_every=250,
            validation_views=4,
            data_workers=1,
        ),
    )


def small() -> Config:
    """About 5 M parameters: the shipped checkpoint, trained in about an hour on two CPU cores."""
    start = tiny()
    return replace(
        start,
        model=replace(
            start.model,
            encoder=EncoderConfig(
                image_size=96,
                patch_size=12,
                dim=192,
                depth=3,
                heads=6,
                mlp_dim=768,
                position_grid=8,
            ),
            backbone=BackboneConfig(
                grid=8, dim=192, depth=5, heads=6, head_dim=32, channels=24, upsample=4
            ),
            decoder=DecoderConfig(hidden=48, layers=2),
        ),
        data=replace(start.data, max_parts=5),
        loss=LossConfig(mask=0.5, depth=0.1),
        optim=replace(start.optim, steps=4200, lr=2e-3, warmup=100, ema=0.998),
        run=RunConfig(out="runs/small", validate_every=1000, checkpoint_every=250, data_workers=1),
    )


def base() -> Config:
    """About 95 M parameters, for one GPU: TripoSR's shape at half the width."""
    return Config(
        model=LRMConfig(
            encoder=EncoderConfig(image_size=256, dim=512, heads=8, mlp_dim=2048, position_grid=16),
            backbone=BackboneConfig(dim=512, depth=10, heads=8),
            decoder=DecoderConfig(hidden=64, layers=4),
            render=own_render(96),
            position_init="sincos",
            mesh_level=10.0,
        ),
        data=DataConfig(rays_per_view=1024, max_parts=9),
        loss=LossConfig(depth=0.2),
        optim=OptimConfig(steps=100_000, batch_size=16, lr=2e-4, warmup=2000),
        run=RunConfig(out="runs/base", validate_every=2000, checkpoint_every=1000),
    )


def triposr() -> Config:
    """TripoSR's 419 M parameters and Real3D's optimiser, supervised (Real3D, section 4.1)."""
    return Config(
        data=DataConfig(rays_per_view=4096, max_parts=9, jitter=False),
        optim=OptimConfig(steps=40_000, batch_size=80, lr=4e-5, warmup=3000),
        run=RunConfig(out="runs/triposr", validate_every=1000, checkpoint_every=500),
    )


RECIPES: dict[str, Callable[[], Config]] = {
    "tiny": tiny,
    "small": small,
    "base": base,
    "triposr": triposr,
}
