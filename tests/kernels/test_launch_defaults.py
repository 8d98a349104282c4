"""The launch choices that a GPU gets where nobody has measured others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("triton", reason="the launch choices are the kernels'")

from fastrecon_kernels.render import tuning
from fastrecon_kernels.render.tuning import TUNING, tuning_of

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tuning, "interpreting", lambda: False)
    for cached in (tuning.row_of, tuning_of):
        cached.cache_clear()
    yield
    for cached in (tuning.row_of, tuning_of):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("capability", "row"),
    [((8, 0), "nvidia"), ((8, 9), "nvidia"), ((9, 0), "hopper"), ((10, 0), "blackwell")],
)
def test_each_generation_has_its_row(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], row: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert tuning_of(GPU, "bf16") == TUNING[row]
    assert tuning_of(GPU, "tf32") == TUNING["fp32"]
    # Windows multiply fp32 in three parts, which fits the registers of Hopper alone.
    assert (tuning_of(GPU, "fp32").window_warps > 0) == (row == "hopper")


def test_without_arithmetic_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert tuning_of(GPU, "bf16") == TUNING["nvidia"]._replace(approx=False)


def test_amd_is_not_asked_for_nvidias_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: pytest.fail("was asked"))
    assert tuning_of(GPU, "bf16") == TUNING["amd"]
    assert tuning_of(GPU, "tf32") == TUNING["fp32"]
    assert tuning_of(GPU, "fp32").window_warps == 0, "AMD has no products in tf32 parts"
