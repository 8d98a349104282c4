"""LPIPS against the package called by hand; what must not load."""

from __future__ import annotations

import io
import os
import urllib.error
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from fastrecon.checkpoint import save_tensors
from fastrecon.config import NetworksConfig
from fastrecon.perceptual import Lpips, WeightsError, build_perceptual, load_lpips
from fastrecon.perceptual.lpips_vgg import VGG_URL
from tests.perceptual.small import pictures


def load(path: Path) -> Lpips:
    return load_lpips(NetworksConfig(lpips_weights=str(path)), "cpu")


@pytest.fixture(scope="module")
def judge(lpips: ModuleType, vgg_file: Path) -> Lpips:
    return load(vgg_file)


@pytest.fixture(scope="module")
def by_hand(lpips: ModuleType, vgg: dict[str, Tensor]) -> nn.Module:
    """The package's own module, its backbone filled with the same weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # lpips uses a deprecated argument
        network = lpips.LPIPS(net="vgg", pretrained=True, pnet_rand=True, verbose=False)
    for name in ("slice1", "slice2", "slice3", "slice4", "slice5"):
        part = network.net.get_submodule(name)
        part.load_state_dict({n: vgg[f"features.{n}"] for n in part.state_dict()})
    return network.eval()


def test_is_the_packages_lpips(judge: Lpips, by_hand: nn.Module) -> None:
    x, y = pictures(0, 3), pictures(1, 3)
    found = judge(x, y)
    assert found.shape == (3,)
    assert (found > 0.01).all()
    assert_close(found, by_hand(x, y, normalize=True).flatten(), rtol=1e-5, atol=1e-6)


def test_pictures_that_are_no_square(judge: Lpips, by_hand: nn.Module) -> None:
    x, y = pictures(0)[:, :, :16], pictures(1)[:, :, :16]
    assert_close(judge(x, y), by_hand(x, y, normalize=True).flatten(), rtol=1e-5, atol=1e-6)


def test_equal_pictures_have_distance_zero(judge: Lpips) -> None:
    assert judge(pictures(0), pictures(0)).tolist() == [0.0, 0.0]


def test_gradient_is_the_packages(judge: Lpips, by_hand: nn.Module) -> None:
    x, y = pictures(0).requires_grad_(), pictures(1)
    weights = torch.tensor([1.0, -2.0])
    (ours,) = torch.autograd.grad(judge(x, y) @ weights, x)
    (theirs,) = torch.autograd.grad(by_hand(x, y, normalize=True).flatten() @ weights, x)
    assert theirs.abs().max() > 1e-5
    assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_gradients_reach_the_first_picture_only(judge: Lpips) -> None:
    x, y = pictures(0).requires_grad_(), pictures(1).requires_grad_()
    judge(x, y).sum().backward()
    assert x.grad is not None
    assert y.grad is None
    assert all(p.grad is None and not p.requires_grad for p in judge.parameters())


def test_where_every_channel_is_off_the_gradient_is_finite(
    lpips: ModuleType, vgg: dict[str, Tensor], tmp_path: Path
) -> None:
    off = {"features.28.bias": torch.full((512,), -1e9)}  # the last layer: a norm of 0 everywhere
    torch.save({**vgg, **off}, tmp_path / "off.pth")
    x = pictures(0).requires_grad_()
    load(tmp_path / "off.pth")(x, pictures(1)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0  # by the layers before


def test_size_resizes_both(judge: Lpips) -> None:
    x, y = pictures(0, size=40), pictures(1, size=40)
    small = [
        nn.functional.interpolate(p, (24, 24), mode="bilinear", antialias=True) for p in (x, y)
    ]
    assert_close(judge(x, y, size=24), judge(*small))
    assert torch.equal(judge(x, y, size=40), judge(x, y))
    assert judge(x[:, :, :8, :8], y[:, :, :8, :8], size=32).shape == (2,)


def test_enlarged_pictures_need_no_antialiasing(judge: Lpips) -> None:
    x, y = pictures(0, size=16), pictures(1, size=16)
    large = [
        nn.functional.interpolate(p, (56, 56), mode="bilinear", antialias=True) for p in (x, y)
    ]
    assert_close(judge(x, y, size=56), judge(*large), rtol=1e-5, atol=1e-6)


def test_it_stays_in_evaluation_mode(judge: Lpips) -> None:
    nn.Sequential(judge).train()
    assert not any(module.training for module in judge.modules())


def test_autocast_takes_no_digits(judge: Lpips) -> None:
    x, y = pictures(0), pictures(1)
    with torch.autocast("cpu", torch.bfloat16):
        found = judge(x, y)
    assert torch.equal(found, judge(x, y))


def test_a_broken_picture_spoils_only_its_own_distance(judge: Lpips) -> None:
    x = pictures(0, 3)
    x[1, 0, 3, 3] = float("nan")
    assert judge(x, pictures(1, 3)).isnan().tolist() == [False, True, False]


def test_wrong_pictures(judge: Lpips) -> None:
    for x, y, size, words in (
        (pictures(0)[0], pictures(0)[0], None, r"picture\[None\]"),
        (pictures(0), pictures(0, 1), None, "same shape"),
        (pictures(0, size=15), pictures(0, size=15), None, "at least 16 x 16"),
        (pictures(0), pictures(0), 8, "size of at least 16"),
        (pictures(0)[:, :, 1:], pictures(0)[:, :, 1:], 24, "must be square, got 31 x 32"),
        (pictures(0), (255 * pictures(0)).byte(), None, "target must be floating point"),
    ):
        with pytest.raises(ValueError, match=words):
            judge(x, y, size)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_layouts_that_load(
    lpips: ModuleType, vgg: dict[str, Tensor], tmp_path: Path, half: bool, wrapped: bool
) -> None:
    state = {n: t.half() if half else t for n, t in vgg.items()}
    state["classifier.0.weight"] = torch.zeros(2, 2)  # whatever it is, it is not read
    if wrapped:
        path = tmp_path / "vgg.pth"
        torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}}, path)
    else:
        path = tmp_path / "vgg.safetensors"
        save_tensors(path, state)
    judge = build_perceptual(NetworksConfig("lpips", lpips_weights=str(path)), "cpu")
    assert isinstance(judge, Lpips)
    found = judge.network.state_dict()["net.slice5.28.weight"]
    assert found.dtype == torch.float32
    assert torch.equal(found, state["features.28.weight"].float())


class Exploit:
    """Unpickled without protection, this would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def test_a_hostile_file_does_not_run(lpips: ModuleType, tmp_path: Path) -> None:
    target, path = tmp_path / "ran", tmp_path / "vgg.pth"
    torch.save({"features.0.weight": Exploit(target)}, path)
    with pytest.raises(WeightsError, match="can run code"):
        load(path)
    assert not target.exists()


def test_missing_and_damaged_files(lpips: ModuleType, vgg_file: Path, tmp_path: Path) -> None:
    whole = vgg_file.read_bytes()
    for name, data, words in (
        ("cut.pth", whole[: len(whole) // 2], "download it again"),
        ("empty.pth", b"", "download it again"),
        ("page.pth", b"<html>Not Found</html>", "download it again"),
        ("cut.safetensors", b"\x40\x00", "truncated or damaged"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(WeightsError, match=rf"{name}.*{words}.*{VGG_URL}"):
            load(tmp_path / name)
    with pytest.raises(WeightsError, match=r"is missing.*--networks\.lpips-weights FILE"):
        load(tmp_path / "nowhere.pth")
    with pytest.raises(WeightsError, match="is a folder"):
        load(tmp_path)


def test_other_networks_weights(lpips: ModuleType, vgg: dict[str, Tensor], tmp_path: Path) -> None:
    first = "features.0.weight"
    for change, words in (
        ({first: torch.zeros(64, 3, 7, 7)}, r"1 of another shape \(features\.0\.weight is \(64, 3"),
        ({first: torch.zeros(64, 3, 3, 3, dtype=torch.int64)}, "1 not floating point"),
        ({first: torch.full((64, 3, 3, 3), float("nan"))}, r"1 not finite \(features\.0\.weight\)"),
    ):
        buffer = io.BytesIO()
        torch.save({**vgg, **change}, buffer)
        (tmp_path / "vgg.pth").write_bytes(buffer.getvalue())
        with pytest.raises(WeightsError, match=words):
            load(tmp_path / "vgg.pth")
    save_tensors(tmp_path / "few.safetensors", {first: vgg[first]})
    with pytest.raises(WeightsError, match=r"25 missing .* and 22 more.*perceptual ssim needs no"):
        load(tmp_path / "few.safetensors")


def test_offline_it_says_what_to_fetch(
    lpips: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(url: str, *args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=rf"not known.*{VGG_URL}.*lpips-weights FILE"):
        load_lpips(NetworksConfig("lpips"), "cpu")


def test_torchvisions_cache_and_download_serve(
    lpips: ModuleType, vgg_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(url: str, dst: str, hash_prefix: str) -> None:
        asked.append(f"{url} {hash_prefix}")
        Path(dst).write_bytes(vgg_file.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for _ in range(2):
        load_lpips(NetworksConfig("lpips"), "cpu")
    assert asked == [f"{VGG_URL} 397923af"]
    assert (tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth").is_file()


def test_the_address_is_torchvisions(lpips: ModuleType) -> None:
    from torchvision.models import VGG16_Weights

    assert VGG16_Weights.IMAGENET1K_V1.url == VGG_URL


@pytest.mark.slow
def test_a_full_size_file(lpips: ModuleType, tmp_path: Path) -> None:
    """torchvision's whole network, 553 MB, classifier included."""
    from torchvision.models import vgg16

    torch.manual_seed(0)
    network = vgg16()
    torch.save(network.state_dict(), tmp_path / "vgg16.pth")
    judge = load(tmp_path / "vgg16.pth")
    found = judge.network.state_dict()["net.slice3.12.weight"]
    assert torch.equal(found, network.features[12].weight.detach())  # type: ignore[arg-type]
    assert judge(pictures(0), pictures(1)).isfinite().all()
