"""The Frechet distance against closed forms, and Inception weights that are not there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fastrecon.evaluation import fid as module
from fastrecon.evaluation.fid import FidError, FidMeter, frechet_distance, load_inception


def exact_sample(mean: np.ndarray, covariance: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows whose sample mean and covariance are exactly these."""
    x = np.random.default_rng(seed).standard_normal((count, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / (count - 1)).T)
    return x @ np.linalg.cholesky(covariance).T + mean


def test_gaussians_on_a_line() -> None:
    # 1-D: (m1 - m2)^2 + (s1 - s2)^2
    one = exact_sample(np.array([1.0]), np.array([[4.0]]), 10, 0)
    two = exact_sample(np.array([4.0]), np.array([[0.25]]), 7, 1)
    assert frechet_distance(one, two) == pytest.approx(3.0**2 + 1.5**2)


def test_gaussians_whose_covariances_commute() -> None:
    # sum of (m1 - m2)^2 + (s1 - s2)^2 over the axes, turned by the same rotation
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((3, 3)))[0]
    one = turn @ np.diag([1.0, 4.0, 9.0]) @ turn.T
    two = turn @ np.diag([4.0, 1.0, 0.25]) @ turn.T
    mean = np.array([0.0, 1.0, -1.0])
    found = frechet_distance(exact_sample(mean, one, 20, 3), exact_sample(2 * mean, two, 30, 4))
    assert found == pytest.approx(2.0 + 1.0 + 1.0 + 2.5**2)


def test_any_covariances_against_the_matrix_square_root() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((40, 6)) @ rng.standard_normal((6, 6)), rng.random((50, 6))
    one, two = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.trace(np.real(sqrtm(one @ two)))
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(one) + np.trace(two) - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected)


def test_fewer_pictures_than_features() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((5, 300)), rng.standard_normal((9, 300))
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(x, x + 2.0) == pytest.approx(4.0 * 300)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))
    # features that are always zero change nothing, however many: C1 C2 stays singular
    wide = [np.pad(z, ((0, 0), (0, 50))) for z in (x, y)]
    assert frechet_distance(*wide) == pytest.approx(frechet_distance(x, y))


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least 2 pictures, got 1 and 5"),
        (np.zeros((4, 3)), np.zeros((5, 2)), r"\(4, 3\) and \(5, 2\)"),
        (np.full((4, 3), np.nan), np.zeros((5, 3)), "not finite"),
    ],
)
def test_what_has_no_distance(one: np.ndarray, two: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        frechet_distance(one, two)


def test_the_meter_counts_its_pictures() -> None:
    def corners(pictures: Tensor) -> Tensor:  # a stand-in for the network
        return pictures[:, 0, :1, :2].flatten(1)

    meter = FidMeter(corners)
    assert meter.result() is None
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        picture = torch.rand(1, 3, 8, 8, generator=generator)
        meter.add(picture.expand(7, -1, -1, -1), picture)
    found = meter.result()
    assert found is not None
    assert (found.pictures, found.references) == (21, 3)
    # the same pictures seven times: means agree, covariances differ by (n - 1) / n alone
    inputs = torch.cat(meter.references).double().numpy()
    spread = np.trace(np.cov(inputs, rowvar=False))
    factor = 7 * 2 / 20  # 21 rows' sample covariance over 3 rows'
    assert found.value == pytest.approx(spread * (1 - np.sqrt(factor)) ** 2, rel=1e-5)


def test_one_input_picture_has_no_distance() -> None:
    meter = FidMeter(lambda pictures: pictures.flatten(1))
    meter.add(torch.rand(7, 3, 2, 2), torch.rand(1, 3, 2, 2))
    assert meter.result() is None


def test_inception_weights_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(FidError, match=r"gone.pth does not exist; download weights-inception"):
        load_inception(str(tmp_path / "gone.pth"))


def test_files_that_are_not_inception_weights(tmp_path: Path) -> None:
    if not all(importlib.util.find_spec(name) for name in ("torch_fidelity", "torchvision")):
        pytest.skip("torch-fidelity is not installed")
    damaged, foreign = tmp_path / "damaged.pth", tmp_path / "foreign.pth"
    damaged.write_bytes(b"PK\x03\x04 no zip")
    torch.save({"layer.weight": torch.zeros(2, 2)}, foreign)
    for path in (damaged, foreign):
        with pytest.raises(FidError, match=f"{path.name} does not hold torch-fidelity's"):
            load_inception(str(path))


def test_weights_are_read_safely_and_given_to_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stand(torch.nn.Module):
        """As torch-fidelity's class is called; its feature is the mean level of 8-bit pictures."""

        def __init__(self, name: str, features: list[str], feature_extractor_weights_path) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
            self.load_state_dict(torch.load(feature_extractor_weights_path))
            assert features == ["2048"]

        def forward(self, pictures: Tensor) -> tuple[Tensor]:
            assert pictures.dtype == torch.uint8
            return (pictures.float().mean((2, 3)) * self.scale,)

    monkeypatch.setattr(module, "_network", lambda: Stand)
    good, hostile = tmp_path / "good.pth", tmp_path / "hostile.pth"
    torch.save({"scale": torch.full((1,), 2.0)}, good)
    pictures = torch.tensor([0.0, 0.5, 1.0])[:, None, None, None].expand(3, 3, 4, 4)
    found = load_inception(str(good))(pictures.repeat(20, 1, 1, 1))
    assert found.shape == (60, 3)
    assert found[:3, 0].tolist() == [0.0, 256.0, 510.0]  # 127.5 is rounded to even

    class Hostile:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"scale": Hostile()}, hostile)
    with pytest.raises(FidError, match=r"hostile.pth does not hold"):
        load_inception(str(hostile))
    assert not (tmp_path / "ran").exists()
