"""RCAN through the trainer: a run, its continuation, what it is judged by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from fastrecon.config import OptimConfig, RunConfig
from fastrecon.config.super_resolution import (
    RCANConfig,
    SuperResolutionConfig,
    SuperResolutionDataConfig,
)
from fastrecon.evaluation.metrics import psnr
from fastrecon.models.super_resolution import RCAN, upscale
from fastrecon.recipes.super_resolution import SUPER_RESOLUTION_RECIPES
from fastrecon.tasks import task_for
from fastrecon.tasks.super_resolution import PictureL1, SuperResolution
from fastrecon.trainer import Trainer


def config(out: Path, steps: int = 3) -> SuperResolutionConfig:
    return SuperResolutionConfig(
        model=RCANConfig(groups=1, blocks=1, channels=4, reduction=2, image_skip=True),
        data=SuperResolutionDataConfig(size=16, patch=4, max_parts=1, scenes=2),
        optim=OptimConfig(steps=steps, batch_size=2, lr=1e-2, warmup=0, precision="fp32"),
        run=RunConfig(out=str(out), checkpoint_every=2, validation_objects=2, device="cpu"),
    )


def test_every_recipe_makes_a_task() -> None:
    for recipe in SUPER_RESOLUTION_RECIPES.values():
        task = task_for(recipe())
        assert isinstance(task, SuperResolution)
        task.check()
        with torch.device("meta"):
            task.build_model()


def test_a_run_and_its_continuation(tmp_path: Path) -> None:
    whole = Trainer(config(tmp_path / "whole"))
    report = whole.run()
    assert report is not None
    written = json.loads((tmp_path / "whole/validation.json").read_text())
    assert written["psnr"]["mean"] == report.score
    assert written["gain"]["mean"] == pytest.approx(
        written["psnr"]["mean"] - written["bicubic"]["mean"], abs=1e-4
    )
    assert report.picture is not None
    assert report.picture.shape == (3, 32, 48)
    model = RCAN.from_pretrained(tmp_path / "whole/model")
    # stopped after two steps, continued to three
    parted = config(tmp_path / "parted")
    trainer = Trainer(parted)
    batches = trainer.share.batches("cpu")
    for step in range(2):
        trainer.train_step(batches(step))
    trainer.save()
    Trainer(parted).run()
    again = RCAN.from_pretrained(tmp_path / "parted/model")
    for name, value in model.state_dict().items():
        assert_close(again.state_dict()[name], value, msg=name)


def test_the_score_is_that_of_whole_pictures(tmp_path: Path) -> None:
    task = SuperResolution(config(tmp_path))
    model = task.build_model()
    report = task.validate(model.train())
    assert model.training
    assert report.scalars["gain"] == pytest.approx(0.0, abs=1e-5)  # it starts as bicubic
    assert task.held_out is not None
    made = upscale(task.held_out.low, model=model)
    assert report.score == pytest.approx(float(psnr(made, task.held_out.high).mean()), abs=1e-4)


def test_the_loss_is_l1(tmp_path: Path) -> None:
    task = SuperResolution(config(tmp_path))
    model, batch = task.build_model(), task.batches("cpu")(0)
    loss, metrics = PictureL1(False)(model, batch, 0)
    assert_close(loss, (model(batch.low) - batch.high).abs().mean())
    assert_close(metrics["loss"], metrics["loss_bicubic"])
    assert loss.requires_grad
    assert not metrics["loss"].requires_grad


def test_processes_share_a_batch(tmp_path: Path) -> None:
    task = SuperResolution(config(tmp_path))
    parts = [task.share(rank, 2).batches("cpu")(1) for rank in range(2)]
    assert [len(part.low) for part in parts] == [1, 1]
    assert not torch.equal(parts[0].low, parts[1].low)
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        task.share(0, 3)


def test_weights_to_start_from_must_fit(tmp_path: Path) -> None:
    cfg = config(tmp_path / "run")
    start = SuperResolution(cfg).build_model()
    start.save_pretrained(tmp_path / "start")
    tuned = replace(cfg, run=replace(cfg.run, init=str(tmp_path / "start")))
    taken = SuperResolution(tuned).build_model().state_dict()
    for name, value in start.state_dict().items():
        assert_close(taken[name], value)
