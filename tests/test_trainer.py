"""The loop: exact resume, interruptions, damaged state, bad steps, artefacts, command line."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from fastrecon_kernels import RenderSettings

from fastrecon import training_cli
from fastrecon.checkpoint import CheckpointError, CheckpointStore, load_tensors, save_tensors
from fastrecon.config import (
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
from fastrecon.data.stream import mean_image
from fastrecon.evaluation import validation
from fastrecon.models.lrm import LRM
from fastrecon.objectives import Joint
from fastrecon.signals import Interrupted
from fastrecon.trainer import MAX_BAD_STEPS, Trainer, TrainingError

STEPS = 6


def micro(out: Path, **optim) -> Config:
    """A model of a few thousand parameters; stratified samples, so that seeds matter."""
    model = LRMConfig(
        encoder=EncoderConfig(
            image_size=16, patch_size=8, dim=32, depth=1, heads=2, mlp_dim=32, position_grid=2
        ),
        backbone=BackboneConfig(grid=4, dim=32, depth=1, heads=2, head_dim=16, channels=4),
        decoder=DecoderConfig(hidden=16, layers=1),
        render=RenderSettings(radius=0.87, n_samples=8, stratified=True),
    )
    return Config(
        model=model,
        data=DataConfig(seed=1, views=2, rays_per_view=16, max_parts=2, supersample=1),
        loss=LossConfig(depth=0.1),
        optim=replace(OptimConfig(steps=STEPS, batch_size=2, warmup=2, ema=0.9), **optim),
        run=RunConfig(
            out=str(out),
            device="cpu",
            log_every=2,
            validate_every=100,
            checkpoint_every=100,
            validation_objects=2,
            validation_views=3,
            validation_size=8,
        ),
    )


def with_run(cfg: Config, **run) -> Config:
    return replace(cfg, run=replace(cfg.run, **run))


def stop_after(monkeypatch, steps: int, signum: int = signal.SIGINT) -> None:
    """Send this process a signal during step number ``steps``."""
    original = Trainer.train_step

    def step(self, batch):
        result = original(self, batch)
        if self.step == steps:
            os.kill(os.getpid(), signum)
        return result

    monkeypatch.setattr(Trainer, "train_step", step)


def poison(monkeypatch, bad_steps: set[int]) -> None:
    """Make the loss of these steps NaN, with gradients to match."""
    original = Joint.__call__

    def call(self, model, batch, step):
        loss, metrics = original(self, model, batch, step)
        return (loss * float("nan") if step in bad_steps else loss), metrics

    monkeypatch.setattr(Joint, "__call__", call)


def weights(out: Path, name: str = "ema") -> dict[str, torch.Tensor]:
    checkpoint = CheckpointStore(out / "checkpoints").newest()
    assert checkpoint is not None
    return dict(checkpoint.tensors[name])


@pytest.fixture(scope="module", autouse=True)
def _small_mean_image() -> Iterator[None]:
    """The baseline of the validation is a mean over hundreds of pictures; here four do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "mean_image", partial(mean_image, n_objects=4))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of one uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    Trainer(micro(out)).run()
    return out


def assert_same_state(one: Path, other: Path) -> None:
    for name in ("model", "ema", "optimizer"):
        a, b = weights(one, name), weights(other, name)
        assert set(a) == set(b)
        for key, value in a.items():
            assert torch.equal(value, b[key]), f"{name}: {key} differs"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(
    finished, tmp_path, monkeypatch, signum
):
    cfg = micro(tmp_path / "parts")
    stop_after(monkeypatch, 3, signum)
    with pytest.raises(Interrupted, match="run the same command again") as stopped:
        Trainer(cfg).run()
    assert stopped.value.exit_code == 128 + signum
    monkeypatch.undo()

    torch.manual_seed(99)  # whatever happened in between
    resumed = Trainer(with_run(cfg, log_every=1))
    assert resumed.step == 3
    resumed.run()
    assert_same_state(finished, tmp_path / "parts")
    assert_same_exports(finished, tmp_path / "parts")


def test_muon_and_a_worker_process_resume_exactly(tmp_path, monkeypatch):
    """Batches from another process, two optimizers: the same run, interrupted or not."""
    whole, parts = (micro(tmp_path / name, kind="muon") for name in ("whole", "parts"))
    Trainer(whole).run()
    stop_after(monkeypatch, 2)
    with pytest.raises(Interrupted):
        Trainer(with_run(parts, data_workers=1)).run()
    monkeypatch.undo()
    resumed = Trainer(parts)
    assert resumed.step == 2
    resumed.run()
    assert_same_state(tmp_path / "whole", tmp_path / "parts")
    assert any(
        name.endswith("/momentum_buffer") for name in weights(tmp_path / "parts", "optimizer")
    )


def assert_same_exports(one: Path, other: Path) -> None:
    a, b = (load_tensors(out / "model" / "model.safetensors") for out in (one, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    numbers = [json.loads((out / "validation.json").read_text()) for out in (one, other)]
    assert numbers[0] == numbers[1]


def test_another_seed_gives_other_weights(finished, tmp_path):
    out = tmp_path / "other"
    Trainer(with_run(micro(out), seed=1)).run()
    assert not torch.equal(
        weights(out)["decoder.layers.0.weight"], weights(finished)["decoder.layers.0.weight"]
    )


def test_what_a_run_leaves_behind(finished):
    """Export, validation, metrics, pictures, checkpoint."""
    exported = LRM.from_pretrained(finished / "model").state_dict()
    average = weights(finished, "ema")
    assert all(torch.equal(exported[name], average[name]) for name in average)
    trained = weights(finished, "model")
    assert any(not torch.equal(trained[name], average[name]) for name in average)

    result = json.loads((finished / "validation.json").read_text())
    assert result["step"] == STEPS
    assert result["objects"] == 2
    for group in ("near", "far", "all"):
        scores = result[group]
        assert scores["gain"] == pytest.approx(scores["psnr"] - scores["mean_image_psnr"])
    assert result["all"]["pictures"] == result["near"]["pictures"] + result["far"]["pictures"]

    lines = [json.loads(x) for x in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if x["kind"] == "train"] == [2, 4, 6]
    assert {"loss", "loss_rgb", "loss_mask", "loss_depth", "psnr", "lr", "grad_norm"} <= set(
        lines[0]
    )
    assert (finished / "pictures" / "held_out_00000006.png").stat().st_size > 0
    assert [p.name for p in (finished / "checkpoints").iterdir()] == ["step_00000006"]


def test_a_finished_run_started_again_only_repeats_its_result(finished):
    before = (finished / "validation.json").read_text()
    again = Trainer(micro(finished))
    assert again.step == STEPS
    again.run()
    assert (finished / "validation.json").read_text() == before


def test_fine_tuning_starts_from_given_weights(finished, tmp_path):
    cfg = with_run(micro(tmp_path), init=str(finished / "model"))
    start = load_tensors(finished / "model" / "model.safetensors")
    trainer = Trainer(cfg)
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, start[name])
        assert torch.equal(trainer.average.tensors[name], start[name])
    wider = replace(cfg.model, decoder=DecoderConfig(hidden=24, layers=1))
    with pytest.raises(CheckpointError, match="decoder"):
        Trainer(replace(cfg, model=wider))


def test_the_loss_falls_on_a_repeated_batch(tmp_path):
    trainer = Trainer(micro(tmp_path, steps=40, lr=3e-3, warmup=1))
    batch = trainer.task.batches("cpu")(0)
    losses = [float((trainer.train_step(batch) or {})["loss"]) for _ in range(40)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_a_kill_in_the_middle_of_a_checkpoint_leaves_the_old_one_usable(tmp_path, monkeypatch):
    cfg = with_run(micro(tmp_path), checkpoint_every=2, keep=1)
    written = []
    original = CheckpointStore.write

    def die_in_the_second(self, checkpoint):
        written.append(checkpoint.step)
        if len(written) == 2:
            half = self.folder / ".partial-step_00000004-dead"
            save_tensors(half / "model.safetensors", checkpoint.tensors["model"])
            raise KeyboardInterrupt
        return original(self, checkpoint)

    monkeypatch.setattr(CheckpointStore, "write", die_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        Trainer(cfg).run()
    monkeypatch.undo()
    resumed = Trainer(cfg)
    assert resumed.step == 2
    resumed.run()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000006"]


def test_a_damaged_newest_checkpoint_is_skipped(tmp_path, finished):
    cfg = with_run(micro(tmp_path), checkpoint_every=2)
    Trainer(cfg).run()
    (tmp_path / "checkpoints" / "step_00000006" / "optimizer.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="step_00000006"):
        resumed = Trainer(cfg)
    assert resumed.step == 4
    resumed.run()
    assert_same_state(finished, tmp_path)


def test_a_run_of_another_configuration_is_not_resumed(finished, tmp_path):
    cfg = micro(finished)
    changed = replace(
        cfg, optim=replace(cfg.optim, lr=1.0, steps=9), data=replace(cfg.data, seed=5)
    )
    with pytest.raises(ValueError, match="another configuration") as error:
        Trainer(changed)
    for line in ("optim.lr: 0.0004 then, 1.0 now", "optim.steps: 6 then, 9 now", "data.seed"):
        assert line in str(error.value)
    with pytest.raises(ValueError, match=r"run\.seed: 0 then, 7 now"):
        Trainer(with_run(cfg, seed=7))
    assert Trainer(with_run(cfg, keep=5, log_every=1)).step == STEPS
    with pytest.raises(ValueError, match="give another"):
        Trainer(with_run(cfg, resume=False))


def test_a_step_that_is_not_finite_is_skipped_and_changes_nothing(tmp_path, monkeypatch):
    poison(monkeypatch, {1})
    trainer = Trainer(micro(tmp_path))
    batch = trainer.task.batches("cpu")(0)
    assert trainer.train_step(batch) is not None
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    average = {n: t.clone() for n, t in trainer.average.tensors.items()}
    assert trainer.train_step(batch) is None
    assert (trainer.step, trainer.bad_steps) == (2, 1)
    assert all(torch.equal(p, before[n]) for n, p in trainer.model.named_parameters())
    assert all(torch.equal(t, average[n]) for n, t in trainer.average.tensors.items())
    assert trainer.train_step(batch) is not None
    assert trainer.bad_steps == 0


def test_a_run_that_diverged_stops_with_advice_and_keeps_its_good_checkpoint(tmp_path, monkeypatch):
    cfg = with_run(micro(tmp_path, steps=40), checkpoint_every=4)
    poison(monkeypatch, set(range(4, 40)))
    with pytest.raises(TrainingError, match="10 steps in a row") as error:
        Trainer(cfg).run()
    assert "--optim.lr" in str(error.value)
    assert "step_00000012" in str(error.value)
    assert MAX_BAD_STEPS == 10
    assert all(torch.isfinite(t).all() for t in weights(tmp_path, "model").values())


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    trainer = Trainer(micro(tmp_path))
    good = trainer.save()
    trainer.step = 1
    next(trainer.model.parameters()).data.fill_(float("inf"))
    with pytest.raises(TrainingError, match="no checkpoint was written"):
        trainer.save()
    assert trainer.store.folders() == [good]


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (micro(Path("x"), steps=0), "optim.steps must be at least 1"),
        (micro(Path("x"), lr=-1.0), "optim.lr must be positive"),
        (micro(Path("x"), ema=1.0), r"optim.ema must lie in \[0, 1\)"),
        (micro(Path("x"), precision="fp16"), '"bf16" or "fp32"'),
        (micro(Path("x"), kind="sgd"), 'optim.kind must be "adamw" or "muon"'),
        (with_run(micro(Path("x")), data_workers=-1), "run.data_workers must not be negative"),
        (replace(micro(Path("x")), loss=LossConfig(rgb=-1.0)), "loss.rgb must not be negative"),
        (with_run(micro(Path("x")), device="warp"), "run.device must be"),
        (replace(micro(Path("x")), loss=LossConfig(0.0, 0.0, 0.0)), "every loss weight is 0"),
    ],
)
def test_configurations_that_make_no_sense(cfg, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        Trainer(with_run(cfg, out=str(tmp_path)))
    assert not any(tmp_path.iterdir())


@pytest.fixture
def recipes(monkeypatch, tmp_path) -> Path:
    """One recipe, "micro", that writes under the test's folder."""

    def recipe() -> Config:
        """The smallest."""
        return micro(tmp_path / "default", steps=2)

    monkeypatch.setattr(training_cli, "RECIPES", {"micro": recipe})
    return tmp_path


def test_command_line_overrides_and_runs(recipes):
    argv = ["micro", "--out", str(recipes / "cli"), "--data.seed", "3", "--device", "cpu"]
    cfg = training_cli.parse([*argv, "--optim.lr=0.5", "--run.no-resume"])
    assert (cfg.data.seed, cfg.optim.lr, cfg.run.resume) == (3, 0.5, False)
    assert training_cli.main(argv) == 0
    assert (recipes / "cli" / "model" / "config.json").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["mirco"], "micro"),
        (["micro", "--optim.stepz", "3"], "--optim.steps"),
        (["micro", "--optim.steps", "many"], "many"),
        (["micro", "--model.render.n-samples", "0"], "n_samples must be at least 1"),
    ],
)
def test_command_line_typos_are_answered_with_what_exists(recipes, argv, words, capsys):
    with pytest.raises(SystemExit) as stop:
        training_cli.main(argv)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_command_line_help_documents_the_fields(recipes, capsys):
    with pytest.raises(SystemExit) as stop:
        training_cli.main(["micro", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--optim.weight-decay" in text
    assert "Not applied to biases, norms and tables" in text


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--optim.steps", "0"], "optim.steps must be at least 1"),
        (["--model.backbone.heads", "3"], "backbone.heads"),
    ],
)
def test_command_line_explains_a_bad_value(recipes, argv, words, capsys):
    assert training_cli.main(["micro", *argv]) == 2
    assert words in capsys.readouterr().err


def test_command_line_exit_codes(recipes, monkeypatch, capsys):
    stop_after(monkeypatch, 1, signal.SIGTERM)
    assert training_cli.main(["micro"]) == 143
    assert "run the same command again" in capsys.readouterr().err

    def full(self, checkpoint):
        raise CheckpointError("no room")

    monkeypatch.undo()
    monkeypatch.setattr(training_cli, "RECIPES", {"micro": lambda: micro(recipes / "d", steps=1)})
    monkeypatch.setattr(CheckpointStore, "write", full)
    assert training_cli.main(["micro"]) == 1
    assert "no room" in capsys.readouterr().err
