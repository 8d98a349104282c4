"""Shards: read by webdataset, whole or not there."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastrecon.data.folders import remove_leftovers, replacing_folder, write_flushed
from fastrecon.data.shards import write_shards


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Three objects of two views."""
    made = []
    for k, name in enumerate(["apple", "bowl", "cup"]):
        folder = tmp_path / "renders" / name
        for kind in ("depth", "normal"):
            (folder / kind).mkdir(parents=True)
        for i in range(2):
            picture = Image.fromarray(np.full((4, 4, 4), 10 * k + i, np.uint8))
            for kind in ("", "depth", "normal"):
                picture.save(folder / kind / f"{i:03d}.png")
            np.save(folder / f"{i:03d}.npy", np.eye(4)[:3] * k)
        (folder / "transforms.json").write_text(json.dumps({"object": name}))
        (folder / "object.json").write_text("{}")
        made.append(folder)
    return made


def members(shard: Path) -> int:
    with tarfile.open(shard) as tar:
        return len(tar.getnames())


def test_webdataset_reads_them(folders: list[Path], tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is in the extra dev")
    shards = write_shards(folders, tmp_path / "shards", 10**9)
    assert [path.name for path in shards] == ["000000.tar"]
    samples = list(webdataset.WebDataset([str(p) for p in shards], shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["apple", "bowl", "cup"]
    last = samples[-1]
    fields = {f"{i:03d}.{kind}" for i in range(2) for kind in ("png", "npy")}
    fields |= {f"{i:03d}.{kind}.png" for i in range(2) for kind in ("depth", "normal")}
    assert {k for k in last if not k.startswith("__")} == fields | {"transforms.json"}
    assert np.asarray(Image.open(io.BytesIO(last["001.png"])))[0, 0, 0] == 21
    assert np.array_equal(np.load(io.BytesIO(last["000.npy"])), np.eye(4)[:3] * 2)
    assert json.loads(last["transforms.json"]) == {"object": "cup"}


def test_shards_keep_their_size(folders: list[Path], tmp_path: Path) -> None:
    one = write_shards(folders[:1], tmp_path / "one", 10**9)[0].stat().st_size
    two = write_shards(folders, tmp_path / "two", 2 * one)
    assert [members(path) for path in two] == [18, 9]
    assert all(path.stat().st_size <= 2 * one for path in two)
    three = write_shards(folders, tmp_path / "three", 1)  # an object larger than that is alone
    assert len(three) == 3
    assert write_shards([], tmp_path / "none", 10) == []


def test_the_same_objects_give_the_same_bytes(folders: list[Path], tmp_path: Path) -> None:
    first = write_shards(folders, tmp_path / "a", 10**9)[0].read_bytes()
    os.utime(folders[0] / "000.png", (1, 1))
    assert write_shards(folders, tmp_path / "b", 10**9)[0].read_bytes() == first


def test_finished_shards_stay_and_others_are_replaced(folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "shards"
    before = write_shards(folders[:2], out, 10**9)[0].stat()
    assert write_shards(folders[:2], out, 10**9)[0].stat().st_ino == before.st_ino
    after = write_shards(folders, out, 10**9)[0]
    assert members(after) == 27
    assert sorted(p.name for p in tmp_path.iterdir()) == ["renders", "shards"]


def test_a_full_disk_leaves_the_old_shards(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "shards"
    old = write_shards(folders[:1], out, 10**9)[0].read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_shards(folders, out, 10**9)
    assert (out / "000000.tar").read_bytes() == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["renders", "shards"]


def test_arguments(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_bytes must be at least 1"):
        write_shards(folders, tmp_path / "shards", 0)
    with pytest.raises(ValueError, match=r"no dot, got 'a.b'"):
        write_shards([folders[0].rename(tmp_path / "a.b")], tmp_path / "shards", 10)


def test_folders_appear_whole(tmp_path: Path) -> None:
    target = tmp_path / "object"

    def fill(text: str, fail: bool) -> None:
        with replacing_folder(target) as folder:
            write_flushed(folder / "a", text.encode())
            assert not target.exists() or (target / "a").read_text() != text
            if fail:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill("never", fail=True)
    assert list(tmp_path.iterdir()) == []
    fill("old", fail=False)
    with pytest.raises(KeyboardInterrupt):
        fill("never", fail=True)
    assert (target / "a").read_text() == "old"
    fill("new", fail=False)
    assert (target / "a").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_leftovers_of_killed_runs_go(tmp_path: Path) -> None:
    (tmp_path / ".partial-object-1234" / "depth").mkdir(parents=True)
    (tmp_path / ".partial-manifest-1234").write_text("{")
    (tmp_path / "object").mkdir()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["object"]
