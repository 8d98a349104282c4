"""G3DR in miniature: its arms, its judge, a run of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from fastrecon import training_cli
from fastrecon.config.g3dr import G3DRConfig
from fastrecon.config.g3dr_checks import check_g3dr_config
from fastrecon.data.scene_stream import scene_batch
from fastrecon.evaluation.scene_validation import SceneSet, judge_scenes
from fastrecon.experiments import runner
from fastrecon.experiments.experiment import Job, jobs_of
from fastrecon.experiments.g3dr import G3DR_ARMS, SIGMA_SCALES, G3DRMini, evaluate, held_out
from fastrecon.experiments.job import run_job
from fastrecon.experiments.runner import Progress, run_experiment
from fastrecon.models.trigen import TriGen
from fastrecon.objectives.g3dr import choose_view
from fastrecon.recipes.g3dr import g3dr_mini
from tests.test_scene_training import micro

SETTINGS = {"scenes": 3, "views": 2, "split": 5}


def options(out: Path) -> G3DRMini:
    cfg = micro(out)
    return G3DRMini(
        seeds=(0, 1), scenes=2, views=1, config=replace(cfg, optim=replace(cfg.optim, steps=2))
    )


def test_every_arm_changes_what_its_name_says() -> None:
    full = g3dr_mini()
    arms = {name: arm.change(full) for name, arm in G3DR_ARMS.items()}
    for cfg in arms.values():
        check_g3dr_config(cfg)
    changed = {
        name: {k: v for k, v in asdict(cfg.loss).items() if v != asdict(full.loss)[k]}
        for name, cfg in arms.items()
    }
    assert changed == {
        "plain": {"depth_kernel": False},
        "kl": {"depth_kernel": False, "depth": 0.0, "depth_kl": 2.0},
        "kernel": {},
    }
    assert {replace(cfg, loss=full.loss) for cfg in arms.values()} == {full}


def test_arms_see_the_same_scenes_from_the_same_views(tmp_path: Path) -> None:
    asked = options(tmp_path)
    experiment = asked.experiment()
    jobs = jobs_of(experiment, experiment.prepare(True), asked)
    assert len(jobs) == 6
    by_seed: dict[int | None, list[G3DRConfig]] = {}
    for job in jobs:
        assert isinstance(job.config, G3DRConfig)
        by_seed.setdefault(job.seed, []).append(job.config)
    firsts = []
    for configs in by_seed.values():
        batches = [scene_batch(cfg, 1) for cfg in configs]
        for batch in batches[1:]:
            assert torch.equal(batch.images, batches[0].images)
            assert torch.equal(batch.depth, batches[0].depth)
        views = [
            [choose_view(cfg.loss, cfg.run.seed, s, 100) for s in range(100)] for cfg in configs
        ]
        assert views[0] == views[1] == views[2]
        firsts.append(batches[0].images)
    assert not torch.equal(*firsts), "another seed sees others"
    held = [SceneSet.make(held_out(c[0], jobs[0].settings)) for c in by_seed.values()]
    assert torch.equal(held[0].batch.images, held[1].batch.images), "but is judged on the same"


def test_the_judge_scores_every_scene_at_every_scale(tmp_path: Path) -> None:
    cfg = micro(tmp_path)
    torch.manual_seed(0)
    model = TriGen(cfg.model).eval()
    with torch.no_grad():
        scores = evaluate(model, cfg, SETTINGS)
    names = [metric.name for metric in G3DRMini(config=cfg).experiment().metrics]
    assert sorted(names) == sorted(scores)
    assert all(list(v) == ["scene 0", "scene 1", "scene 2"] for v in scores.values())
    assert all(x is not None for values in scores.values() for x in values.values())
    # once more by hand, at one scale
    scenes = SceneSet.make(held_out(cfg, SETTINGS))
    plain = judge_scenes(model, scenes)
    assert plain.novel_psnr is not None
    assert list(scores["psnr_novel"].values()) == plain.novel_psnr.tolist()
    model.config = replace(
        model.config, render=replace(model.config.render, density_scale=SIGMA_SCALES[2])
    )
    scaled = judge_scenes(model, scenes, unscaled=plain.pictures)
    assert scaled.against_unscaled is not None
    assert list(scores["psnr_unscaled_10"].values()) == scaled.against_unscaled.tolist()
    assert list(scores["depth_10"].values()) == scaled.depth_accuracy.tolist()
    assert list(scores["nfs_10"].values()) == scaled.non_flatness.tolist()


def test_from_nothing_to_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(
        jobs: Sequence[Job], at_once: int, one_thread: bool, done: Callable[[], object]
    ) -> Progress:
        for job in jobs:
            run_job(json.loads(json.dumps(job.content())))
            done()
        return Progress()

    monkeypatch.setattr(runner, "run_jobs", here)
    asked = options(tmp_path / "out")
    assert run_experiment(asked.experiment(), asked) == 0
    text = (tmp_path / "out" / "table.md").read_text()
    for words in (
        "minus no regularisation",
        "minus KL",
        "depth accuracy, sigma x 50 ↓",
        "PSNR of novel views, dB ↑",
        "held-out scenes 2",
        "non-flatness of the true depth",
    ):
        assert words in text
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(numbers["results"]) == 6
    rows = {(row["metric"], row["arm"]): row for row in numbers["rows"]}
    assert rows["nfs_50", "kernel"]["over"]["kl"]["verdict"] in ("better", "worse", "inconclusive")
    assert rows["nfs_50", "kernel"]["mean"]["objects"] == 2
    assert (tmp_path / "out" / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert not (tmp_path / "out" / "kernel" / "seed0" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--scenes", "1"], "--scenes must be at least 2"),
        (["--views", "5"], "--views must be at most 4"),
        (["--data.path", "x"], "--data.path must be empty"),
        (["--loss.depth", "0"], "--loss.depth and --loss.novel must be positive"),
    ],
)
def test_requests_that_make_no_sense(
    argv: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert training_cli.main(["g3dr_mini", "--out", str(tmp_path / "out"), *argv]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_lists_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["g3dr_mini", "--dry-run", "--out", str(tmp_path / "out"), "--seeds", "0", "7"]
    assert training_cli.main([*argv, "--device", "cpu", "--arms", "kernel", "plain"]) == 0
    said = capsys.readouterr().out
    steps = g3dr_mini().optim.steps
    for words in (f"plain, seed 0: 0 of {steps} steps", f"kernel, seed 7: 0 of {steps}", "4 runs"):
        assert words in said
    assert not (tmp_path / "out").exists()
