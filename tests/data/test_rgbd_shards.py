"""Pictures with depth in shards: packed, and the folder's samples to the bit."""

from __future__ import annotations

import io
import json
import pickle
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastrecon.cli import main
from fastrecon.data import pack as module
from fastrecon.data.posed import CollectionError, open_collection, open_photos
from fastrecon.data.rgbd import RGBDError, RGBDSet, open_rgbd, rgbd_batch
from fastrecon.data.shard_index import open_shards
from tests.data.posed import made_sets as made
from tests.data.test_rgbd import make_config, ruined, write_pair

N = 9
CLASSES = ("1.5 litre", "cats", "tabby cat")


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    open_rgbd.cache_clear()
    yield
    open_rgbd.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def packed(folder: Path) -> Path:
    return make_shards(folder)


def make_set(root: Path) -> Path:
    """Three classes of three; two stems whose order is not that of their files' names."""
    for i in range(N):
        stem = ("a", "a-1", "b.c")[i // 3]
        write_pair(root / CLASSES[i % 3], stem, 20 * (i + 1), (".png", ".jpg", ".webp")[i % 3])
    (root / ".depth").mkdir()  # as fastrecon data depth leaves it
    (root / ".depth" / "failed.json").write_text("{}")
    return root


def make_shards(folder: Path) -> Path:
    """Its shards, of three samples each."""
    out = folder.with_name(f"{folder.name}-shards")
    assert pack(folder, "-o", out, "--max-bytes", 11_000) == 0
    assert len(list(out.glob("*.tar"))) == 3
    return out


def copy_shards(packed: Path, out: Path) -> Path:
    """The shards, to be damaged."""
    out.mkdir()
    for path in (*packed.glob("*.tar"), packed / "shards.json"):
        (out / path.name).write_bytes(path.read_bytes())
    return out


def pack(*arguments: object) -> int:
    return main(["data", "pack", *map(str, arguments), "--workers", "0"])


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def pair(tmp_path: Path, how: str = "") -> tuple[bytes, bytes]:
    """A picture and its depth, sound or `ruined`."""
    write_pair(tmp_path / ".pair", "p", 50)
    if how:
        ruined(tmp_path / ".pair", how)
    return tuple((tmp_path / ".pair" / f"p{end}.png").read_bytes() for end in ("", "_depth"))  # type: ignore[return-value]


def assert_same(here: RGBDSet, there: RGBDSet) -> None:
    assert (here.names, here.classes) == (there.names, there.classes)
    assert len(here) == len(there) > 0
    for i in range(len(here)):
        mine, other = here.sample(i), there.sample(i)
        assert torch.equal(mine.image, other.image)
        assert torch.equal(mine.depth, other.depth)
        assert (mine.label, mine.name) == (other.label, other.name)
        assert [file.data for file in here.stored(i)] == [file.data for file in there.stored(i)]


# ------------------------------------------------------------------------------------- what is read


def test_shards_hold_what_the_folder_holds(folder: Path, packed: Path) -> None:
    before, after = open_rgbd(str(folder)), open_rgbd(str(packed))
    assert before.classes == CLASSES
    assert before.names[:3] == ["1.5 litre/a-1", "1.5 litre/a", "1.5 litre/b.c"]
    assert_same(after, before)
    assert after.label("tabby cat") == 2
    with pytest.raises(RGBDError, match="no class 'tabby'; the nearest of 3: tabby cat"):
        after.label("tabby")
    assert after.sample(-1).name == before.sample(-1).name
    with pytest.raises(IndexError):
        after.sample(N)
    assert [label for _, label in after.files] == [label for _, label in before.files]
    assert {path.parent for path, _ in after.files} == {packed}


def test_batches_are_the_folders(folder: Path, packed: Path) -> None:
    for step in range(4):
        there, here = (rgbd_batch(make_config(path), step) for path in (folder, packed))
        assert torch.equal(there.images, here.images)
        assert torch.equal(there.depth, here.depth)
        assert torch.equal(there.labels, here.labels)


def test_webdataset_reads_them(folder: Path, packed: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is in the extra dev")
    urls = [str(path) for path in sorted(packed.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    names = [sample["__key__"].replace("%2E", ".") for sample in samples]
    assert names == open_rgbd(str(folder)).names
    assert {key for key in samples[0] if key[0] != "_"} == {"png", "depth.png", "json"}
    assert json.loads(samples[-1]["json"]) == {"class": "tabby cat"}
    stored = (folder / "tabby cat" / "b.c_depth.png").read_bytes()
    assert samples[-1]["depth.png"] == stored  # byte for byte


def test_a_pickle_is_the_path(packed: Path) -> None:
    samples = open_rgbd(str(packed))
    data = pickle.dumps(samples)
    assert len(data) < 500
    open_rgbd.cache_clear()
    assert_same(pickle.loads(data), samples)


def test_a_sample_needs_no_other(packed: Path, tmp_path: Path) -> None:
    """Opened by the index, and read by its position: the rest of the shard may be anything."""
    copied = copy_shards(packed, tmp_path / "shards")
    shard = open_shards(copied, ("rgbd",))[0]
    data = shard.path.read_bytes()
    start, end = shard.offsets[1:3]
    shard.path.write_bytes(b"x" * start + data[start:end] + b"x" * (len(data) - end))
    assert open_rgbd(str(copied)).sample(1).name == "1.5 litre/a"


def test_one_tar_has_the_numbers_of_all(packed: Path, tmp_path: Path) -> None:
    copied = copy_shards(packed, tmp_path / "shards")
    path = str(copied / "000002.tar")
    samples = open_rgbd(path)
    assert set(samples.names) < set(open_rgbd(str(copied)).names)
    assert samples.classes == CLASSES
    assert samples.sample(0).label == 2
    (copied / "shards.json").unlink()
    open_rgbd.cache_clear()
    assert open_rgbd(path).classes == ("tabby cat",)


def test_one_folder_is_one_class(tmp_path: Path) -> None:
    for i in range(3):
        write_pair(tmp_path / "only", f"p{i}", 100)
    assert pack(tmp_path / "only", "-o", tmp_path / "out") == 0
    assert_same(open_rgbd(str(tmp_path / "out")), open_rgbd(str(tmp_path / "only")))


def test_shards_are_a_source_too(packed: Path, tmp_path: Path) -> None:
    assert pack(packed, "-o", tmp_path / "again", "--max-bytes", 11_000) == 0
    for path in packed.glob("*.tar"):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "again" / "shards.json").read_bytes() == (
        packed / "shards.json"
    ).read_bytes()


def test_tar_files_beside_class_folders(folder: Path, tmp_path: Path) -> None:
    write_pair(tmp_path / "cats", "p", 100)
    write_tar(tmp_path / "download.tar", [("readme", b"x")])
    assert open_rgbd(str(tmp_path)).names == ["cats/p"]
    assert pack(tmp_path, "-o", tmp_path / "out") == 0
    assert open_rgbd(str(tmp_path / "out")).names == ["cats/p"]


def test_foreign_shards(tmp_path: Path) -> None:
    """Plain names, the class as text, folders in between, two shards that know other classes."""
    picture, depth = pair(tmp_path)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key, label in (("0", "dog"), ("1", "ape")):
            directory = tarfile.TarInfo(f"./{key}")
            directory.type = tarfile.DIRTYPE
            tar.addfile(directory)
            for field, data in (("cls", label.encode()), ("depth.png", depth), ("png", picture)):
                info = tarfile.TarInfo(f"./{key}.{field}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    said = json.dumps({"class": "cat"}).encode()
    write_tar(tmp_path / "b.tar", [("2.png", picture), ("2.depth.png", depth), ("2.json", said)])
    for _ in range(2):  # walked through, then by the index
        samples = open_rgbd(str(tmp_path))
        assert samples.classes == ("ape", "cat", "dog")
        assert [samples.sample(i).label for i in range(3)] == [2, 0, 1]
        assert samples.names == ["0", "1", "2"]
        open_rgbd.cache_clear()


# ------------------------------------------------------------------------------------------ packing


def test_what_cannot_be_used_is_reported_and_classes_keep_their_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "set", tmp_path / "out"
    for how in ("8 bits", "colour", "constant", "sizes", "torn depth", "torn picture"):
        write_pair(source / how, "p", 50)
        ruined(source / how, how)
    write_pair(source / "zebras", "p", 50)
    write_pair(source / "zebras", "q", 50)
    (source / "zebras" / "q_depth.png").unlink()
    (source / "empty").mkdir()
    before = open_rgbd(str(source))
    assert pack(source, "-o", out) == 1
    said = capsys.readouterr().out
    assert "1 pictures have no depth and are left out; fastrecon data depth" in said
    assert "7 objects: 1 packed, 0 already there, 6 skipped" in said
    skipped = json.loads((out / "report.json").read_text())["skipped"]
    assert len(skipped) == 6
    assert "p_depth.png must be 16-bit grey, got mode L" in skipped["8 bits/p"]
    assert "p.png is 26 x 20 but its depth 7 x 7" in skipped["sizes/p"]
    after = open_rgbd(str(out))
    assert after.names == ["zebras/p"]
    assert after.classes == before.classes
    assert "empty" not in after.classes
    assert after.sample(0).label == before.label("zebras") == 6


@pytest.mark.parametrize("layout", ["auto", "rgbd"])
def test_stopped_between_pictures(
    folder: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """SIGTERM during the sixth: the first shard stays, the same command makes the same bytes."""
    out, one = tmp_path / "out", module._pack_one
    line = (folder, "-o", out, "--max-bytes", 11_000, "--layout", layout)

    def told(item: module.Item, options: module.PackOptions) -> module.Done:
        if item.index == 5:
            signal.raise_signal(signal.SIGTERM)
        return one(item, options)

    monkeypatch.setattr(module, "_pack_one", told)
    assert pack(*line) == 128 + signal.SIGTERM
    assert sorted(p.name for p in out.glob("[0-9]*")) == ["000000.tar"]
    monkeypatch.undo()
    assert pack(*line) == 0
    for path in (*packed.glob("*.tar"), packed / "shards.json"):
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_what_is_refused(
    folder: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack(folder, "-o", tmp_path / "out", "--size", 8) == 1
    assert "leave out --size" in capsys.readouterr().err
    assert pack(tmp_path, "-o", tmp_path / "out", "--layout", "rgbd") == 1
    assert "holds no picture with depth" in capsys.readouterr().err
    write_pair(tmp_path / "twice" / "cats", "p", 50)
    write_pair(tmp_path / "twice" / "cats", "p", 50, ".jpg")
    assert pack(tmp_path / "twice", "-o", tmp_path / "out") == 1
    assert "p.jpg and" in (said := capsys.readouterr().err)
    assert "share one depth; remove or rename one" in said
    for opened in (open_collection, open_photos):
        with pytest.raises(CollectionError, match=r"pictures with depth, not posed.*open_rgbd"):
            opened(packed)
    made.nerf(tmp_path / "objects" / "a", 1)
    assert pack(tmp_path / "objects", "-o", tmp_path / "views") == 0
    with pytest.raises(RGBDError, match="holds posed views, not pictures with depth"):
        open_rgbd(str(tmp_path / "views"))


def test_pictures_of_another_folder(tmp_path: Path) -> None:
    """A folder that changes within a run is reported, not mixed."""
    for i in range(3):
        write_pair(tmp_path / "set" / "cats", f"p{i}", 50)
    assert pack(tmp_path / "set", "-o", tmp_path / "out") == 0
    write_pair(tmp_path / "set" / "ants", "p", 50)
    assert pack(tmp_path / "set", "-o", tmp_path / "out") == 1
    assert open_rgbd(str(tmp_path / "out")).classes == ("cats",)
