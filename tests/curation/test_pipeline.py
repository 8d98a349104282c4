"""`fastrecon curate` from the outside: pictures, COCO and depth in, crops and reasons out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastrecon.cli import main
from fastrecon.curation import pool
from fastrecon.curation.coco import CurationError, Entry, read_coco
from fastrecon.curation.decide import Job
from fastrecon.curation.pipeline import curate
from tests.curation.made_set import arguments, manifest, picture, save, write_set
from tests.curation.scenes import Scene, Shape, draw

ROOT = Path(__file__).parents[2]


def scene(*more: Shape, size: int = 320) -> Scene:
    """A box in front of another one, which is dropped; the first is kept."""
    front = Shape("box", (110, 150), (55, 55), 2)
    behind = Shape("ellipse", (190, 170), (60, 60), 3)
    return draw([front, behind, *more], size, size)


def files(out: Path) -> dict[str, int]:
    """The crops, and when each was written."""
    found = (out / "crops").rglob("*")
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in found if p.is_file()}


def reasons(line: dict) -> list[str]:
    return [instance["reason"] for instance in line["instances"]]


@pytest.mark.parametrize("kind", ["disparity", "metric"])
def test_from_pictures_to_crops(tmp_path: Path, kind: str, capsys) -> None:
    small, cut = Shape("box", (40, 40), (10, 10), 5), Shape("box", (240, 20), (60, 60), 6)
    shown = scene(small, cut)
    content = write_set(tmp_path, {"a.png": shown, "deep/b.png": scene()}, kind)
    content["annotations"][5]["category_id"] = 6
    content["annotations"][0]["score"] = 0.9
    save(tmp_path, content)
    out = tmp_path / "out"
    assert main(arguments(tmp_path, out, kind, sheets=True)) == 0
    lines = manifest(out)
    assert reasons(lines["a.png"]) == ["", "occluded", "size", "border"]
    assert reasons(lines["deep/b.png"]) == ["", "category"]
    first = lines["a.png"]["instances"][0]
    assert (first["basis"], first["score"], first["category"]) == ("in front", 0.9, "chair")
    assert first["box"] == [55, 95, 111, 111]
    assert set(files(out)) == {first["crop"], "crops/deep/b_100.png"}
    with Image.open(out / first["crop"]) as image:
        crop = np.asarray(image)
    mask = shown.masks[0]
    assert crop.shape == (111, 111, 4)
    assert np.array_equal(crop[..., 3] > 0, mask.inside)
    assert np.array_equal(crop[mask.inside][:, :3], picture(shown)[mask.window][mask.inside])
    report = json.loads((out / "report.json").read_text())
    assert report["pictures"] == {"ok": 2, "failed": 0}
    assert (report["instances"], report["kept"]) == (6, 2)
    assert report["dropped_because"] == {"size": 1, "border": 1, "category": 1, "occluded": 1}
    said = capsys.readouterr().out
    assert "occluded: behind a neighbour" in said
    for sheet in ("sheet.png", "stages.png"):
        with Image.open(out / sheet) as image:
            assert np.asarray(image).std() > 10


def test_neighbours_too_small_or_too_unsure_to_keep(tmp_path: Path) -> None:
    """A small neighbour still occludes; one that the detector doubts does not."""
    box, small = Shape("box", (150, 150), (60, 60), 3), Shape("box", (150, 80), (40, 40), 2)
    content = write_set(tmp_path, {"a.png": draw([box, small], 320, 320)})
    assert main(arguments(tmp_path, tmp_path / "out")) == 0
    assert reasons(manifest(tmp_path / "out")["a.png"]) == ["occluded", "size"]
    content["annotations"][1]["score"] = 0.2
    save(tmp_path, content)
    assert main(arguments(tmp_path, tmp_path / "unsure")) == 0
    assert reasons(manifest(tmp_path / "unsure")["a.png"]) == ["", "score"]


def test_every_bad_picture_has_its_reason(tmp_path: Path) -> None:
    names = ["good", "nothing", "torn", "gone", "nodepth", "flat", "size", "mask", "empty"]
    content = write_set(tmp_path, {f"{name}.png": scene() for name in names})
    number = {name: k for k, name in enumerate(names)}
    of = {name: content["annotations"][2 * k : 2 * k + 2] for name, k in number.items()}
    content["annotations"] = [a for name in names if name != "nothing" for a in of[name]]
    torn = tmp_path / "pictures" / "torn.png"
    torn.write_bytes(torn.read_bytes()[:300])
    (tmp_path / "pictures" / "gone.png").unlink()
    (tmp_path / "depth" / "nodepth.png").unlink()
    Image.fromarray(np.full((320, 320), 7, np.uint16)).save(tmp_path / "depth" / "flat.png")
    Image.new("RGB", (300, 320)).save(tmp_path / "pictures" / "size.png")
    of["mask"][0]["segmentation"]["size"] = [320, 300]
    of["empty"][0]["segmentation"] = []
    of["empty"][1]["category_id"] = 77
    content["annotations"].append(dict(of["good"][0], id=999, image_id=99))
    save(tmp_path, content)
    out = tmp_path / "out"
    assert main(arguments(tmp_path, out)) == 1
    lines = manifest(out)
    expected = {
        "torn.png": "damaged",
        "gone.png": "does not exist",
        "nodepth.png": "no depth map",
        "flat.png": "constant (7)",
        "size.png": "is 300 x 320 px, its annotations are for 320 x 320",
        "mask.png": "the mask of annotation 700 is 300 x 320 px",
        "coco.json image_id 99": "does not list",
    }
    for name, text in expected.items():
        assert lines[name]["status"] == "failed"
        assert text in lines[name]["reason"]
        assert lines[name]["instances"] == []
    assert reasons(lines["good.png"]) == ["", "occluded"]
    assert (lines["nothing.png"]["status"], lines["nothing.png"]["instances"]) == ("ok", [])
    assert reasons(lines["empty.png"]) == ["empty_mask", "unknown_category"]
    assert list(files(out)) == ["crops/good_0.png"]
    # Mended, the failed ones are done; the others are not done again.
    before = files(out)
    Image.fromarray(picture(scene())).save(torn)
    assert main(arguments(tmp_path, out)) == 1
    assert manifest(out)["torn.png"]["status"] == "ok"
    assert before.items() <= files(out).items()


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    write_set(tmp_path, {f"{k}.png": scene() for k in range(3)})
    for workers in (0, 2):
        assert main(arguments(tmp_path, tmp_path / str(workers), workers=workers)) == 0
    assert manifest(tmp_path / "0") == manifest(tmp_path / "2")
    assert set(files(tmp_path / "0")) == set(files(tmp_path / "2"))


class Deadly(Entry):
    """Kills the process that receives it."""

    def __reduce__(self):
        return os._exit, (7,)


def test_a_worker_that_dies_costs_one_picture(tmp_path: Path) -> None:
    write_set(tmp_path, {f"{k}.png": scene() for k in range(3)})
    entries = read_coco(tmp_path / "coco.json")
    entries[1] = Deadly(entries[1].name, entries[1].size, entries[1].annotations)
    job = Job(tmp_path / "pictures", tmp_path / "depth", tmp_path / "out", "disparity")
    assert curate(entries, job, 1) == 1
    lines = manifest(job.out)
    assert [lines[f"{k}.png"]["status"] for k in range(3)] == ["ok", "failed", "ok"]
    assert "the process that worked on it died" in lines["1.png"]["reason"]


def test_workers_that_do_not_start_are_not_the_pictures_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path, {"a.png": scene()})
    job = Job(tmp_path / "pictures", tmp_path / "depth", tmp_path / "out", "disparity")
    monkeypatch.setattr(pool, "follow_parent", partial(os._exit, 3))
    with pytest.raises(CurationError, match="do not start"):
        curate(read_coco(tmp_path / "coco.json"), job, 1)
    assert manifest(job.out) == {}


def start(folder: Path, out: Path, workers: int) -> subprocess.Popen:
    paths = os.pathsep.join(str(ROOT / p) for p in (".", "kernels"))
    command = [sys.executable, "-m", "fastrecon", *arguments(folder, out, workers=workers)]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def whole_lines(out: Path) -> int:
    path = out / "manifest.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL and SIGTERM")
@pytest.mark.parametrize(("sent", "workers"), [(signal.SIGKILL, 1), (signal.SIGTERM, 0)])
def test_a_stopped_run_continues(tmp_path: Path, sent: int, workers: int) -> None:
    content = write_set(tmp_path, {"0.png": scene()})
    count = 400
    first = content["images"][0]
    content["images"] = [dict(first, id=k, file_name=f"{k}.png") for k in range(count)]
    pair = content["annotations"]
    content["annotations"] = [
        dict(a, id=10 * k + a["id"], image_id=k) for k in range(count) for a in pair
    ]
    save(tmp_path, content)
    for folder in ("pictures", "depth"):
        for k in range(1, count):
            os.link(tmp_path / folder / "0.png", tmp_path / folder / f"{k}.png")
    out = tmp_path / "out"
    run = start(tmp_path, out, workers)
    try:
        deadline = time.monotonic() + 60
        while whole_lines(out) < 3:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        run.send_signal(sent)
        assert run.wait(30) == (-sent if sent == signal.SIGKILL else 128 + sent)
    finally:
        run.kill()
        run.wait()
    done = whole_lines(out)
    assert 3 <= done < count
    path = out / "manifest.jsonl"
    listed = [json.loads(line) for line in path.read_text().splitlines()[:done]]
    kept = {i["crop"] for line in listed for i in line["instances"] if i["kept"]}
    before = files(out)
    assert kept <= before.keys()  # what is listed is there
    with path.open("a") as file:
        file.write('{"image": "399.png", "sta')  # as a kill in the middle of a line leaves it
    # A set of a few more is enough to see that the rest is done, and only the rest.
    names = {line["image"] for line in listed}
    entries = read_coco(tmp_path / "coco.json")
    few = [e for e in entries if e.name in names] + [e for e in entries if e.name not in names][:20]
    job = Job(tmp_path / "pictures", tmp_path / "depth", out, "disparity")
    assert curate(few, job, 0) == 0
    assert set(manifest(out)) == {e.name for e in few}
    after = files(out)
    assert all(after[crop] == before[crop] for crop in kept)  # not written again
    crops = {i["crop"] for line in manifest(out).values() for i in line["instances"] if i["kept"]}
    assert len(crops) == len(few)
    for crop in crops:
        with Image.open(out / crop) as image:
            image.load()
            assert image.size == (111, 111)


def test_other_settings_need_another_folder(tmp_path: Path, capsys) -> None:
    write_set(tmp_path, {"a.png": scene()})
    out = tmp_path / "out"
    assert main(arguments(tmp_path, out)) == 0
    assert main([*arguments(tmp_path, out), "--min-scale", "50"]) == 1
    said = capsys.readouterr().err
    assert "filters.min_scale 100.0 there, 50.0 now" in said
    assert main([*arguments(tmp_path, out), "--occlusion", "paper"]) == 1
    assert "occlusion.points 100 there, 20 now" in capsys.readouterr().err
    (out / "manifest.jsonl").write_text('{"status": "fine"}\n')
    assert main(arguments(tmp_path, out)) == 1
    assert "line 1 is damaged" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="needs fcntl")
def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    import fcntl

    write_set(tmp_path, {"a.png": scene()})
    job = Job(tmp_path / "pictures", tmp_path / "depth", tmp_path / "out", "disparity")
    job.out.mkdir()
    with (job.out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CurationError, match="another run is writing"):
            curate([], job, 0)


def test_names_that_would_share_a_crop(tmp_path: Path) -> None:
    write_set(tmp_path, {"a.png": scene(), "A.jpg": scene()})
    assert main(arguments(tmp_path, tmp_path / "out")) == 1
    assert all("rename one" in line["reason"] for line in manifest(tmp_path / "out").values())


def test_misuse(tmp_path: Path, capsys) -> None:
    write_set(tmp_path, {"a.png": scene()})
    good = arguments(tmp_path, tmp_path / "out")
    for argv, says in (
        ([*good, "--segment", "x"], "pass one of --instances or --segment, got both"),
        (good[:2] + good[4:], "got neither"),
        ([*good, "--workers", "-1"], "--workers"),
        ([*good, "--min-margin", "-1"], "--min-margin"),
        (["curate", str(tmp_path / "none"), *good[2:]], "is no folder"),
    ):
        assert main(argv) == 2
        assert says in capsys.readouterr().err
    (tmp_path / "coco.json").write_text("{")
    assert main(good) == 1
    assert "not whole JSON" in capsys.readouterr().err
