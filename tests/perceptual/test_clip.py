"""CLIP's image encoder against open_clip's own; what must not load."""

from __future__ import annotations

import copy
import hashlib
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from fastrecon.checkpoint import save_tensors
from fastrecon.config import NetworksConfig
from fastrecon.perceptual import ClipEncoder, WeightsError, clip, load_clip
from tests.perceptual.small import SMALL, pictures


def load(path: Path) -> ClipEncoder:
    return load_clip(NetworksConfig(clip_weights=str(path)), "cpu", size=SMALL)


@pytest.fixture(scope="module")
def clip_file(small_clip: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict as open_clip's checkpoints have it."""
    path = tmp_path_factory.mktemp("weights") / "clip.pt"
    torch.save(small_clip.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def encoder(clip_file: Path) -> ClipEncoder:
    return load(clip_file)


def photograph(size: int) -> Image.Image:
    """A picture with structure, 8 bits."""
    y, x = np.mgrid[:size, :size] / size
    rgb = np.stack([x, y * x, 0.5 + 0.5 * np.sin(9 * (x + y))], -1)
    return Image.fromarray((255 * rgb).round().astype(np.uint8))


@pytest.mark.parametrize(("size", "tolerance"), [(32, 1e-5), (50, 5e-3)])
def test_is_open_clips_preprocessing_and_encoder(
    open_clip: ModuleType, small_clip: nn.Module, encoder: ClipEncoder, size: int, tolerance: float
) -> None:
    """On 8-bit pictures; PIL rounds to 8 bits again where it resizes, hence two tolerances."""
    from open_clip.transform import image_transform

    picture = photograph(size)
    preprocess: Any = image_transform(32, is_train=False, interpolation="bilinear")
    with torch.no_grad():
        theirs = small_clip.encode_image(preprocess(picture)[None], normalize=True)  # type: ignore[operator]
    tensor = torch.from_numpy(np.asarray(picture) / 255.0).float().permute(2, 0, 1)[None]
    ours = encoder(tensor)
    assert ours.shape == (1, 16)
    assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_with_the_other_activation_it_would_differ(
    small_clip: nn.Module, encoder: ClipEncoder
) -> None:
    gelu = copy.deepcopy(encoder)
    for block in gelu.tower.transformer.resblocks:  # type: ignore[union-attr]
        block.mlp.gelu = nn.GELU()
    assert (gelu(pictures(0)) - encoder(pictures(0))).abs().max() > 1e-3


def test_only_the_image_encoder_is_kept(small_clip: nn.Module, encoder: ClipEncoder) -> None:
    kept = {n: p for n, p in encoder.state_dict().items() if n.startswith("tower.")}
    visual = {n: p for n, p in small_clip.state_dict().items() if n.startswith("visual.")}
    assert_close(kept, {f"tower.{n.removeprefix('visual.')}": p for n, p in visual.items()})
    assert len(encoder.state_dict()) == len(visual)


def test_features_are_unit_and_pictures_do_not_mix(encoder: ClipEncoder) -> None:
    x = pictures(0, 3, 40)
    features = encoder(x)
    assert_close(features.norm(dim=-1), torch.ones(3))
    assert_close(features[1:2], encoder(x[1:2]), rtol=1e-5, atol=1e-6)
    x[1, 0, 5, 5] = float("nan")
    assert encoder(x).isnan().any(-1).tolist() == [False, True, False]


def test_gradients_reach_pictures_and_not_weights(encoder: ClipEncoder) -> None:
    x = pictures(0, 2, 24).requires_grad_()
    cotangent = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    (encoder(x) * cotangent).sum().backward()
    assert x.grad is not None
    direction = pictures(1, 2, 24) - 0.5
    with torch.no_grad():
        ahead, behind = (
            (encoder(x + step * direction) * cotangent).sum() for step in (1e-2, -1e-2)
        )
    slope = (x.grad * direction).sum()
    assert_close(slope, (ahead - behind) / 2e-2, rtol=0.02, atol=1e-4)
    assert abs(slope) > 1e-3
    assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())


def test_modes_and_autocast(encoder: ClipEncoder) -> None:
    nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    with torch.autocast("cpu", torch.bfloat16):
        features = encoder(pictures(0))
    assert features.dtype == torch.float32
    assert_close(features, encoder(pictures(0)), rtol=0, atol=0.02)
    assert encoder(pictures(0).bfloat16()).dtype == torch.float32


def test_wrong_pictures(encoder: ClipEncoder) -> None:
    for x, words in (
        (pictures(0)[0], r"picture\[None\]"),
        (pictures(0)[:, :, 2:], "must be square, got 30 x 32; pad them"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "divide 8-bit values by 255"),
    ):
        with pytest.raises(ValueError, match=words):
            encoder(x)


@pytest.mark.parametrize("kind", ["safetensors", "half", "wrapped", "vision only"])
def test_layouts_that_load(
    small_clip: nn.Module, encoder: ClipEncoder, tmp_path: Path, kind: str
) -> None:
    state = small_clip.state_dict()
    path = tmp_path / ("clip.safetensors" if kind == "safetensors" else "clip.pt")
    if kind == "safetensors":
        save_tensors(path, state)
    elif kind == "half":  # as OpenAI publishes them
        torch.save({n: t.half() for n, t in state.items()}, path)
    elif kind == "wrapped":
        torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}, "epoch": 3}, path)
    else:
        torch.save({n: t for n, t in state.items() if n.startswith("visual.")}, path)
    found = load(path)
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    tolerance = 0.01 if kind == "half" else 0.0
    assert_close(found(pictures(0)), encoder(pictures(0)), rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def archive(small_clip: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TorchScript archive, the format of OpenAI's own files."""
    path = tmp_path_factory.mktemp("archive") / "ViT-B-16.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace_module(small_clip, {"encode_image": (pictures(0),)})
        torch.jit.save(traced, path)
    return path


def test_openais_archive_loads(
    archive: Path, encoder: ClipEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip, "OPENAI_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load(archive)
    assert torch.equal(found(pictures(0)), encoder(pictures(0)))


def test_other_archives_are_not_opened(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the archive was opened")

    monkeypatch.setattr(torch.jit, "load", opened)
    with pytest.raises(WeightsError, match=r"not OpenAI's ViT-B-16\.pt.*can run code.*safetensors"):
        load(archive)


def test_the_checksum_is_that_of_the_published_address(open_clip: ModuleType) -> None:
    published = open_clip.get_pretrained_cfg("ViT-B-16", "openai")
    assert published["url"].split("/")[-2] == clip.OPENAI_SHA256
    assert (published["mean"], published["std"]) == (clip.MEAN, clip.STD)
    assert open_clip.get_model_config("ViT-B-16-quickgelu")["vision_cfg"] == {
        "image_size": 224, "layers": 12, "width": 768, "patch_size": 16
    }  # fmt: skip


def test_missing_damaged_and_foreign_files(
    small_clip: nn.Module, clip_file: Path, tmp_path: Path
) -> None:
    whole = clip_file.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.pt").write_bytes(b"<html>Not Found</html>")
    for name, words in (
        ("cut.pt", "download it again"),
        ("page.pt", "download it again"),
        ("nowhere.pt", "is missing"),
    ):
        with pytest.raises(WeightsError, match=rf"{words}.*--networks\.clip-weights FILE"):
            load(tmp_path / name)

    state: dict[str, Tensor] = dict(small_clip.state_dict())
    block = "visual.transformer.resblocks.1.ln_1.weight"
    for changed, words in (
        ({n: t for n, t in state.items() if n != block}, rf"1 missing \({block}\)"),
        ({n: t for n, t in state.items() if not n.startswith("visual.")}, r"missing .* more\)"),
        ({**state, "visual.proj": torch.zeros(64, 8)}, r"visual\.proj is \(64, 8\), not \(64, 16"),
        ({**state, "visual.proj": state["visual.proj"] / 0}, r"1 not finite \(visual\.proj\)"),
        ({**state, "visual.transformer.resblocks.2.ln_1.weight": state[block]}, "another image"),
    ):
        torch.save(changed, tmp_path / "clip.pt")
        with pytest.raises(WeightsError, match=words):
            load(tmp_path / "clip.pt")


def test_offline_it_says_what_to_fetch(
    open_clip: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args: Any, **kwargs: Any) -> str:
        raise FileNotFoundError("Failed to download file (open_clip_model.safetensors)")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(WeightsError, match=r"could not be downloaded.*vit_base_patch16_clip_224"):
        load_clip(NetworksConfig(), "cpu")


def test_open_clips_download_serves(
    open_clip: ModuleType, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_clip, "download_pretrained", lambda published: str(clip_file))
    encoder = load_clip(NetworksConfig(), "cpu", size=SMALL)
    assert encoder(pictures(0)).shape == (2, 16)


@pytest.mark.slow
def test_full_size(open_clip: ModuleType, tmp_path: Path) -> None:
    """ViT-B/16 with random weights, 600 MB, against open_clip's model of that name."""
    from open_clip.transform import image_transform

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None).eval()
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    encoder = load_clip(NetworksConfig(clip_weights=str(tmp_path / "clip.pt")), "cpu")
    picture = photograph(224)
    preprocess: Any = image_transform(224, is_train=False, interpolation="bilinear")
    with torch.no_grad():
        theirs = model.encode_image(preprocess(picture)[None], normalize=True)
        tensor = torch.from_numpy(np.asarray(picture) / 255.0).float().permute(2, 0, 1)[None]
        assert_close(encoder(tensor), theirs, rtol=0, atol=1e-5)
