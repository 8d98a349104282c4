"""`fastrecon evaluate scenes` and `generated` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from fastrecon.cli import main
from fastrecon.evaluation.scenes.run import model_names
from tests.evaluation.scenes.made_scenes import micro_trigen, write_rgbd
from tests.evaluation.scenes.test_sources import Diffusion

RUN = "fastrecon.evaluation.scenes.run"


@pytest.fixture
def weights(tmp_path: Path) -> list[str]:
    for seed, name in enumerate(("kernel", "plain")):
        micro_trigen(seed).save_pretrained(tmp_path / name / "model")
    return [str(tmp_path / name / "model") for name in ("kernel", "plain")]


@pytest.fixture
def inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    def stand(pictures: Tensor) -> tuple[Tensor, ...]:
        means = pictures.mean((2, 3))
        return means, 10.0 * means

    monkeypatch.setattr(f"{RUN}.load_layers", lambda *arguments: stand)
    (tmp_path / "inception.pth").write_bytes(b"weights")
    return str(tmp_path / "inception.pth")


def test_two_models_on_procedural_scenes(weights: list[str], tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    options = ["--scenes", "2", "--views", "1", "--max-parts", "1", "--sigma-scales", "1", "5"]
    assert (
        main(["evaluate", "scenes", "--weights", *weights, *options, "--figures", "-o", str(out)])
        == 0
    )
    said = capsys.readouterr().out
    assert (out / "scenes.md").read_text() in said
    assert "Not computed: FID and IS, because it needs --inception-weights" in said
    for words in (
        "kernel/model",
        "plain/model",
        "novel PSNR",
        "NFS (2 maps)",
        "| 151.72",
        "| 0.33",
    ):
        assert words in said
    content = json.loads((out / "scenes.json").read_text())
    assert [(r["model"], r["sigma_scale"]) for r in content["results"]] == [
        (name, scale) for name in ("kernel/model", "plain/model") for scale in (1.0, 5.0)
    ]
    assert content["results"][0]["against_unscaled"] is None
    assert content["results"][1]["against_unscaled"]["objects"] == 2
    assert content["published"]["table_s1"][8]["fid"] == 13.12
    assert content["conditions"]["models"]["plain/model"]["model"]["size"] == 8
    for name in ("sheet_0", "sheet_1", "figure_s1", "figure_s2", "figure_s3"):
        Image.open(out / f"{name}.png").verify()


def test_a_data_set_with_inception(
    weights: list[str], inception: str, tmp_path: Path, capsys
) -> None:
    root, out = write_rgbd(tmp_path / "set", 6), tmp_path / "out"
    (root / "class1/3_depth.png").write_bytes(b"damaged")
    judges = ["--inception-weights", inception, "--super-resolution", "bicubic"]
    arguments = ["--weights", weights[0], "--data", str(root), "--sigma-scales", "1", *judges]
    assert main(["evaluate", "scenes", *arguments, "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "FID (11 views, 11 real)" in said
    assert "IS (11 views)" in said
    assert "left out: class1/3: " in said
    assert "novel PSNR" not in said
    assert "Not computed" not in said
    content = json.loads((out / "scenes.json").read_text())
    (result,) = content["results"]
    assert result["sides"]["fid"]["pictures"] == result["scenes"] == 11
    assert result["sides"]["inception_score"]["mean"] >= 1.0
    assert content["conditions"]["judge_files_sha256"]["inception_weights"]


def test_generated_scenes(
    weights: list[str], inception: str, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Diffusion()
    made.config.classes = ("cat", "dog", "owl")
    made.label = lambda name: name if isinstance(name, int) else made.config.classes.index(name)  # type: ignore[attr-defined]
    monkeypatch.setattr("fastrecon.models.rgbd.RGBDDiffusion.from_pretrained", lambda *a, **k: made)
    counts = ["--scenes", "2", "--pictures", "12", "--sigma-scales", "1"]
    arguments = ["--diffusion", "f_rgb", "--trigen", weights[0], "--classes", "owl", "1", *counts]
    judges = ["--inception-weights", inception]
    out = tmp_path / "out"
    assert main(["evaluate", "generated", *arguments, *judges, "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "pictures with depth made by f_rgb, 2 classes in turn" in said
    assert "Not computed: FID, because it needs --data" in said
    assert made.calls[0] == [2, 1]
    real = str(write_rgbd(tmp_path / "set", 2))
    assert main(["evaluate", "generated", *arguments, *judges, "--data", real, "-o", str(out)]) == 0
    assert "FID (12 views, 4 real)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--scenes", "0"], 2, "--scenes must be at least 1, got 0"),
        (["--sigma-scales", "0"], 2, "--sigma-scales must be positive"),
        (["--views", "0"], 2, "--views must be at least 1"),
        (["--data", "nowhere"], 1, "nowhere is no folder"),
        (["--super-resolution", "nowhere"], 1, "nowhere does not exist"),
        (["--inception-weights", "gone.pth"], 1, "gone.pth does not exist; download"),
        (["--device", "cuda:99"], 1, ""),
    ],
)
def test_misuse_ends_in_a_sentence(
    weights: list[str], tmp_path: Path, capsys, arguments: list[str], code: int, words: str
) -> None:
    if "--device" in arguments and torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    given = ["--weights", weights[0], "-o", str(tmp_path / "out"), *arguments]
    assert main(["evaluate", "scenes", *given]) == code
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_a_model_twice_or_not_at_all(weights: list[str], tmp_path: Path, capsys) -> None:
    assert main(["evaluate", "scenes", "--weights", weights[0], weights[0]]) == 2
    assert "names a model twice" in capsys.readouterr().err
    assert main(["evaluate", "scenes", "--weights", str(tmp_path / "gone")]) == 1
    assert "gone does not exist" in capsys.readouterr().err


def test_names_tell_models_apart() -> None:
    assert model_names(["runs/a/model", "runs/b/model"]) == ["a/model", "b/model"]
    assert model_names(["runs/a/model"]) == ["model"]
    assert model_names(["a", "x/a"]) == ["a", "x/a"]
