"""Runs that learn from known views and single pictures together: Real3D, at the smallest size."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastrecon import perceptual
from fastrecon.checkpoint import CheckpointStore, load_tensors
from fastrecon.config import Config, DataConfig, OptimConfig, RunConfig, SelfTrainingConfig
from fastrecon.data.posed import CollectionError
from fastrecon.data.sources import training_batch
from fastrecon.data.stream import mean_image
from fastrecon.evaluation import validation
from fastrecon.models.lrm import LRM
from fastrecon.objectives import Joint, SelfTraining, Supervised
from fastrecon.signals import Interrupted
from fastrecon.trainer import Trainer
from tests.micro import micro_config
from tests.objectives.self_case import fake_clip

STEPS = 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three discs, each of a colour and a size of its own."""
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[:24, :30] + 0.5
    for i, colour in enumerate([(220, 30, 30), (20, 200, 60), (40, 60, 230)]):
        alpha = np.clip(6 + i - np.hypot(x - 15, y - 12), 0, 1) * 255
        rgba = np.dstack([np.full((24, 30, 3), colour), alpha]).astype(np.uint8)
        Image.fromarray(rgba).save(folder / f"{i}.png")
    return folder


def micro(out: Path, photos: Path, **run: Any) -> Config:
    fields: dict[str, Any] = {
        "out": str(out),
        "device": "cpu",
        "log_every": 2,
        "validate_every": 2,
        "checkpoint_every": 100,
        "validation_objects": 2,
        "validation_views": 3,
        "validation_size": 8,
        "keep_best": True,
    }
    model = micro_config()
    return Config(
        model=model,
        data=DataConfig(
            seed=1, views=2, rays_per_view=16, max_parts=2, supersample=1, photos=str(photos)
        ),
        self_training=SelfTrainingConfig(
            photos=2,
            size=8,
            camera_distance=model.camera_distance,
            fov_deg=model.fov_deg,
            semantic=0.0,
        ),
        optim=OptimConfig(steps=STEPS, batch_size=2, warmup=2, ema=0.9),
        run=RunConfig(**(fields | run)),
    )


@pytest.fixture(scope="module", autouse=True)
def _small_mean_image():
    """The baseline of the validation is a mean over hundreds of pictures; here four do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "mean_image", partial(mean_image, n_objects=4))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """The folder of one uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    Trainer(micro(out, photos)).run()
    return out


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Send this process SIGTERM during step number ``steps``."""
    original = Trainer.train_step

    def step(self, batch):
        result = original(self, batch)
        if self.step == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    monkeypatch.setattr(Trainer, "train_step", step)


def lines(out: Path, kind: str) -> list[dict[str, Any]]:
    every = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    return [x for x in every if x["kind"] == kind]


def assert_same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert set(one) == set(other)
    for name, value in one.items():
        assert torch.equal(value, other[name]), f"{name} differs"


def assert_same_runs(one: Path, other: Path) -> None:
    """Bit for bit: weights, average, optimizer, exports and the best weights."""
    a, b = (CheckpointStore(out / "checkpoints").newest() for out in (one, other))
    assert a is not None
    assert b is not None
    assert a.step == b.step == STEPS
    for name in ("model", "ema", "optimizer"):
        assert_same_tensors(dict(a.tensors[name]), dict(b.tensors[name]))
    for folder in ("model", "best"):
        assert_same_tensors(
            *(load_tensors(out / folder / "model.safetensors") for out in (one, other))
        )
    numbers = [json.loads((out / "validation.json").read_text()) for out in (one, other)]
    assert numbers[0] == numbers[1]


# ----------------------------------------------------------------------------------- the objective


def test_the_loss_is_the_sum_of_both(tmp_path: Path, photos: Path) -> None:
    """After Eq. 10: L = L_RECON + L_SELF, and so are the gradients."""
    cfg = micro(tmp_path, photos)
    cfg = replace(cfg, optim=replace(cfg.optim, precision="fp32"))
    batch, model = training_batch(cfg, 3), LRM(cfg.model).train()
    assert batch.photos is not None
    loss, metrics = Joint(cfg)(model, batch, 3)
    known, known_metrics = Supervised(cfg)(model, batch.known, 3)
    single, single_metrics = SelfTraining(cfg)(model, batch.photos, 3)
    torch.testing.assert_close(loss, known + single)
    assert float(single.detach()) > 0.01
    expected = {**known_metrics, **single_metrics, "loss": loss.detach()}
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(metrics[name], value, msg=name)
        assert not metrics[name].requires_grad
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradients(value: torch.Tensor) -> list[torch.Tensor | None]:
        return list(torch.autograd.grad(value, parameters, allow_unused=True))

    for both, a, b in zip(gradients(loss), gradients(known), gradients(single), strict=True):
        if both is not None:
            assert a is not None
            assert b is not None
            torch.testing.assert_close(both, a + b, rtol=1e-3, atol=1e-6)


def test_without_single_pictures_it_is_the_supervised_loss(tmp_path: Path, photos: Path) -> None:
    cfg = micro(tmp_path, photos)
    cfg = replace(
        cfg, data=replace(cfg.data, photos=""), self_training=SelfTrainingConfig(photos=0)
    )
    batch, model = training_batch(cfg, 0), LRM(cfg.model).train()
    assert batch.photos is None
    loss, metrics = Joint(cfg)(model, batch, 0)
    expected, same = Supervised(cfg)(model, batch.known, 0)
    assert torch.equal(loss, expected)
    assert set(metrics) == set(same)


# ------------------------------------------------------------------------------------------- a run


def test_what_a_joint_run_leaves_behind(finished: Path) -> None:
    train = lines(finished, "train")
    assert [x["step"] for x in train] == [2, 4, 6]
    terms = {"self_loss", "self_input_rgb", "self_cycle_rgb", "psnr_input", "psnr_cycle"}
    assert terms | {"loss", "loss_rgb", "loss_mask", "psnr"} <= set(train[0])
    for line in train:
        known = line["loss_rgb"] + line["loss_mask"]
        assert line["loss"] == pytest.approx(known + line["self_loss"], rel=1e-4)
        own = 0.3 * line["self_input_rgb"] + 5.0 * line["self_cycle_rgb"]
        assert line["self_loss"] == pytest.approx(own, rel=1e-4)
    assert [x["step"] for x in lines(finished, "validation")] == [2, 4, 6]


def test_the_best_weights_are_kept(finished: Path, photos: Path, tmp_path: Path) -> None:
    """Those of the validation with the highest score, whichever step that was."""
    scores = {x["step"]: x["psnr_all"] for x in lines(finished, "validation")}
    best = max(scores, key=lambda step: scores[step])
    model = LRM.from_pretrained(finished / "best")
    held_out = validation.HeldOut.make(micro(tmp_path, photos))
    result = held_out.score(held_out.render(model, bf16=True))
    assert result.all.psnr == pytest.approx(scores[best], abs=1e-3)
    checkpoint = CheckpointStore(finished / "checkpoints").newest()
    assert checkpoint is not None
    before = [score for step, score in scores.items() if step < STEPS]  # the last comes after it
    assert checkpoint.state["best_score"] == pytest.approx(max(before))


def test_a_worse_score_does_not_replace_the_best(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(micro(tmp_path, photos))
    scores, found = iter([10.0, 12.0, 11.0, 12.0]), []
    original = type(trainer.task).validate

    def validate(self, model):
        return replace(original(self, model), score=next(scores))

    class Log:
        def scalars(self, *_: Any) -> None: ...
        def picture(self, *_: Any) -> None: ...
        def message(self, *_: Any) -> None: ...

    monkeypatch.setattr(type(trainer.task), "validate", validate)
    weight = next(t for t in trainer.average.tensors.values() if t.ndim > 1)
    name = next(n for n, t in trainer.average.tensors.items() if t is weight)
    for level in range(4):
        weight.fill_(float(level))
        trainer.validate(Log())  # type: ignore[arg-type]
        found.append(float(load_tensors(tmp_path / "best" / "model.safetensors")[name].mean()))
    assert found == [0.0, 1.0, 1.0, 1.0]


def test_the_best_weights_are_kept_only_if_asked_for(tmp_path: Path, photos: Path) -> None:
    cfg = micro(tmp_path, photos, keep_best=False)
    Trainer(replace(cfg, optim=replace(cfg.optim, steps=2))).run()
    assert (tmp_path / "model").is_dir()
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(
    workers: int, finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an epoch of pictures, of the curriculum, and after a validation."""
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        Trainer(micro(tmp_path, photos, data_workers=workers)).run()
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "mean_image", partial(mean_image, n_objects=4))
        torch.manual_seed(99)  # whatever happened in between
        resumed = Trainer(micro(tmp_path, photos))
        assert resumed.step == 3
        resumed.run()
    assert_same_runs(finished, tmp_path)


def test_single_pictures_change_what_is_learnt(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    cfg = micro(tmp_path, photos, keep_best=False, validate_every=100)
    Trainer(
        replace(cfg, data=replace(cfg.data, photos=""), self_training=SelfTrainingConfig())
    ).run()
    a, b = (load_tensors(out / "model" / "model.safetensors") for out in (finished, tmp_path))
    assert not torch.equal(a["decoder.layers.0.weight"], b["decoder.layers.0.weight"])


def test_all_of_it_can_be_trained_with(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every term of the public code, SSIM for LPIPS and a stand-in for CLIP."""
    monkeypatch.setattr(perceptual, "load_clip", lambda networks, device: fake_clip)
    cfg = micro(tmp_path, photos, keep_best=False, validate_every=100)
    task = replace(
        cfg.self_training,
        input_mask=0.3,
        cycle_mask=10.0,
        cycle_perceptual=10.0,
        cycle_poses="floor",
        cycle_size=12,
        semantic=1.0,
        semantic_views=3,
        semantic_poses="coupled",
    )
    cfg = replace(
        cfg,
        self_training=task,
        data=replace(cfg.data, picture_size=8),
        networks=replace(cfg.networks, perceptual="ssim"),
        loss=replace(cfg.loss, perceptual=1.0),
        optim=replace(cfg.optim, steps=2),
    )
    Trainer(cfg).run()
    [line] = lines(tmp_path, "train")
    terms = ("input_rgb", "input_mask", "cycle_rgb", "cycle_mask", "cycle_perceptual", "semantic")
    own = sum(getattr(task, name) * line[f"self_{name}"] for name in terms)
    assert line["self_loss"] == pytest.approx(own, rel=1e-4)
    known = line["loss_rgb"] + line["loss_mask"] + line["loss_perceptual"]
    assert line["loss"] == pytest.approx(known + own, rel=1e-4)


def test_pictures_that_cannot_be_found_stop_the_run_with_their_path(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="nowhere"):
        Trainer(micro(tmp_path / "run", tmp_path / "nowhere")).run()
