"""`fastrecon evaluate` from the outside, with a model of some ten thousand parameters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastrecon.cli import main
from fastrecon.data.meshes.render import MeshRenderer, RenderError
from fastrecon.evaluation.options import EvaluateOptions, ObjectOptions, PictureOptions
from fastrecon.models.lrm import LRM
from fastrecon.perceptual import WeightsError, l1_ssim
from tests.data.meshes.made_meshes import cube, sphere
from tests.evaluation.made_views import disc, write_object, write_photo
from tests.micro import micro_config

QUICK = ["--objects", "2", "--views", "3", "--size", "12", "--resolution", "12", "--points", "50"]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        "fastrecon.data.stream.mean_image", lambda cfg, size: torch.full((3, size, size), 0.9)
    )

    def no_clip(*arguments: object) -> None:  # never try a download
        raise WeightsError("no CLIP here; bring --networks.clip-weights")

    monkeypatch.setattr("fastrecon.perceptual.load_clip", no_clip)
    monkeypatch.setattr("fastrecon.perceptual.build_perceptual", lambda *a: l1_ssim)
    torch.manual_seed(0)
    LRM(micro_config()).save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


def evaluate(weights: Path, *arguments: object) -> int:
    return main(["evaluate", "--weights", str(weights), *QUICK, *map(str, arguments)])


def test_from_weights_to_a_report(weights: Path, tmp_path: Path, capsys) -> None:
    out, card = tmp_path / "out", tmp_path / "card.md"
    assert evaluate(weights, "-o", out, "--markdown", card) == 0
    said = capsys.readouterr().out
    assert "### Held-out procedural objects" in said
    assert (out / "tables.md").read_text() in said
    assert "## Held-out figures" in card.read_text()
    content = json.loads((out / "evaluation.json").read_text())
    assert content["conditions"]["model"]["encoder"]["image_size"] == 16  # the weights', not ours
    assert content["conditions"]["options"]["objects"] == 2
    assert content["sets"][0]["views"]["all"]["psnr"]["model"]["objects"] == 2
    for name in ("sheet_procedural.png", "gain_by_angle.png"):
        Image.open(out / name).verify()
    # the same figures again
    assert evaluate(weights, "-o", tmp_path / "again") == 0
    assert json.loads((tmp_path / "again/evaluation.json").read_text())["sets"] == content["sets"]


def test_posed_pictures_and_photographs(weights: Path, tmp_path: Path, capsys) -> None:
    write_object(tmp_path / "posed/a", 3)
    write_object(tmp_path / "posed/lonely", 1)
    write_photo(tmp_path / "photos/x.png", disc())
    write_photo(tmp_path / "photos/void.png", disc() * 0)
    out = tmp_path / "out"
    arguments = ["--posed", tmp_path / "posed", "--photos", tmp_path / "photos", "--objects", 0]
    small = ["--picture-size", 16, "--perceptual", "ssim", "--camera-distance", "grid"]
    assert evaluate(weights, *arguments, *small, "-o", out) == 0
    said = capsys.readouterr().out
    assert "left out: lonely: it has 1 views" in said
    assert "left out: void:" in said
    assert "Not computed: CLIP similarity, because no CLIP here; bring --clip-weights." in said
    assert "Not computed: FID, because" in said
    assert "was chosen on these very pictures" in said
    assert "L1 + 1 - SSIM" in said
    assert "Mean image" not in said
    assert (out / "tables.md").read_text() in said
    content = json.loads((out / "evaluation.json").read_text())
    assert content["sets"] == []
    posed, photos = content["picture_sets"]
    assert posed["objects"] == photos["objects"] == 1
    assert posed["camera"]["distance"] == posed["distance_search"]["best"]
    assert photos["camera"]["distance"] == micro_config().camera_distance
    assert set(posed["groups"]) == {"novel views", "input view", "novel views and the input view"}
    assert set(photos["groups"]) == {"input view", "around", "self-consistency"}
    for name in ("sheet_posed.png", "sheet_photos.png"):
        Image.open(out / name).verify()
    assert not (out / "gain_by_angle.png").exists()


def test_a_stop_leaves_nothing_behind(
    weights: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    write_photo(tmp_path / "photos/x.png", disc())
    monkeypatch.setattr("fastrecon.evaluation.views.measure", stopped)
    out = tmp_path / "out"
    assert evaluate(weights, "--photos", tmp_path / "photos", "-o", out) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_the_protocol_sets_what_is_not_given() -> None:
    held_out = ObjectOptions()
    ours, theirs = EvaluateOptions(), EvaluateOptions(protocol="real3d")
    assert (ours.objects, ours.size, ours.resolution, ours.points) == (64, 64, 96, 10_000)
    assert (theirs.size, theirs.resolution, theirs.points) == (224, 256, 100_000)
    given = replace(theirs, held_out=replace(held_out, resolution=32))
    assert (given.resolution, given.points) == (32, 100_000)
    assert given.flat()["resolution"] == 32
    assert EvaluateOptions(pictures=PictureOptions(photos="x")).objects == 0


def test_meshes_alone(weights: Path, tmp_path: Path, capsys) -> None:
    try:
        MeshRenderer().close()
    except RenderError as error:
        pytest.skip(f"meshes cannot be drawn here: {error}")
    folder = tmp_path / "meshes"
    folder.mkdir()
    cube(folder)
    sphere(folder, subdivisions=1)
    (folder / "torn.ply").write_bytes(b"ply\n")
    out = tmp_path / "out"
    assert evaluate(weights, "--objects", 0, "--meshes", folder, "-o", out) == 0
    assert "left out: torn:" in capsys.readouterr().out
    (found,) = json.loads((out / "evaluation.json").read_text())["sets"]
    assert (found["key"], found["objects"]) == ("meshes", 2)
    assert [skipped["name"] for skipped in found["skipped"]] == ["torn"]
    assert (out / "sheet_meshes.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--objects", "0"], 2, "nothing to evaluate"),
        (["--size", "4"], 2, "--size must be at least 7, got 4"),
        (["--camera-distance", "far"], 2, '--camera-distance must be a positive number or "grid"'),
        (["--camera-distance", "-1"], 2, "--camera-distance must be a positive number"),
        (["--camera-distance", "grid"], 2, "needs --posed"),
        (["--crop", "0.5"], 2, "--crop must be 0 or at least 1, got 0.5"),
        (["--fov", "190"], 2, "--fov must lie between 0 and 180 degrees"),
        (["--posed", "nowhere"], 1, "nowhere does not exist"),
        (["--photos", "nowhere"], 1, "nowhere does not exist"),
        (["--recipe", "smal"], 2, "--recipe must be one of tiny, small"),
        (["--meshes", "nowhere"], 1, "nowhere does not exist"),
        (["--device", "cuda:99"], 1, ""),
    ],
)
def test_misuse_ends_in_a_sentence(
    weights: Path, tmp_path: Path, capsys, arguments: list[str], code: int, words: str
) -> None:
    if "--device" in arguments and torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    assert evaluate(weights, "-o", tmp_path / "out", *arguments) == code
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_missing_weights_and_a_card_without_a_place(weights: Path, tmp_path: Path, capsys) -> None:
    assert evaluate(tmp_path / "none", "-o", tmp_path / "out") == 1
    assert "none" in capsys.readouterr().err
    card = tmp_path / "card.md"
    card.write_text("words")
    assert evaluate(weights, "--markdown", card) == 1
    assert "has no lines" in capsys.readouterr().err
    assert card.read_text() == "words"
