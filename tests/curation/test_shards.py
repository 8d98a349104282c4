"""Shards of photographs in, shards of crops out: whole, resumable, and read as single pictures."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastrecon.cli import main
from fastrecon.curation import batches
from fastrecon.curation.batches import Batch, Outcome, curate_shard
from fastrecon.curation.coco import CurationError
from fastrecon.curation.decide import Job
from fastrecon.curation.journal import ATTEMPTS, DEATHS, Journal
from fastrecon.curation.pool import Work, on_processes
from fastrecon.curation.samples import Shard, find_shards
from fastrecon.signals import StopRequest
from tests.curation.made_set import (
    add,
    arguments,
    manifest,
    pack,
    picture,
    shard_arguments,
    shard_bytes,
    write_set,
)
from tests.curation.scenes import Scene, Shape, draw

ROOT = Path(__file__).parents[2]


def scene() -> Scene:
    """A box in front of another one, which is dropped; the first is kept."""
    front = Shape("box", (110, 150), (55, 55), 2)
    return draw([front, Shape("ellipse", (190, 170), (60, 60), 3)], 320, 320)


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        found = {m.name: tar.extractfile(m) for m in tar.getmembers()}
        return {name: file.read() for name, file in found.items() if file}


def reasons(line: dict) -> list[str]:
    return [instance["reason"] for instance in line["instances"]]


def test_shards_give_what_the_folder_gives(tmp_path: Path) -> None:
    """Decisions and the very bytes of crops, whichever way in and out."""
    content = write_set(tmp_path, {f"{k}.png": scene() for k in range(3)})
    pack(tmp_path, content, 2, "png")
    files, packed, both = tmp_path / "files", tmp_path / "packed", tmp_path / "both"
    assert main(arguments(tmp_path, files)) == 0
    assert main([*arguments(tmp_path, both), "--out-shards", "--shard-pictures", "2"]) == 0
    assert main(shard_arguments(tmp_path, packed)) == 0
    lines, from_shards, into_shards = manifest(files), manifest(packed), manifest(both)
    homes = {"0.png": "000", "1.png": "001", "2.png": "000"}
    for name, line in lines.items():
        here, there = from_shards[f"{homes[name]}/{name}"], into_shards[name]
        crops = [i.pop("crop") for i in line["instances"]]
        assert reasons(line) == ["", "occluded"]
        in_tar, from_folder = ([i.pop("crop") for i in x["instances"]] for x in (here, there))
        assert line["instances"] == here["instances"] == there["instances"]
        bytes_of = (files / crops[0]).read_bytes()
        for out, path in ((packed, in_tar[0]), (both, from_folder[0])):
            shard, _, member = path.partition(".tar/")
            assert members(out / f"{shard}.tar")[member] == bytes_of
    for name in ("report.json",):
        assert (files / name).read_text() == (packed / name).read_text()
    assert sorted(shard_bytes(both)) == ["000000.jsonl", "000000.tar", "000001.jsonl", "000001.tar"]


def test_samples_say_what_became_of_them(tmp_path: Path) -> None:
    pack(tmp_path, write_set(tmp_path, {"a.png": scene()}), 1, "png")
    assert main(shard_arguments(tmp_path, tmp_path / "out")) == 0
    found = members(tmp_path / "out" / "shards" / "000.tar")
    assert list(found) == ["000/a_0.png", "000/a_0.json"]
    said = json.loads(found["000/a_0.json"])
    assert (said["image"], said["category"], said["basis"]) == ("000/a.png", "chair", "in front")
    with Image.open(io.BytesIO(found["000/a_0.png"])) as image:
        assert (image.mode, image.size) == ("RGBA", (111, 111))


def test_photo_sets_read_them(tmp_path: Path) -> None:
    posed = pytest.importorskip("fastrecon.data.posed")
    content = write_set(tmp_path, {f"{k}.png": scene() for k in range(2)})
    pack(tmp_path, content, 2, "png")
    assert main(shard_arguments(tmp_path, tmp_path / "out")) == 0
    photos = posed.open_photos(str(tmp_path / "out" / "shards"))
    assert sorted(photos.names) == ["000/0_0", "001/1_100"]
    assert photos.photo(0).shape == (111, 111, 4)
    mask = scene().masks[0]
    shown = picture(scene())[mask.window][mask.inside]
    assert np.allclose(photos.photo(0)[mask.inside][:, :3], shown / 255, atol=1e-6)


def test_names_with_dots_stay_one_key(tmp_path: Path) -> None:
    write_set(tmp_path, {"deep.er/a.b%.png": scene()})
    assert main([*arguments(tmp_path, tmp_path / "out"), "--out-shards"]) == 0
    assert "deep.er/a%2Eb%25_0.png" in members(tmp_path / "out" / "shards" / "000000.tar")


def test_done_shards_stay_and_new_pictures_get_their_own(tmp_path: Path) -> None:
    content = write_set(tmp_path, {f"{k}.png": scene() for k in range(3)})
    out = tmp_path / "out"
    every = [*arguments(tmp_path, out), "--out-shards", "--shard-pictures", "1"]
    missing = tmp_path / "pictures" / "1.png"
    kept = missing.read_bytes()
    missing.unlink()
    assert main(every) == 1
    first = shard_bytes(out)
    assert sorted(first) == ["000000.jsonl", "000000.tar", "000002.jsonl", "000002.tar"]
    assert manifest(out)["1.png"]["status"] == "failed"
    missing.write_bytes(kept)
    assert main(every) == 0
    assert first.items() <= shard_bytes(out).items()
    assert sorted(manifest(out)) == ["0.png", "1.png", "2.png"]
    del content


def test_what_a_kill_leaves_is_done_again(tmp_path: Path) -> None:
    """At every place where a process may be stopped: the same bytes in the end, nothing twice."""
    content = write_set(tmp_path, {f"{k}.png": scene() for k in range(2)})
    pack(tmp_path, content, 2, "png")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main(shard_arguments(tmp_path, whole)) == 0
    wanted = shard_bytes(whole)
    assert main(shard_arguments(tmp_path, out)) == 0
    shards = out / "shards"
    stamps = (shards / "000.tar").stat().st_mtime_ns
    # Between the shard and its manifest; in the middle of a shard; before everything.
    (shards / "001.jsonl").unlink()
    (shards / ".partial-001-abc.tar").write_bytes(b"half")
    (out / ".partial-001.at").write_text("# begun by another\n001/1.png\n" * DEATHS)
    (out / "manifest.jsonl").unlink()
    assert main(shard_arguments(tmp_path, out)) == 0
    assert shard_bytes(out) == wanted
    assert (shards / "000.tar").stat().st_mtime_ns == stamps
    assert not list(out.glob(".partial*"))
    assert manifest(out) == manifest(whole)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_run_continues(tmp_path: Path) -> None:
    content = write_set(tmp_path, {"0.png": scene()})
    pack(tmp_path, content, 1, "png")
    for k in range(1, 60):
        os.link(tmp_path / "in" / "000.tar", tmp_path / "in" / f"{k:03d}.tar")
    out = tmp_path / "out"
    paths = os.pathsep.join(str(ROOT / p) for p in (".", "kernels"))
    run = subprocess.Popen(
        [sys.executable, "-m", "fastrecon", *shard_arguments(tmp_path, out)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while len(list(out.glob("shards/[0-9]*.jsonl"))) < 3:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
        assert run.wait(30) == -signal.SIGKILL
    finally:
        run.kill()
        run.wait()
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("shards/[0-9]*.jsonl")}
    assert 3 <= len(before) < 60
    assert main(shard_arguments(tmp_path, out)) == 0
    assert len(manifest(out)) == 60
    names = [name for path in out.glob("shards/*.tar") for name in members(path)]
    assert len(names) == len(set(names)) == 120
    after = {p.name: p.stat().st_mtime_ns for p in out.glob("shards/[0-9]*.jsonl")}
    assert before.items() <= after.items()


def bad_shard(folder: Path) -> Path:
    """A sample for everything that can be wrong with one."""
    content = write_set(folder, {"x.png": scene()})
    (path,) = pack(folder, content, 1, "png")
    good = {name.partition(".")[2]: data for name, data in members(path).items()}
    said = json.loads(good["json"])
    wrong_size = json.loads(good["json"])
    wrong_size["annotations"][0]["segmentation"]["size"] = [320, 300]
    empty = {"annotations": [dict(said["annotations"][0], segmentation=[])]}
    zero, flat, far = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(zero, np.zeros((320, 320), np.float32))
    np.savez(flat, depth=np.full((320, 320), 3.0))
    np.savez(far, depth=np.full((320, 320), np.inf), other=np.zeros(3))
    without = {key: data for key, data in good.items() if key != "depth.png"}
    samples = {
        "good": good,
        "nothing": {**good, "json": b'{"annotations": []}'},
        "torn": {**good, "png": good["png"][:400]},
        "nopicture": {"json": good["json"], "depth.png": good["depth.png"]},
        "nojson": {"png": good["png"], "depth.png": good["depth.png"]},
        "half": {**good, "json": good["json"][:-9]},
        "caption": {**good, "json": b'{"caption": "a chair", "width": 320}'},
        "two": {**good, "json": json.dumps({**said, "images": [{}, {}]}).encode()},
        "size": {**good, "json": json.dumps(wrong_size).encode()},
        "empty": {**good, "json": json.dumps(empty).encode()},
        "nodepth": without,
        "zero": {**without, "depth.npy": zero.getvalue()},
        "flat": {**without, "depth.npz": flat.getvalue()},
        "far": {**without, "depth.npz": far.getvalue()},
        "tornz": {**without, "depth.npz": far.getvalue()[:-30]},
    }
    with tarfile.open(path, "w") as tar:
        for key, fields in samples.items():
            for field, data in fields.items():
                add(tar, f"./{key}.{field}", data)
        add(tar, "../out.png", good["png"])
        add(tar, "twice.png", good["png"])
        add(tar, "twice.png", good["png"])
        add(tar, "._good.png", b"what some systems leave")
    return path


def test_every_bad_sample_has_its_reason(tmp_path: Path) -> None:
    bad_shard(tmp_path)
    assert main(shard_arguments(tmp_path, tmp_path / "out")) == 1
    lines = {name.removeprefix("000/"): line for name, line in manifest(tmp_path / "out").items()}
    expected = {
        "torn.png": "damaged",
        "nopicture": "no picture",
        "nojson.png": "no nojson.json with COCO's annotations",
        "half.png": "half.json is not whole JSON",
        "caption.png": "has no annotations",
        "two.png": "lists 2 pictures",
        "size.png": "the mask of annotation 0 is 300 x 320 px",
        "nodepth.png": "has no depth map beside it",
        "zero.png": "no depth in it",
        "flat.png": "constant (3)",
        "far.png": "name the array 'depth'",
        "tornz.png": "damaged",
        "../out.png": "leaves the shard",
        "twice.png": "two twice.png",
    }
    expected["far.png"] = "no depth in it"  # of two arrays "depth" is taken
    for name, text in expected.items():
        assert lines[name]["status"] == "failed", name
        assert text in lines[name]["reason"], name
    assert reasons(lines["good.png"]) == ["", "occluded"]
    assert (lines["nothing.png"]["status"], lines["nothing.png"]["instances"]) == ("ok", [])
    assert reasons(lines["empty.png"]) == ["empty_mask"]
    assert len(lines) == len(expected) + 3
    assert sorted(members(tmp_path / "out" / "shards" / "000.tar")) == [
        "000/good_0.json",
        "000/good_0.png",
    ]


def test_shards_that_cannot_be_read(tmp_path: Path) -> None:
    """Nothing is taken of them; mended ones are done, the others are not done again."""
    content = write_set(tmp_path, {f"{k}.png": scene() for k in range(3)})
    paths = pack(tmp_path, content, 3, "png")
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[: len(whole) // 2])
    paths[2].write_bytes(b"")
    out = tmp_path / "out"
    assert main(shard_arguments(tmp_path, out)) == 1
    lines = manifest(out)
    assert sorted(lines) == ["000/0.png", "001.tar", "002.tar"]
    assert all("no whole tar file" in lines[f"00{k}.tar"]["reason"] for k in (1, 2))
    assert sorted(shard_bytes(out)) == ["000.jsonl", "000.tar"]
    paths[1].write_bytes(whole)
    paths[2].unlink()
    assert main(shard_arguments(tmp_path, out)) == 0
    assert sorted(manifest(out)) == ["000/0.png", "001/1.png"]


def test_forms_of_a_samples_json(tmp_path: Path) -> None:
    content = write_set(tmp_path, {"a.png": scene()})
    (path,) = pack(tmp_path, content, 1, "png")
    fields = members(path)
    plain = [
        {"segmentation": a["segmentation"], "category": "cup", "score": 0.5}
        for a in content["annotations"]
    ]
    for said in (content, plain, {"annotations": plain, "width": 320, "height": 320}):
        with tarfile.open(path, "w") as tar:
            for name, data in {**fields, "a.json": json.dumps(said).encode()}.items():
                add(tar, name, data)
        with Shard(path) as shard:
            entry, source = shard.sample("a")
        assert (entry.name, entry.size, entry.problem) == ("000/a.png", (320, 320), "")
        assert [a.category for a in entry.annotations] == 2 * (
            ["chair"] if said is content else ["cup"]
        )
        assert source is not None


def test_a_shard_that_was_replaced(tmp_path: Path, capsys) -> None:
    content = write_set(tmp_path, {"a.png": scene(), "b.png": scene()})
    pack(tmp_path, content, 1, "png")
    assert main(shard_arguments(tmp_path, tmp_path / "out")) == 0
    content["images"].pop()
    pack(tmp_path, content, 1, "png")
    assert main(shard_arguments(tmp_path, tmp_path / "out")) == 1
    assert "delete that file to do it again" in capsys.readouterr().err


def test_folders_that_belong_to_something_else(tmp_path: Path, capsys) -> None:
    content = write_set(tmp_path, {"a.png": scene()})
    (path,) = pack(tmp_path, content, 1, "png")
    os.rename(path.parent, tmp_path / "shards")
    os.makedirs(path.parent)
    moved = ["curate", "--shards", str(tmp_path / "shards"), "--depth-kind", "disparity"]
    before = (tmp_path / "shards" / "000.tar").read_bytes()
    assert main([*moved, "-o", str(tmp_path)]) == 1
    assert "has the input" in capsys.readouterr().err
    assert main([*arguments(tmp_path, tmp_path), "--out-shards"]) == 1
    assert "shards of something else" in capsys.readouterr().err
    assert (tmp_path / "shards" / "000.tar").read_bytes() == before
    out = tmp_path / "out"
    assert main(arguments(tmp_path, out)) == 0
    assert main([*arguments(tmp_path, out), "--out-shards"]) == 1
    assert "crops as files" in capsys.readouterr().err
    assert main([*arguments(tmp_path, tmp_path / "both"), "--out-shards"]) == 0
    assert main(arguments(tmp_path, tmp_path / "both")) == 1
    assert "a run with shards" in capsys.readouterr().err


def test_find_shards(tmp_path: Path) -> None:
    for name in ("a/0.tar", "a/1.tar", "b/1.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_shards([str(tmp_path / "a" / "*.tar"), str(tmp_path / "a")])
    assert [path.name for path in found] == ["0.tar", "1.tar"]
    with pytest.raises(CurationError, match=r"two shards are called 1\.tar"):
        find_shards([str(tmp_path / "*" / "*.tar")])
    with pytest.raises(CurationError, match=r"names no \.tar"):
        find_shards([str(tmp_path / "c*.tar")])


def test_misuse(tmp_path: Path, capsys) -> None:
    pack(tmp_path, write_set(tmp_path, {"a.png": scene()}), 1, "png")
    good = shard_arguments(tmp_path, tmp_path / "out")
    for argv, says in (
        ([*good, "--depth-maps", str(tmp_path)], "--depth-maps is for folders"),
        ([good[0], str(tmp_path), *good[1:]], "got both"),
        ([good[0], *good[3:]], "got neither"),
        ([*good, "--batch-size", "0"], "--batch-size"),
    ):
        assert main(argv) == 2
        assert says in capsys.readouterr().err


def deadly(batch: Batch, job: Job, victim: str, real: int = os.getpid()) -> Outcome:
    """As `curate_shard`, in a process that dies at one picture."""
    assert os.getpid() != real
    examine = batches.examine

    def die(entry, *rest):
        if entry.name == victim and not entry.problem:
            os._exit(7)
        return examine(entry, *rest)

    batches.examine = die
    try:
        return curate_shard(batch, job)
    finally:
        batches.examine = examine


def test_a_picture_that_kills_its_worker_costs_itself(tmp_path: Path) -> None:
    content = write_set(tmp_path, {f"{k}.png": scene() for k in range(4)})
    shards = pack(tmp_path, content, 2, "png")
    job = Job(tmp_path, tmp_path, tmp_path / "out", "disparity")
    job.out.mkdir()
    todo = [Batch(path.stem, "run", shard=path) for path in shards]
    run = partial(deadly, job=job, victim="000/2.png", real=os.getpid())
    with StopRequest() as stop:
        outcomes = list(on_processes(Work(todo, run, _never, ATTEMPTS), 2, stop))
    failed = [record for outcome in outcomes for record in outcome.failed]
    assert [(r.image, "died" in r.reason) for r in failed] == [("000/2.png", True)]
    assert sum(outcome.pictures for outcome in outcomes) == 4
    assert list(members(job.out / "shards" / "000.tar")) == ["000/0_0.png", "000/0_0.json"]
    assert len(members(job.out / "shards" / "001.tar")) == 4


def _never(batch: Batch) -> Outcome:
    raise AssertionError(batch.name)


def test_the_journal_counts_deaths_at_a_place(tmp_path: Path) -> None:
    path = tmp_path / ".at"

    def dies_at(name: str) -> None:
        with path.open("a") as file:
            file.write(f"# begun by me\nfirst\n{name}\n")

    dies_at("a")
    assert not Journal(path, "me").fatal("a")
    dies_at("b")
    dies_at("a")
    path.write_text(path.read_text() + "# begun by me\n")
    journal = Journal(path, "me")
    assert journal.fatal("a")
    assert not journal.fatal("b")
    assert not journal.fatal("first")
    assert not journal.fatal_start()
    assert not Journal(path, "another").fatal("a")
    with journal:
        assert path.exists()
    assert not path.exists()
