"""An experiment of the smallest model: two learning rates, and no training at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastrecon.config import Config, DataConfig, OptimConfig, RunConfig
from fastrecon.experiments.experiment import (
    Arm,
    Evaluate,
    Experiment,
    ExperimentOptions,
    Metric,
    Prepared,
    Scores,
)
from fastrecon.models.lrm import LRM
from tests.micro import micro_config


def config(out: Path, steps: int = 2) -> Config:
    """Two steps of the smallest model."""
    return Config(
        model=micro_config(),
        data=DataConfig(views=2, rays_per_view=8, max_parts=1, supersample=1),
        optim=OptimConfig(steps=steps, batch_size=1, warmup=0, ema=0.0, precision="fp32"),
        run=RunConfig(
            out=str(out),
            device="cpu",
            log_every=1,
            validate_every=1_000_000,
            checkpoint_every=1,
            validation_objects=1,
            validation_views=1,
            validation_size=8,
        ),
    )


def lr(value: float) -> Callable[[Config], Config]:
    """An arm of this learning rate."""
    return lambda cfg: replace(cfg, optim=replace(cfg.optim, lr=value))


def untrained(cfg: Config) -> Config:
    """An arm without training."""
    return replace(cfg, optim=replace(cfg.optim, steps=0))


def judge(lrm: LRM, cfg: Config, settings: dict[str, Any]) -> Scores:
    """Sums of weights stand for scores; the second object has no shape."""
    total = float(sum(p.double().abs().sum() for p in lrm.parameters()))
    assert not lrm.training
    return {
        "psnr": {"a": total + settings["shift"], "b": total * 2.0},
        "chamfer": {"a": total, "b": None},
    }


def experiment(cfg: Config, evaluate: Evaluate = judge) -> Experiment:
    """The arms "slow" and "fast" against "slow" and "start"."""
    return Experiment(
        name="fake",
        title="A fake",
        question="Is fast better than slow?",
        arms={
            "start": Arm("the start", untrained),
            "slow": Arm("slowly", lr(1e-4)),
            "fast": Arm("fast", lr(1e-2)),
        },
        references=("slow", "start"),
        metrics=(Metric("psnr", "PSNR, dB"), Metric("chamfer", "Chamfer", 3, False)),
        prepare=lambda dry: Prepared(cfg, {"shift": 1.0}, {"photographs": 3}, "3 to make"),
        evaluate=evaluate,
    )


def options(cfg: Config, **changed: Any) -> ExperimentOptions:
    """Two seeds."""
    return replace(ExperimentOptions(seeds=(0, 1), jobs=2, config=cfg), **changed)
