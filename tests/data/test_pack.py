"""`fastrecon data pack` from the outside, and its shards: whole, resumable, the same anywhere."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastrecon.cli import main
from fastrecon.data import pack as module
from fastrecon.data.posed import CollectionError, open_collection, open_photos
from fastrecon.data.shard_index import key_of, open_shards, split_name
from tests.data.posed import made_sets as made

ROOT = Path(__file__).parents[2]


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """Five objects, one of them with a dot in its name."""
    source = tmp_path / "objects"
    for k in range(4):
        made.gobjaverse(source / "0" / f"{k:02d}", 2)
    made.gobjaverse(source / "1.5" / "x", 2)
    return source


def pack(*arguments: object, workers: int = 0) -> int:
    return main(["data", "pack", *map(str, arguments), "--workers", str(workers)])


def shard_bytes(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def small(source: Path) -> int:
    """Bytes for two objects of the set."""
    sizes = source.parent / "sizes"
    assert pack(source, "-o", sizes, "--max-bytes", 1) == 0
    return 2 * max(shard.offsets[-1] for shard in open_shards(sizes))


def test_shards_hold_what_the_folders_hold(objects: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    limit = small(objects)
    capsys.readouterr()
    assert pack(objects, "-o", out, "--max-bytes", limit) == 0
    assert "5 objects: 5 packed, 0 already there, 0 skipped; 3 shards" in capsys.readouterr().out
    before, after = open_collection(objects), open_collection(out)
    assert after.layout == "shards"
    assert after.names == before.names
    assert after.names[-1] == "1.5/x"
    for k in range(5):
        assert after.n_views(k) == 2
        there, here = before.views(k), after.views(k)
        assert torch.equal(there.rgba, here.rgba)
        assert torch.allclose(there.c2w, here.c2w, atol=1e-12)
        assert torch.allclose(there.fov_deg, here.fov_deg, atol=1e-12)
    assert torch.equal(after.views(2, [1]).rgba[0], before.views(2).rgba[1])
    one = open_collection(out / "000001.tar")
    assert one.names == before.names[2:4]
    photos = open_photos(out)
    assert np.array_equal(photos.photo(4), before.views(4).rgba[0].permute(1, 2, 0).numpy())


def test_webdataset_reads_them(objects: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is in the extra dev")
    out = tmp_path / "out"
    assert pack(objects, "-o", out, "--max-bytes", small(objects)) == 0
    urls = [str(path) for path in sorted(out.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    names = [sample["__key__"].replace("%2E", ".") for sample in samples]
    assert names == open_collection(out).names
    fields = {key for key in samples[0] if not key.startswith("__")}
    assert fields == {"transforms.json", "000.png", "001.png"}
    stored = (objects / "0" / "00" / "00001" / "00001.png").read_bytes()
    assert samples[0]["001.png"] == stored  # byte for byte
    assert json.loads(samples[0]["transforms.json"])["frames"][1]["file_path"] == "./001"


def test_names_survive_as_keys() -> None:
    for name in ("a", "a/b.c", "1.5/x", "50%2E", "%", "ö/ä.png"):
        assert split_name(f"{key_of(name)}.000.depth.png") == (name, "000.depth.png")
    assert split_name("./a/b.png") == ("a/b", "png")


def test_photographs_keep_their_input_view_and_cameras(tmp_path: Path) -> None:
    made.co3d(tmp_path / "co3d", made.photos())
    out = tmp_path / "out"
    assert pack(tmp_path / "co3d", "-o", out, "--size", 48, "--intrinsics", "measured") == 0
    before = open_collection(tmp_path / "co3d", size=48, intrinsics="measured")
    after = open_collection(out)
    assert after.input_view(0) == before.input_view(0) == 2
    assert torch.equal(after.views(0).rgba, before.views(0).rgba)
    assert torch.allclose(after.views(0).c2w, before.views(0).c2w, atol=1e-12)
    assert torch.allclose(after.views(0).fov_deg, before.views(0).fov_deg, atol=1e-12)
    assert pack(tmp_path / "co3d", "-o", out, "--size", 48) == 1


def test_single_pictures(tmp_path: Path) -> None:
    for k, name in enumerate(("a.b", "c", "deep/d")):
        made.save(np.full((3, 5, 4), 60 * k + 60, np.uint8), tmp_path / "crops" / f"{name}.png")
    out = tmp_path / "out"
    assert pack(tmp_path / "crops", "-o", out, "--max-bytes", 2048) == 0
    photos = open_photos(out)
    assert photos.names == ["a.b", "c", "deep/d"]
    assert photos.photo(2)[0, 0] == pytest.approx([180 / 255] * 4)
    with pytest.raises(CollectionError, match=r"single pictures, not posed .* with open_photos"):
        open_collection(out)
    again = tmp_path / "again"  # shards are a source too
    assert pack(out, "-o", again) == 0
    assert open_photos(again).names == photos.names


def test_damaged_objects_are_skipped_and_reported(objects: Path, tmp_path: Path, capsys) -> None:
    (objects / "0" / "01" / "00001" / "00001.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (objects / "0" / "02" / "00000" / "00000.json").write_text('{"x": NaN}')
    made.save(np.zeros((8, 8, 4), np.uint8), objects / "0" / "03" / "00001" / "00001.png")
    out = tmp_path / "out"
    assert pack(objects, "-o", out, "--max-bytes", 1) == 1
    assert "2 packed, 0 already there, 3 skipped" in capsys.readouterr().out
    skipped = report(out)["skipped"]
    assert list(skipped) == ["0/01", "0/02", "0/03"]
    assert "00001.png is missing or damaged" in skipped["0/01"]
    assert "00000.json" in skipped["0/02"]
    assert "2 sizes" in skipped["0/03"]
    assert open_collection(out).names == ["0/00", "1.5/x"]
    assert pack(objects, "-o", out, "--max-bytes", 1) == 1
    assert "0 packed, 2 already there, 3 skipped" in capsys.readouterr().out
    for name in ("00", "1.5/x"):
        place = objects / "0" / name if name == "00" else objects / name
        for path in place.rglob("*.json"):
            path.write_text("{")
    assert pack(objects, "-o", tmp_path / "none") == 1
    assert report(tmp_path / "none")["packed"] == 0
    with pytest.raises(CollectionError):
        open_collection(tmp_path / "none")


def test_a_second_run_redoes_nothing(
    objects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert pack(objects, "-o", out) == 0
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.tar")}
    monkeypatch.setattr(module, "_pack_one", None)
    assert pack(objects, "-o", out) == 0
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("*.tar")} == before


def test_stopped_between_objects(
    objects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """SIGTERM during the fourth object: the first shard stays, the next run does the rest."""
    whole, out, limit = tmp_path / "whole", tmp_path / "out", small(objects)
    assert pack(objects, "-o", whole, "--max-bytes", limit) == 0
    one = module._pack_one

    def told(item: module.Item, options: module.PackOptions) -> module.Done:
        if item.index == 3:
            signal.raise_signal(signal.SIGTERM)
        return one(item, options)

    monkeypatch.setattr(module, "_pack_one", told)
    assert pack(objects, "-o", out, "--max-bytes", limit) == 128 + signal.SIGTERM
    assert "stopped; 1 shards are whole" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".lock")) == [
        "000000.tar",
        "pack.jsonl",
        "settings.json",
    ]
    monkeypatch.undo()
    assert pack(objects, "-o", out, "--max-bytes", limit) == 0
    assert "3 packed, 2 already there" in capsys.readouterr().out
    assert shard_bytes(out) == shard_bytes(whole)
    assert (out / "shards.json").read_bytes() == (whole / "shards.json").read_bytes()


def test_results_in_the_order_of_the_source() -> None:
    done = [module.Done(index) for index in (4, 2, 3, 6, 5)]
    assert [result.index for result in module._in_order(iter(done), 2)] == [2, 3, 4, 5, 6]


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_with_workers(tmp_path: Path) -> None:
    source, out, whole = tmp_path / "objects", tmp_path / "out", tmp_path / "whole"
    for k in range(40):
        made.nerf(source / f"{k:02d}", 4)
    line = ["data", "pack", str(source), "-o", str(out), "--max-bytes", "30000", "--workers", "1"]
    run = subprocess.Popen(
        [sys.executable, "-m", "fastrecon", *line],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while len(list(out.glob("*.tar"))) < 2 and run.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.tar")}
    journal = out / "pack.jsonl"
    kept = [json.loads(text)["file"] for text in journal.read_text().splitlines()[:-1]]
    with journal.open("a") as file:  # as if it was killed within a line
        file.write('{"following": 40, "sk')
    assert pack(source, "-o", out, "--max-bytes", "30000") == 0
    assert pack(source, "-o", whole, "--max-bytes", "30000") == 0
    assert shard_bytes(out) == shard_bytes(whole)
    assert all((out / name).stat().st_mtime_ns == before[name] for name in kept)
    assert not list(out.glob(".partial-*"))
    assert len(open_collection(out)) == 40


def test_other_settings_are_refused(objects: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert pack(objects, "-o", out) == 0
    assert pack(objects, "-o", out, "--size", 32) == 1
    assert "--size 0 there, 32 now" in capsys.readouterr().err
    made.gobjaverse(objects / "new", 1)
    assert pack(objects, "-o", out) == 1
    assert "--objects 5 there, 6 now" in capsys.readouterr().err
    (out / "settings.json").unlink()
    assert pack(objects, "-o", out) == 1
    assert "settings.json is missing although shards are there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--max-bytes", "0"], 2, "--max-bytes must be at least 1"),
        (["--size", "-1"], 2, "--size must be at least 0"),
        (["--layout", "co3d"], 1, "looked for the layout co3d"),
    ],
)
def test_misuse(tmp_path: Path, capsys, arguments: list[str], code: int, said: str) -> None:
    made.nerf(tmp_path / "in" / "a", 1)
    assert pack(tmp_path / "in", "-o", tmp_path / "out", *arguments) == code
    assert said in capsys.readouterr().err
    assert pack(tmp_path / "in", "-o", tmp_path / "in") == 2
    assert pack(tmp_path / "nowhere", "-o", tmp_path / "out") == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_full_disk(
    objects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    line = (objects, "-o", tmp_path / "out", "--max-bytes", small(objects))
    fsync = os.fsync

    def full(handle: int) -> None:
        if (tmp_path / "out" / "000000.tar").exists():
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert pack(*line) == 1
    assert "no room" in capsys.readouterr().err
    monkeypatch.undo()
    assert pack(*line) == 0
    assert len(open_collection(tmp_path / "out")) == 5


def test_an_index_that_is_not_there(objects: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert pack(objects, "-o", out, "--max-bytes", small(objects)) == 0
    index = (out / "shards.json").read_bytes()
    names = open_collection(out).names
    for content in (None, b"{", b'{"format": 99}', b'{"format": 1, "shards": [{}]}'):
        (out / "shards.json").unlink()
        if content is not None:
            (out / "shards.json").write_bytes(content)
        collection = open_collection(out)
        assert collection.names == names
        assert collection.views(3).rgba.shape[0] == 2
        assert (out / "shards.json").read_bytes() == index
    (out / "000001.tar").rename(tmp_path / "000001.tar")
    with pytest.raises(CollectionError, match=r"000001.tar is missing, although"):
        open_collection(out)
    (out / "shards.json").unlink()
    assert open_collection(out).names == [*names[:2], *names[4:]]


def test_damaged_shards(objects: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert pack(objects, "-o", out, "--max-bytes", small(objects)) == 0
    shard = out / "000001.tar"
    whole = shard.read_bytes()
    third = open_collection(out)._samples.home(3)[0].offsets[1]  # type: ignore[attr-defined]
    for length in (len(whole) - 512, len(whole) - 1024, third, third + 100, 700, 100, 0):
        shard.write_bytes(whole[:length])
        with pytest.raises(CollectionError, match=r"000001.tar is (cut short|no shard)|no sample"):
            open_collection(out)
    shard.write_bytes(whole)
    collection = open_collection(out)
    shard.write_bytes(whole[: third + 2000])  # while it is open
    assert collection.views(2).rgba.shape[0] == 2
    with pytest.raises(CollectionError, match=r"000001.tar is (cut short|damaged)"):
        collection.views(3)
    shard.write_bytes(whole[:third] + bytes(3000) + whole[third + 3000 :])
    with pytest.raises(CollectionError, match=r"000001.tar"):
        open_collection(out).views(3)
    shard.write_bytes((out / "000000.tar").read_bytes())
    (out / "shards.json").unlink(missing_ok=True)
    with pytest.raises(CollectionError, match=r"holds '0/00' a second time|is damaged"):
        open_collection(out)


def test_foreign_tars(tmp_path: Path) -> None:
    def write(name: str, members: list[str]) -> None:
        with tarfile.open(tmp_path / name, "w") as tar:
            for member in members:
                data = io.BytesIO()
                Image.new("RGBA", (2, 2)).save(data, format="PNG")
                info = tarfile.TarInfo(member)
                info.size = len(data.getvalue())
                tar.addfile(info, io.BytesIO(data.getvalue()))

    write("a.tar", ["x.png", "x.json", f"{'long/' * 40}y.png", "z.webp"])
    photos = open_photos(tmp_path)
    assert photos.names == ["x", f"{'long/' * 40}y", "z"]
    assert photos.photo(1).shape == (2, 2, 4)
    write("b.tar", ["x.png"])
    with pytest.raises(CollectionError, match=r"b.tar holds 'x' a second time"):
        open_photos(tmp_path)
    write("b.tar", ["w.txt"])
    with pytest.raises(CollectionError, match=r"b.tar is no shard of posed views"):
        open_photos(tmp_path)
    (tmp_path / "b.tar").write_bytes(b"\x1f\x8b" * 2000)
    with pytest.raises(CollectionError, match=r"b.tar is cut short or damaged"):
        open_photos(tmp_path)
    write("b.tar", [])
    assert len(open_photos(tmp_path)) == 3


def test_shards_of_rendered_meshes_open(tmp_path: Path) -> None:
    """`fastrecon data render --shards` writes the same index; depth and normals are passed over."""
    from fastrecon.data.shards import write_shards

    folder = made.nerf(tmp_path / "in" / "a", 2)
    for path in sorted((folder / "images").iterdir()):
        name = f"{int(path.stem[2:]):03d}.png"
        path.rename(folder / name)
        (folder / "depth").mkdir(exist_ok=True)
        (folder / "depth" / name).write_bytes(b"depth")
    text = (folder / "transforms.json").read_text()
    (folder / "transforms.json").write_text(text.replace('"r_', '"./00'))
    write_shards([folder], tmp_path / "out", 10**9)
    collection = open_collection(tmp_path / "out")
    assert torch.equal(collection.views(0).rgba, open_collection(tmp_path / "in").views(0).rgba)
