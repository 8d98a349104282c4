"""Arms x seeds end to end: results, continuing, failures, interruptions, the command line."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastrecon import training_cli
from fastrecon.config import Config
from fastrecon.evaluation import validation
from fastrecon.experiments import runner
from fastrecon.experiments.experiment import ExperimentError, Job, jobs_of, restored
from fastrecon.experiments.job import run_job
from fastrecon.experiments.runner import Progress, run_experiment, run_jobs
from tests.experiments import fake

JUDGES = """
def good(model, cfg, settings):
    return {"psnr": {"a": settings["shift"]}}

def broken(model, cfg, settings):
    raise ValueError("the ruler is broken")
"""
"""A module that other processes find."""


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Jobs run in this process; the list fills with their names."""
    names: list[str] = []
    monkeypatch.setattr(validation, "mean_image", lambda cfg, size: torch.ones(3, size, size))

    def here(
        jobs: Sequence[Job], at_once: int, one_thread: bool, done: Callable[[], object]
    ) -> Progress:
        for job in jobs:
            names.append(job.name)
            run_job(job.content())
            done()
        return Progress()

    monkeypatch.setattr(runner, "run_jobs", here)
    return names


def jobs(cfg: Config, **changed) -> list[Job]:
    experiment = fake.experiment(cfg, **changed)
    return jobs_of(experiment, experiment.prepare(False), fake.options(cfg))


def test_an_experiment_from_nothing_to_its_table(ran: list[str], tmp_path: Path) -> None:
    cfg, page = fake.config(tmp_path / "out"), tmp_path / "page.md"
    page.write_text("before\n<!-- fastrecon fake: begin -->\n<!-- fastrecon fake: end -->\nafter\n")
    experiment = fake.experiment(cfg)
    assert run_experiment(experiment, fake.options(cfg, markdown=page)) == 0
    assert ran == ["start", "slow, seed 0", "fast, seed 0", "slow, seed 1", "fast, seed 1"]
    folder = tmp_path / "out" / "fast" / "seed1"
    result = json.loads((folder / "result.json").read_text())
    assert (result["config"]["run"]["seed"], result["config"]["data"]["seed"]) == (1, 1)
    assert result["config"]["optim"]["lr"] == 1e-2
    assert result["scores"]["chamfer"]["b"] is None
    assert not (folder / "checkpoints").exists()
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(numbers["results"]) == 5
    assert numbers["conditions"]["photographs"] == 3
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "minus slowly" in text
    assert (tmp_path / "fake.png").read_bytes()[:4] == b"\x89PNG"

    ran.clear()  # the same command again has nothing to do
    assert run_experiment(experiment, fake.options(cfg, markdown=page)) == 0
    assert ran == []

    (folder / "result.json").unlink()  # killed while it was judged: it is not trained again
    before = (folder / "trained.json").stat().st_mtime_ns
    assert run_experiment(experiment, fake.options(cfg)) == 0
    assert ran == ["fast, seed 1"]
    assert (folder / "trained.json").stat().st_mtime_ns == before
    assert json.loads((folder / "result.json").read_text())["scores"] == result["scores"]

    other = replace(cfg, optim=replace(cfg.optim, batch_size=2))
    with pytest.raises(ExperimentError, match="another configuration") as error:
        run_experiment(fake.experiment(other), fake.options(other))
    assert "optim.batch_size: 1 then, 2 now" in str(error.value)


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = fake.config(tmp_path / "out")
    assert run_experiment(fake.experiment(cfg), fake.options(cfg, dry_run=True)) == 0
    assert not (tmp_path / "out").exists()
    said = capsys.readouterr().out
    for words in ("3 to make", "start: to be judged", "fast, seed 1: 0 of 2 steps", "5 runs"):
        assert words in said


def test_a_failed_run_is_reported_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "judges.py").write_text(JUDGES)
    monkeypatch.syspath_prepend(tmp_path)
    start, slow = jobs(fake.config(tmp_path / "out"))[:2]
    start = replace(start, evaluate="judges:good")
    broken = replace(slow, evaluate="judges:broken")
    done: list[bool] = []
    progress = run_jobs([broken, start], 2, True, lambda: done.append(True))
    assert list(progress.failed) == ["slow, seed 0"]
    assert "the ruler is broken" in progress.failed["slow, seed 0"]
    assert "exit code 1" in progress.failed["slow, seed 0"]
    assert (done, progress.stopped) == ([True], None)
    assert (slow.folder / "trained.json").exists()  # only what failed is to be done again
    assert json.loads((start.folder / "result.json").read_text())["conditions"]["threads"] == 1


@pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")
def test_a_stop_reaches_the_runs_and_they_write_checkpoints(tmp_path: Path) -> None:
    slow = jobs(fake.config(tmp_path, steps=1_000_000))[1]

    def stop() -> None:
        deadline = time.monotonic() + 60
        while not list(slow.folder.glob("checkpoints/step_*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    progress = run_jobs([slow], 1, True, lambda: None)
    assert (progress.stopped, progress.failed) == (signal.SIGINT, {})
    log = (slow.folder / "log.txt").read_text()
    assert "stopped after step" in log
    assert json.loads((slow.folder / "clock.json").read_text())["seconds"] > 0
    assert not (slow.folder / "result.json").exists()


def test_configurations_survive_json(tmp_path: Path) -> None:
    cfg = fake.config(tmp_path)
    content = json.loads(json.dumps(jobs(cfg)[0].content()))
    assert content["config_type"] == "fastrecon.config.reconstruction:Config"
    assert restored(Config(), content["config"]) == jobs(cfg)[0].config


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"arms": ("fats",)}, "no arm is called fats; there are start, slow, fast"),
        ({"seeds": (1, 1)}, "--seeds must be different"),
        ({"jobs": -1}, "--jobs must not be negative"),
    ],
)
def test_requests_that_make_no_sense(changed: dict, words: str, tmp_path: Path) -> None:
    cfg = fake.config(tmp_path / "out")
    with pytest.raises(ValueError, match=words):
        run_experiment(fake.experiment(cfg), fake.options(cfg, **changed))
    assert not (tmp_path / "out").exists()


def test_a_page_without_a_place_is_refused_before_the_work(tmp_path: Path) -> None:
    cfg, page = fake.config(tmp_path / "out"), tmp_path / "page.md"
    page.write_text("nothing here")
    with pytest.raises(ValueError, match="fastrecon fake: begin"):
        run_experiment(fake.experiment(cfg), fake.options(cfg, markdown=page))
    assert not (tmp_path / "out").exists()


def test_the_command_line_lists_and_overrides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list = []
    monkeypatch.setattr(runner, "run_experiment", lambda experiment, options: seen.append(options))
    argv = ["real3d_mini", "--steps", "7", "--arms", "pix", "base", "--seeds", "4", "--out", "x"]
    training_cli.main([*argv, "--optim.batch-size=3", "--views", "2"])
    (options,) = seen
    assert (options.arms, options.seeds, options.views) == (("pix", "base"), (4,), 2)
    assert (options.config.optim.steps, options.config.optim.batch_size) == (7, 3)
    assert options.config.run.out == "x"
    assert training_cli.main(["real3d_mini", "--views", "0"]) == 2
    assert "--views must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        training_cli.main(["--help"])
    assert "real3d_mini" in capsys.readouterr().out
