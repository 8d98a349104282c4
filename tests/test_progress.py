"""Logs, pictures and stop requests."""

from __future__ import annotations

import json
import os
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fastrecon.progress import Meter, RunLog, picture_grid
from fastrecon.signals import StopRequest

TRAIN = {"loss": 0.5, "psnr": 20.0, "images_per_second": 3.0, "data_wait": 0.1}


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_meter_averages_over_its_window_without_reading_tensors():
    meter = Meter()
    meter.add({"loss": torch.tensor(1.0)})
    meter.add({"loss": torch.tensor(3.0)})
    with meter.waiting():
        pass
    values = meter.read(batch_size=4)
    assert values["loss"] == 2.0
    assert values["images_per_second"] > 0
    assert 0 <= values["data_wait"] <= 1
    assert meter.steps == 0


def test_metrics_are_appended_and_a_resumed_run_drops_what_it_will_repeat(tmp_path):
    log = RunLog(tmp_path, total=10)
    for step in (2, 4, 6):
        log.scalars("train", step, TRAIN)
    log.close()
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"kind": "train", "st')  # a kill in the middle of a line
    log = RunLog(tmp_path, total=10, step=4)
    log.scalars("validation", 5, {"psnr_all": 1.0})
    log.close()
    assert [(r["kind"], r["step"]) for r in records(path)] == [
        ("train", 2),
        ("train", 4),
        ("validation", 5),
    ]


def test_without_tensorboard_one_line_says_so_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = RunLog(tmp_path, total=1)
    log.scalars("train", 1, TRAIN)
    path = log.picture("held_out", 1, torch.zeros(3, 4, 4))
    log.close()
    assert 'pip install "fastrecon[train]"' in capsys.readouterr().out
    assert path.exists()
    assert len(records(tmp_path / "metrics.jsonl")) == 1


def test_tensorboard_gets_scalars_and_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path, total=1)
    log.scalars("train", 1, TRAIN)
    log.picture("held_out", 1, torch.zeros(3, 4, 4))
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Scalars("train/psnr")[0].value == 20.0
    assert events.Tags()["images"] == ["held_out"]


def test_picture_grid_places_input_truth_and_rendering(tmp_path):
    images = torch.full((2, 3, 8, 8), 0.5)
    truth = torch.ones(2, 4, 3, 4, 4)
    rendered = torch.zeros(2, 4, 3, 4, 4)
    rendered[1, 0] = 0.25
    grid = picture_grid(images, truth, rendered, objects=2, views=2)
    assert grid.shape == (3, 8, 5 * 4)
    assert grid[0, 0, ::4].tolist() == [0.5, 1.0, 0.0, 1.0, 0.0]
    assert grid[0, 4, ::4].tolist() == [0.5, 1.0, 0.25, 1.0, 0.0]
    log = RunLog(tmp_path, total=1)
    saved = np.asarray(Image.open(log.picture("grid", 7, grid)))
    log.close()
    assert saved.shape == (8, 20, 3)
    assert saved[4, ::4, 0].tolist() == [128, 255, 64, 255, 0]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_stop_request_remembers_one_signal_and_restores(signum):
    before = signal.getsignal(signum)
    with StopRequest() as stop:
        assert stop.signum is None
        os.kill(os.getpid(), signum)
        assert stop.signum == signum
        assert signal.getsignal(signum) == before  # a second one is not ours
    assert signal.getsignal(signum) == before
