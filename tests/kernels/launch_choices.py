"""As if there were a Hopper GPU, with a cache of its own: what tests of launch choices share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fastrecon_kernels.render import tuned
from fastrecon_kernels.render.pack import DecoderShape
from fastrecon_kernels.render.tuned import FieldKey, tuning_for
from fastrecon_kernels.render.tuning import TUNING, Tuning

GPU = torch.device("cuda", 0)
KEY = FieldKey(DecoderShape(40, 3, (64, 64, 4)), 1, "concat", "silu", "bf16")
PLACE = "A GPU, sm_90, triton 3.6.0, fastrecon 0.1.0"
HOPPER = TUNING["hopper"]
FORWARD = {"field": (64, 4), "field_registers": 0, "field_programs": 2, "kept_bytes": 0}
BACKWARD = {"group": (64, 4), "group_programs": 2, "pair_layers": False, "window_warps": 0}


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """As if there were a Hopper GPU, with a cache of its own; nothing is launched."""
    monkeypatch.setenv("FASTRECON_CACHE", str(tmp_path))
    monkeypatch.delenv("FASTRECON_TUNE", raising=False)
    monkeypatch.setattr(tuned, "interpreting", lambda: False)
    monkeypatch.setattr(tuned, "tuning_of", lambda device, precision: HOPPER)
    monkeypatch.setattr(tuned, "place_of", lambda device: PLACE)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    tuned.forget()
    yield
    tuned.forget()


def choice(backward: bool = True, key: FieldKey = KEY) -> Tuning:
    return tuning_for(GPU, key, (64,), backward)


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "tuning.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def write_entry(tmp_path: Path, entry: object) -> Path:
    return write(tmp_path, json.dumps({"format": 1, "choices": {PLACE: {str(KEY): entry}}}))
