"""Checkpoints that must not load: each way to be wrong gets an error that helps."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fastrecon.checkpoint import CheckpointError, save_tensors
from fastrecon.interop.checkpoints import config_from_dict, config_to_dict
from fastrecon.models import LRM


def assert_same(model: LRM, state: Mapping[str, Tensor]) -> None:
    assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)


class Exploit:
    """Unpickled without protection, this would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_does_not_run(small_folder: Path, zipped: bool) -> None:
    target, path = small_folder / "ran", small_folder / "model.ckpt"
    if zipped:
        torch.save({"weight": Exploit(target)}, path)
    else:
        path.write_bytes(pickle.dumps(Exploit(target), protocol=2))
    with pytest.raises(CheckpointError, match="can run code"):
        LRM.from_pretrained(small_folder)
    assert not target.exists()
    if zipped:
        torch.load(path, weights_only=False)
        assert target.exists(), "the pickle was harmless, so the test above proves nothing"


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files(
    small_state: dict[str, Tensor], small_folder: Path, name: str, share: float
) -> None:
    path = small_folder / name
    if name.endswith("ckpt"):
        torch.save(small_state, path)
    else:
        save_tensors(path, small_state)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CheckpointError, match=r"(truncated|not a safetensors|damaged)"):
        LRM.from_pretrained(small_folder)


def test_garbage_and_pointers(small_folder: Path) -> None:
    for data, hint in (
        (os.urandom(2000), "download it again"),
        (b"<html>Not Found</html>", "download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ):
        (small_folder / "model.ckpt").write_bytes(data)
        with pytest.raises(CheckpointError, match=hint):
            LRM.from_pretrained(small_folder)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ({"generator": {"w": torch.zeros(2)}, "step": 4}, "'generator', 'step'"),
        ([torch.zeros(2)], "got list"),
        (torch.zeros(2), "got Tensor"),
        ({"conv.weight": torch.zeros(2, 2)}, "layers but the file only 1 tensors"),
        ({"a": torch.zeros(1), "module.a": torch.zeros(1)}, "with and without"),
    ],
)
def test_foreign_checkpoints(small_folder: Path, content: Any, hint: str) -> None:
    torch.save(content, small_folder / "model.ckpt")
    with pytest.raises(CheckpointError, match=hint):
        LRM.from_pretrained(small_folder)


def test_misfits_are_named(tiny: LRM, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    state = tiny.state_dict()
    for name in [n for n in state if n.startswith("image_tokenizer.model.encoder")]:
        del state[name]
    state["renderer.scale"] = torch.zeros(1)
    state["tokenizer.embeddings"] = torch.zeros(3, 32, 4, 5)
    state["decoder.layers.0.bias"] = torch.zeros(16, dtype=torch.int64)
    save_tensors(tmp_path / "model.safetensors", state)
    with pytest.raises(CheckpointError) as caught:
        LRM.from_pretrained(tmp_path)
    message = str(caught.value)
    assert "16 missing: image_tokenizer.model.encoder.layer.0.attention.attention.query" in message
    assert "and 12 more" in message
    assert "1 unexpected: renderer.scale" in message
    assert "tokenizer.embeddings is (3, 32, 4, 5), not (3, 32, 4, 4)" in message
    assert "decoder.layers.0.bias is torch.int64" in message


def test_nothing_there(tiny: LRM, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        LRM.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="does not exist"):
        LRM.from_pretrained("runs/model.ckpt")
    with pytest.raises(CheckpointError, match="holds no weights"):
        LRM.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config_to_dict(tiny.config)))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        LRM.from_pretrained(tmp_path)


def test_ambiguous_folders_list_their_candidates(
    small_state: dict[str, Tensor], small_folder: Path
) -> None:
    save_tensors(small_folder / "model.safetensors", small_state)
    torch.save({"state_dict": small_state}, small_folder / "model_both.ckpt")
    with pytest.raises(CheckpointError, match=r"model\.safetensors, model_both\.ckpt; name one"):
        LRM.from_pretrained(small_folder)
    assert LRM.from_pretrained(small_folder / "model_both.ckpt").config.camera_distance == 3.0
    assert LRM.from_pretrained(small_folder / "model.safetensors").config.camera_distance == 1.9


def test_two_configurations(tiny: LRM, small_state: dict[str, Tensor], small_folder: Path) -> None:
    save_tensors(small_folder / "model.safetensors", small_state)
    (small_folder / "config.json").write_text("{}")  # as hubs like to find one
    assert_same(LRM.from_pretrained(small_folder), small_state)
    tiny.save_pretrained(small_folder)
    with pytest.raises(CheckpointError, match="two models"):
        LRM.from_pretrained(small_folder)
    assert_same(LRM.from_pretrained(small_folder / "config.json"), tiny.state_dict())


def test_weights_without_a_configuration(small_state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(small_state, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"no config\.yaml or config\.json"):
        LRM.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '"text"', "null", "{}"])
def test_foreign_json(tiny: LRM, tmp_path: Path, text: str) -> None:
    tiny.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        LRM.from_pretrained(tmp_path)


# --- configurations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"format": "other"}, "another program"),
        ({"version": 99}, "install the fastrecon that wrote it"),
        ({"model": {"trunk": 1}}, "'trunk'"),
        ({"model": {"backbone": {"depth": 2.5}}}, r"model\.backbone\.depth must be int"),
        ({"model": {"backbone": {"depth": True}}}, r"model\.backbone\.depth must be int"),
        ({"model": {"backbone": {"dim": [64]}}}, r"model\.backbone\.dim must be int"),
        ({"model": {"backbone": [1, 2]}}, r"model\.backbone must be an object"),
        ({"model": {"encoder": {"dim": "wide"}}}, r"model\.encoder\.dim"),
        ({"model": {"render": {"quadrature": "simpson"}}}, "quadrature"),
        ({"model": {"render": {"near_far": [3.0, 1.0]}}}, "near_far"),
        ({"model": None}, "model must be an object"),
    ],
)
def test_config_fields_are_checked(tiny: LRM, change: dict[str, Any], hint: str) -> None:
    with pytest.raises(CheckpointError, match=hint):
        config_from_dict({**config_to_dict(tiny.config), **change})


def test_a_configuration_that_describes_no_model(tiny: LRM, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    for part, field, value, hint in (
        ("encoder", "heads", 5, "encoder.heads"),
        ("backbone", "depth", 10**9, "1000000003 layers but the file only"),
    ):
        content = config_to_dict(tiny.config)
        content["model"][part][field] = value
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=hint):
            LRM.from_pretrained(tmp_path)
