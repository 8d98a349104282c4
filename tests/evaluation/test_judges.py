"""Judges: equal to what they are made of, and open about what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import fastrecon.perceptual as perceptual
from fastrecon.config import NetworksConfig
from fastrecon.evaluation.judges import Judges, load_judges
from fastrecon.evaluation.metrics import psnr, ssim
from fastrecon.perceptual import WeightsError


def missing(networks: NetworksConfig, device: torch.device | str) -> None:
    raise WeightsError("no network; bring a file")


def test_values_are_those_of_the_functions() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures, target = torch.rand(2, 20, 3, 9, 9, generator=generator)
    judges = Judges(
        perceptual=lambda x, y: (x - y).abs().mean((1, 2, 3)),
        clip=lambda x: torch.nn.functional.normalize(x.flatten(1), dim=1),
    )
    found = judges.compare(pictures, target)
    assert torch.equal(found["psnr"], psnr(pictures, target))
    assert torch.equal(found["ssim"], ssim(pictures, target))
    assert torch.allclose(found["perceptual"], (pictures - target).abs().mean((1, 2, 3)))
    meaning = judges.compare_meaning(pictures, target[0])
    assert torch.allclose(
        meaning["clip"],
        torch.cosine_similarity(pictures.flatten(1), target[:1].flatten(1)),
        atol=1e-6,
    )
    assert torch.allclose(meaning["perceptual"], (pictures - target[0]).abs().mean((1, 2, 3)))


def test_networks_get_few_pictures_at_a_time() -> None:
    sizes = []

    def watched(x: Tensor, y: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.new_zeros(len(x))

    pictures = torch.rand(40, 3, 8, 8)
    assert Judges(perceptual=watched).compare(pictures, pictures)["perceptual"].shape == (40,)
    assert sizes == [16, 16, 8]


def test_what_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "build_perceptual", missing)
    monkeypatch.setattr(perceptual, "load_clip", missing)
    judges = load_judges(NetworksConfig("lpips"), "", "cpu", semantic=True)
    assert judges.perceptual is None
    assert judges.clip is None
    assert judges.inception is None
    assert judges.absent["LPIPS (VGG-16)"] == "no network; bring a file"
    assert judges.absent["CLIP similarity"] == "no network; bring a file"
    assert "--inception-weights" in judges.absent["FID"]
    assert set(judges.compare(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))) == {"psnr", "ssim"}
    assert judges.compare_meaning(torch.rand(1, 3, 8, 8), torch.rand(3, 8, 8)) == {}


def test_a_file_that_was_named_must_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(perceptual, "build_perceptual", missing)
    monkeypatch.setattr(perceptual, "load_clip", missing)
    with pytest.raises(WeightsError):
        load_judges(NetworksConfig("lpips", lpips_weights="vgg.pth"), "", "cpu", semantic=False)
    with pytest.raises(WeightsError):
        load_judges(NetworksConfig("none", clip_weights="clip.pt"), "", "cpu", semantic=True)
    with pytest.raises(ValueError, match="does not exist"):
        load_judges(NetworksConfig("ssim"), str(tmp_path / "no.pth"), "cpu", semantic=False)


def test_ssim_and_none_go_by_their_names() -> None:
    judges = load_judges(NetworksConfig("ssim"), "", "cpu", semantic=False)
    assert judges.perceptual_name == "L1 + 1 - SSIM"
    assert judges.absent == {}
    picture = torch.rand(1, 3, 8, 8)
    assert float(judges.compare(picture, picture)["perceptual"]) == pytest.approx(0, abs=1e-6)
    judges = load_judges(NetworksConfig("none"), "", "cpu", semantic=False)
    assert judges.absent == {"LPIPS (VGG-16)": "--perceptual none"}
