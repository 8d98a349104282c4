"""Pretrained models: every layout that is read, by every way of naming it."""

from __future__ import annotations

import json
import math
import os
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fastrecon.checkpoint import CheckpointError, save_tensors
from fastrecon.config import LRMConfig
from fastrecon.interop.checkpoints import config_from_dict, config_to_dict
from fastrecon.models import LRM
from fastrecon.models.vit import ImageTokenizer


def assert_same(model: LRM, state: Mapping[str, Tensor]) -> None:
    assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)


# --- own folders -------------------------------------------------------------------------------


def test_round_trip_is_exact(tiny: LRM, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path / "model")
    again = LRM.from_pretrained(tmp_path / "model")
    assert again.config == tiny.config
    assert_same(again, tiny.state_dict())
    assert not again.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in again.parameters())
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(again.encode(images), tiny.encode(images))
    assert sorted(os.listdir(tmp_path / "model")) == ["config.json", "model.safetensors"]
    by_file = LRM.from_pretrained(str(tmp_path / "model" / "model.safetensors"))
    assert_same(by_file, tiny.state_dict())


def test_half_precision_files_are_fp32_in_memory(tiny: LRM, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path, dtype=torch.float16)
    again = LRM.from_pretrained(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert_same(again, {n: t.half().float() for n, t in tiny.state_dict().items()})
    with torch.no_grad():
        tiny.decoder_view.weights[0][0, 0] = 1e6
    with pytest.raises(ValueError, match=r"decoder.layers.0.weight"):
        tiny.save_pretrained(tmp_path, dtype=torch.float16)
    with pytest.raises(ValueError, match="float16"):
        tiny.save_pretrained(tmp_path, dtype=torch.int8)
    assert LRM.from_pretrained(tmp_path).config == tiny.config, "what was there is still there"


def test_a_loaded_model_does_not_depend_on_its_file(
    small_state: dict[str, Tensor], small_folder: Path
) -> None:
    torch.save(small_state, small_folder / "model.ckpt")
    model = LRM.from_pretrained(small_folder)
    before = model.tokenizer.embeddings.clone()
    with (small_folder / "model.ckpt").open("r+b") as file:
        file.write(b"\0" * (small_folder / "model.ckpt").stat().st_size)
    assert torch.equal(model.tokenizer.embeddings, before)


def test_config_survives_json(tiny: LRM) -> None:
    for config in (LRMConfig(), tiny.config):
        assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_fields_from_before_they_existed_keep_their_default(tiny: LRM) -> None:
    content = config_to_dict(tiny.config)
    del content["model"]["mesh_level"]
    assert config_from_dict(content).mesh_level == LRMConfig().mesh_level


# --- TripoSR and Real3D ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_triposr_layout(
    small_config: LRMConfig, small_state: dict[str, Tensor], small_folder: Path, name: str
) -> None:
    if name.endswith("ckpt"):
        torch.save(small_state, small_folder / name)
    else:
        save_tensors(small_folder / name, small_state)
    for source in (small_folder, small_folder / name, small_folder / "config.yaml"):
        model = LRM.from_pretrained(source)
        assert_same(model, small_state)
        assert model.config == small_config
    # ImageNet statistics are in no checkpoint, and yet there
    assert isinstance(model.image_tokenizer, ImageTokenizer)
    assert model.image_tokenizer.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_old_pickles_are_read_too(small_state: dict[str, Tensor], small_folder: Path) -> None:
    torch.save(small_state, small_folder / "model.ckpt", _use_new_zipfile_serialization=False)
    assert_same(LRM.from_pretrained(small_folder), small_state)


def test_safetensors_are_preferred(small_state: dict[str, Tensor], small_folder: Path) -> None:
    save_tensors(small_folder / "model.safetensors", small_state)
    (small_folder / "model.ckpt").write_bytes(b"never opened")
    assert_same(LRM.from_pretrained(small_folder), small_state)


@pytest.mark.parametrize("name", ["model_both.ckpt", "model_both_trained_v1.ckpt"])
def test_real3d_layout(
    small_config: LRMConfig, small_state: dict[str, Tensor], small_folder: Path, name: str
) -> None:
    wrapped = {f"module.{n}": t for n, t in small_state.items()}
    torch.save({"state_dict": wrapped, "epoch": 3, "best_psnr": 20.5}, small_folder / name)
    model = LRM.from_pretrained(small_folder)
    assert_same(model, small_state)
    assert model.config.camera_distance == 3.0
    assert math.radians(model.config.fov_deg) == pytest.approx(0.691150367)
    assert model.config.foreground_ratio == 0.65
    assert model.config.backbone == small_config.backbone


def test_real3d_needs_no_yaml(
    small_config: LRMConfig,
    small_state: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastrecon.interop.checkpoints.LRMConfig", lambda: small_config)
    torch.save({"state_dict": small_state}, tmp_path / "model_both.ckpt")
    model = LRM.from_pretrained(tmp_path / "model_both.ckpt")
    assert_same(model, small_state)
    assert model.config.camera_distance == 3.0


# --- the hub -----------------------------------------------------------------------------------


def fake_hub(monkeypatch: pytest.MonkeyPatch, folder: Path, online: bool) -> list[Any]:
    """A ``huggingface_hub`` whose every repository is ``folder``."""
    calls: list[Any] = []

    class HfApi:
        def list_repo_files(self, repository: str, revision: str | None = None) -> list[str]:
            if not online:
                raise ConnectionError("offline")
            return [*os.listdir(folder), "examples/chair.png"]

    def snapshot_download(repository: str, **kwargs: Any) -> str:
        calls.append((repository, kwargs))
        if kwargs.get("local_files_only") and not folder.exists():
            raise FileNotFoundError(repository)
        return str(folder)

    module = types.SimpleNamespace(HfApi=HfApi, snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)  # type: ignore[arg-type]
    return calls


def test_hub_ids(
    small_state: dict[str, Tensor], small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"state_dict": small_state}, small_folder / "model_both.ckpt")
    calls = fake_hub(monkeypatch, small_folder, online=True)
    assert_same(LRM.from_pretrained("someone/Real3D", revision="v1"), small_state)
    wanted = {"model_both.ckpt", "config.json", "config.yaml"}
    assert calls[0][0] == "someone/Real3D"
    assert calls[0][1]["revision"] == "v1"
    assert set(calls[0][1]["allow_patterns"]) == wanted
    torch.save(small_state, small_folder / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"name one of them, for example someone/Real3D/"):
        LRM.from_pretrained("someone/Real3D")
    assert LRM.from_pretrained("someone/Real3D/model.ckpt").config.camera_distance == 1.9


def test_hub_offline(
    small_state: dict[str, Tensor], small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(small_state, small_folder / "model.ckpt")
    fake_hub(monkeypatch, small_folder, online=False)
    assert_same(LRM.from_pretrained("someone/TripoSR"), small_state)
    fake_hub(monkeypatch, small_folder / "empty", online=False)
    with pytest.raises(CheckpointError, match=r"could not be fetched.*offline.*by hand"):
        LRM.from_pretrained("someone/TripoSR")


def test_hub_without_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match=r"fastrecon\[hub\]"):
        LRM.from_pretrained("someone/TripoSR")
