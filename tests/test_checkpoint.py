"""Checkpoint files: whole or not at all, and errors that say what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastrecon import checkpoint as module
from fastrecon.checkpoint import (
    Checkpoint,
    CheckpointError,
    CheckpointStore,
    load_tensors,
    read_checkpoint,
    save_tensors,
    write_atomic,
)

ROOT = Path(__file__).resolve().parents[1]


def moment(step: int, value: float | None = None) -> Checkpoint:
    weights = torch.full((64,), float(step) if value is None else value)
    return Checkpoint(step, {"model": {"w": weights}, "optimizer": {}}, {"note": f"n{step}"})


def test_tensors_round_trip_bit_for_bit(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "a.weight": torch.randn(3, 5, generator=generator),
        "half": torch.randn(7, generator=generator).bfloat16(),
        "step": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "bytes": torch.arange(9, dtype=torch.uint8),
        "nan": torch.tensor([float("nan"), float("inf")]),
    }
    save_tensors(tmp_path / "deep" / "t.safetensors", tensors, metadata={"who": "me"})
    loaded = load_tensors(tmp_path / "deep" / "t.safetensors")
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert torch.equal(
            loaded[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)
        )


def test_shared_and_strided_tensors_are_saved_by_value(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    save_tensors(tmp_path / "t", {"a": base, "tied": base, "row": base[1], "t": base.T})
    loaded = load_tensors(tmp_path / "t")
    assert torch.equal(loaded["tied"], base)
    assert torch.equal(loaded["row"], base[1])
    assert torch.equal(loaded["t"], base.T)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda good: good[:-4], "truncated or damaged"),
        (lambda good: good[:20], "truncated or damaged"),
        (lambda good: b"", "truncated or damaged"),
        (lambda good: good + b"xx", "truncated or damaged"),
        (lambda good: b"\x89PNG" + bytes(90), "not a safetensors file"),
        (lambda good: b"just some text, nothing else", "not a safetensors file"),
        (lambda good: b"PK\x03\x04" + bytes(90), "PyTorch pickle"),
        (lambda good: b"\x80\x02}q\x00." + bytes(90), "PyTorch pickle"),
        (lambda good: b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    ],
)
def test_unreadable_files_are_named_and_explained(tmp_path, damage, words):
    path = tmp_path / "m.safetensors"
    save_tensors(path, {"w": torch.ones(8)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=words) as error:
        load_tensors(path)
    assert str(path) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="is missing"):
        load_tensors(tmp_path / "nothing.safetensors")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    """A limit on the size of files stands in for a full disk: the write fails half-way."""
    script = f"""
import resource, torch
from fastrecon.checkpoint import CheckpointError, save_tensors, write_atomic
folder = {str(tmp_path)!r}
save_tensors(folder + "/t", {{"w": torch.ones(3)}})
write_atomic(folder + "/b", b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for write in (
    lambda: save_tensors(folder + "/t", {{"w": torch.ones(100_000)}}),
    lambda: write_atomic(folder + "/b", bytes(100_000)),
):
    try:
        write()
    except CheckpointError as error:
        assert "no room to write" in str(error) and "untouched" in str(error), error
    else:
        raise SystemExit("no error")
"""
    pytest.importorskip("resource")
    paths = f"{ROOT}:{ROOT / 'kernels'}"
    subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": paths}, check=True)
    assert torch.equal(load_tensors(tmp_path / "t")["w"], torch.ones(3))
    assert (tmp_path / "b").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "t"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write"):
        write_atomic(tmp_path / "file" / "below", b"x")


def test_store_keeps_the_newest_and_reads_it_back(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    assert store.newest() is None
    for step in (5, 10, 15, 200_000_000):
        store.write(moment(step))
    assert [p.name for p in store.folders()] == ["step_200000000", "step_00000015"]
    newest = store.newest()
    assert newest is not None
    assert (newest.step, newest.state["note"]) == (200_000_000, "n200000000")
    assert torch.equal(newest.tensors["model"]["w"], torch.full((64,), 2e8))
    assert newest.tensors["optimizer"] == {}


def _flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "state.json").unlink(),
        lambda f: (f / "state.json").write_text((f / "state.json").read_text()[:30]),
        lambda f: (f / "state.json").write_text("[]"),
        lambda f: (f / "model.safetensors").unlink(),
        lambda f: (f / "model.safetensors").write_bytes(b"short"),
        lambda f: _flip_last_byte(f / "model.safetensors"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_a_warning_and_can_be_replaced(tmp_path, damage):
    store = CheckpointStore(tmp_path, keep=2)
    store.write(moment(1))
    damage(store.write(moment(2)))
    with pytest.warns(UserWarning, match="skipping a damaged checkpoint"):
        newest = store.newest()
    assert newest is not None
    assert newest.step == 1
    store.write(moment(2, value=7.0))
    assert float(read_checkpoint(tmp_path / "step_00000002").tensors["model"]["w"][0]) == 7.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000001", "step_00000002"]


@pytest.mark.parametrize("killed_in", ["save_tensors", "write_atomic", "_install", "_checksum"])
def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch, killed_in):
    """``KeyboardInterrupt`` at each stage; then a leftover as SIGKILL leaves it."""
    store = CheckpointStore(tmp_path, keep=1)
    store.write(moment(1))

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    target = store if killed_in == "_install" else module
    monkeypatch.setattr(target, killed_in, die)
    with pytest.raises(KeyboardInterrupt):
        store.write(moment(2))
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]

    leftover = tmp_path / f"{module.TEMPORARY}step_00000002-1234"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    newest = store.newest()
    assert newest is not None
    assert newest.step == 1
    store.write(moment(3))
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000003"]


def test_the_state_file_is_plain_json(tmp_path):
    folder = CheckpointStore(tmp_path).write(moment(4))
    state = json.loads((folder / "state.json").read_text())
    assert state["step"] == 4
    assert set(state["files"]) == {"model.safetensors", "optimizer.safetensors"}


def test_keep_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1"):
        CheckpointStore(tmp_path, keep=0)


def test_files_can_be_read_by_whom_the_user_allows(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)})
    modes = {(tmp_path / name).stat().st_mode for name in ("plain", "x.safetensors")}
    assert len(modes) == 1
