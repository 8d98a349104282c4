"""Runs that train f_trigen on procedural scenes, and on files, at the smallest size."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fastrecon_kernels import RenderSettings

from fastrecon.checkpoint import CheckpointStore, load_tensors
from fastrecon.config import NetworksConfig, OptimConfig, RunConfig
from fastrecon.config.g3dr import G3DRConfig, G3DRLossConfig, RGBDDataConfig, TriGenConfig
from fastrecon.data.rgbd import RGBDError
from fastrecon.models.trigen import TriGen
from fastrecon.signals import Interrupted
from fastrecon.tasks import task_for
from fastrecon.tasks.scene import SceneGeneration
from fastrecon.trainer import Trainer
from tests.data.test_rgbd import write_pair

STEPS = 6


def micro(out: Path, **run: Any) -> G3DRConfig:
    """Six steps of a model with every part; half of the steps are novel views."""
    fields: dict[str, Any] = {
        "out": str(out),
        "device": "cpu",
        "log_every": 2,
        "validate_every": 4,
        "checkpoint_every": 100,
        "validation_objects": 2,
        "validation_views": 2,
        "keep_best": True,
    }
    return G3DRConfig(
        model=replace(
            TriGenConfig.tiny(),
            size=8,
            width=8,
            learned=2,
            channels=4,
            hidden=8,
            render=RenderSettings.g3dr(n_samples=6, n_importance=4),
        ),
        data=RGBDDataConfig(seed=1, max_parts=2),
        loss=G3DRLossConfig(clip=0.0, deep=0.0, novel=0.6),
        networks=NetworksConfig(perceptual="ssim"),
        optim=OptimConfig(steps=STEPS, batch_size=2, warmup=2, ema=0.9, precision="fp32"),
        run=RunConfig(**(fields | run)),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    Trainer(micro(out)).run()
    return out


def lines(out: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def test_what_a_run_leaves_behind(finished: Path) -> None:
    trained = lines(finished, "train")
    assert trained[-1]["step"] == STEPS
    seen = set().union(*trained)
    assert {"canonical_rgb", "canonical_depth", "canonical_perceptual"} <= seen
    assert {"novel_tv", "novel_opacity"} <= seen, "both kinds of views were trained"
    assert all(math.isfinite(v) for line in trained for v in line.values() if v != line["kind"])
    (early, last) = lines(finished, "validation")
    assert (early["step"], last["step"]) == (4, STEPS)
    assert {"psnr_input", "psnr_novel", "depth_accuracy", "nfs"} <= set(last)
    report = json.loads((finished / "validation.json").read_text())
    assert report["scenes"] == 2
    assert report["novel_psnr"]["mean"] == pytest.approx(last["psnr_novel"])
    assert (finished / "best" / "model.safetensors").exists()
    model = TriGen.from_pretrained(finished / "model")
    assert model.config == micro(finished).model


def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer.train_step

    def step(self: Trainer, batch: Any) -> Any:
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch)

    cfg = micro(tmp_path)
    monkeypatch.setattr(Trainer, "train_step", step)
    with pytest.raises(Interrupted, match="stopped after step 3"):
        Trainer(cfg).run()
    monkeypatch.setattr(Trainer, "train_step", original)
    torch.manual_seed(99)  # whatever else happens in between
    Trainer(cfg).run()
    for out in (tmp_path, finished):
        assert CheckpointStore(out / "checkpoints").newest() is not None
    one, other = (load_tensors(out / "model" / "model.safetensors") for out in (tmp_path, finished))
    assert set(one) == set(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    a, b = (CheckpointStore(out / "checkpoints").newest() for out in (tmp_path, finished))
    assert a is not None
    assert b is not None
    for group, tensors in a.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, b.tensors[group][name]), f"{group}/{name}"


def test_it_learns_its_scenes(tmp_path: Path) -> None:
    """The same two scenes again and again: the loss of the canonical view falls."""
    cfg = micro(tmp_path)
    cfg = replace(
        cfg,
        loss=replace(cfg.loss, novel=0.0, around_depth=0.0),
        optim=replace(cfg.optim, steps=120, lr=1e-2, warmup=0),
    )
    trainer = Trainer(cfg)
    batch = task_for(cfg).batches("cpu")(0)
    found = []
    for _ in range(cfg.optim.steps):
        metrics = trainer.train_step(batch)
        assert metrics is not None
        found.append([float(metrics[f"canonical_{name}"]) for name in ("rgb", "depth")])
    first, last = (torch.tensor(part).mean(0) for part in (found[:5], found[-5:]))
    assert bool((last < 0.7 * first).all()), (first, last)


def test_weights_to_start_from(finished: Path, tmp_path: Path) -> None:
    cfg = micro(tmp_path, init=str(finished / "model"))
    found = task_for(cfg).build_model().state_dict()
    expected = TriGen.from_pretrained(finished / "model").state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    other = replace(cfg, model=replace(cfg.model, channels=8))
    with pytest.raises(ValueError, match=r"channels|shape|size"):
        task_for(other).build_model()


def test_processes_share_a_batch_of_scenes() -> None:
    cfg = micro(Path("unused"))
    shares = [SceneGeneration(cfg).share(rank, 2) for rank in range(2)]
    assert [share.images_per_step for share in shares] == [1, 1]
    together = [share.batches("cpu")(s).images for s in range(2) for share in shares]
    alone = [
        SceneGeneration(replace(cfg, data=replace(cfg.data, flip=0.0))).batches("cpu")(s)
        for s in range(2)
    ]
    scenes = torch.cat([batch.images for batch in alone])
    for mine, scene in zip(torch.cat(together), scenes, strict=True):
        same = [torch.allclose(mine, x, atol=1e-3) for x in (scene, scene.flip(-1))]
        assert any(same), "the same scenes, divided"
    with pytest.raises(ValueError, match=r"optim.batch_size 2 must be a multiple of the 3"):
        SceneGeneration(cfg).share(0, 3)


def test_pictures_from_files(tmp_path: Path) -> None:
    for i in range(5):
        write_pair(tmp_path / "set" / "cats", f"p{i}", 40 * (i + 1))
    cfg = micro(tmp_path / "out")
    cfg = replace(
        cfg,
        data=replace(cfg.data, path=str(tmp_path / "set")),
        optim=replace(cfg.optim, steps=2),
    )
    Trainer(cfg).run()
    report = json.loads((tmp_path / "out" / "validation.json").read_text())
    assert report["scenes"] == 1
    assert report["novel_psnr"] is None
    missing = replace(
        cfg,
        data=replace(cfg.data, path=str(tmp_path / "nowhere")),
        run=replace(cfg.run, out=str(tmp_path / "other")),
    )
    with pytest.raises(RGBDError, match="nowhere is no folder"):
        Trainer(missing).run()


def test_a_broken_held_out_picture_does_not_end_a_run(tmp_path: Path) -> None:
    for i in range(20):
        write_pair(tmp_path, f"p{i:02d}", 12 * (i + 1))
    cfg = replace(micro(tmp_path / "out"), data=RGBDDataConfig(path=str(tmp_path), seed=1))
    from fastrecon.data.rgbd import open_rgbd, split
    from fastrecon.evaluation.scene_validation import SceneSet

    samples = open_rgbd(str(tmp_path))
    held = split(cfg, samples)[0]
    assert len(held) == 2
    samples.files[held[0]][0].write_bytes(b"no")
    with pytest.warns(UserWarning, match="left out: .* is missing or damaged"):
        assert len(SceneSet.make(cfg).batch.images) == 1
    samples.files[held[1]][0].write_bytes(b"no")
    with pytest.warns(UserWarning, match="left out"), pytest.raises(RGBDError, match="held out"):
        SceneSet.make(cfg)
