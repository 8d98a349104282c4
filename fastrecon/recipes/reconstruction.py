"""Recipes of reconstruction models: TripoSR's shape at several sizes, Real3D, OpenLRM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastrecon_kernels import RenderSettings

from ..assets import SHIPPED_MODEL
from ..config import (
    BackboneConfig,
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    LossConfig,
    LRMConfig,
    NetworksConfig,
    OptimConfig,
    RunConfig,
    SelfTrainingConfig,
)
from ..interop.openlrm import openlrm_config


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


def real3d_stage0() -> Config:
    """Real3D, stage 0: TripoSR fine-tuned on known views at one camera distance."""
    start = triposr()
    return replace(
        start,
        model=replace(start.model, camera_distance=3.0, fov_deg=39.6, foreground_ratio=0.65),
        data=replace(start.data, picture_size=128, camera_distance=2.4),
        loss=LossConfig(rgb=1.0, mask=0.0, perceptual=1.0),
        networks=NetworksConfig(perceptual="lpips"),
        optim=replace(start.optim, ema=0.0),
        run=RunConfig(
            out="runs/real3d_stage0",
            init="stabilityai/TripoSR",
            validate_every=1000,
            checkpoint_every=500,
            keep_best=True,
        ),
    )


def real3d() -> Config:
    """Real3D: known views and single photographs together, as the paper has it."""
    start = real3d_stage0()
    return replace(
        start,
        self_training=SelfTrainingConfig(photos=40),
        optim=replace(start.optim, batch_size=40),
        run=replace(start.run, out="runs/real3d", init="runs/real3d_stage0/model"),
    )


def real3d_released() -> Config:
    """Real3D as its public code trains it: other weights, poses and steps than the paper's."""
    start = real3d()
    return replace(
        start,
        loss=LossConfig(rgb=2.0, mask=1.0, perceptual=1.0),
        self_training=replace(
            start.self_training,
            photos=80,
            crop_ratio=(1.45, 1.95),
            input_rgb=0.6,
            input_mask=0.3,
            cycle_rgb=20.0,
            cycle_mask=10.0,
            cycle_perceptual=10.0,
            cycle_poses="floor",
            cycle_size=512,
            semantic_views=3,
            semantic_poses="coupled",
        ),
        optim=replace(start.optim, steps=10_000, batch_size=80, warmup=100),
        run=replace(start.run, out="runs/real3d_released"),
    )


def real3d_small() -> Config:
    """Real3D's self-training on a laptop: the shipped model goes on with your pictures; no CLIP."""
    start = small()
    return replace(
        start,
        data=replace(start.data, seed=1000, views=3, rays_per_view=96),
        self_training=SelfTrainingConfig(
            photos=4,
            size=32,
            rays=256,
            crop_ratio=(1.1, 1.3),
            camera_distance=start.model.camera_distance,
            fov_deg=start.model.fov_deg,
            semantic=0.0,
        ),
        optim=replace(start.optim, steps=120, batch_size=4, lr=5e-4, warmup=12, ema=0.0),
        run=replace(
            start.run,
            out="runs/real3d_small",
            init=str(SHIPPED_MODEL),
            validate_every=10_000,
            checkpoint_every=100,
            validation_objects=8,
            validation_views=4,
            data_workers=0,
        ),
    )


def openlrm(size: str, picture_size: int) -> Config:
    """OpenLRM's training (He and Wang 2024): the pose-conditioned model, supervised.

    Steps and batch are ours: 60 epochs of an unnamed batch were published.
    """
    return Config(
        model=openlrm_config(size),
        data=DataConfig(
            picture_size=picture_size, max_parts=9, jitter=False, backgrounds=(0.0, 0.5, 1.0)
        ),
        loss=LossConfig(mask=0.0, perceptual=1.0, tv=5e-4),
        networks=NetworksConfig(perceptual="lpips"),
        optim=OptimConfig(
            steps=100_000, batch_size=32, lr=4e-4, betas=(0.9, 0.95), eps=1e-8, warmup=3000, ema=0.0
        ),
        run=RunConfig(out=f"runs/openlrm_{size}", validate_every=1000, checkpoint_every=500),
    )


def openlrm_small() -> Config:
    """OpenLRM small: 111 M parameters, the input camera is told."""
    return openlrm("small", 64)


def openlrm_base() -> Config:
    """OpenLRM base: 260 M parameters, the input camera is told."""
    return openlrm("base", 96)


def openlrm_large() -> Config:
    """OpenLRM large: 452 M parameters, the input camera is told."""
    return openlrm("large", 128)


RECONSTRUCTION_RECIPES: dict[str, Callable[[], Config]] = {
    "tiny": tiny,
    "small": small,
    "base": base,
    "triposr": triposr,
    "real3d_stage0": real3d_stage0,
    "real3d": real3d,
    "real3d_released": real3d_released,
    "real3d_small": real3d_small,
    "openlrm_small": openlrm_small,
    "openlrm_base": openlrm_base,
    "openlrm_large": openlrm_large,
}
