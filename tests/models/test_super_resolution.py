"""RCAN and its interface."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fastrecon.checkpoint import CheckpointError
from fastrecon.config.super_resolution import RCANConfig
from fastrecon.models.super_resolution import MEAN, RCAN, bicubic, load_upscaler, upscale

MICRO = RCANConfig(groups=2, blocks=1, channels=4, reduction=2)


@pytest.fixture
def model() -> RCAN:
    torch.manual_seed(0)
    return RCAN(MICRO).eval()


def test_the_published_size() -> None:
    with torch.device("meta"):
        found = RCAN()
    # 10 groups of 20 blocks and a convolution; head, body, pixel shuffle and tail
    block = 2 * (64 * 64 * 9 + 64) + (64 * 4 + 4) + (4 * 64 + 64)
    group = 20 * block + 64 * 64 * 9 + 64
    ends = (3 * 64 * 9 + 64) + (64 * 64 * 9 + 64) + (64 * 256 * 9 + 256) + (64 * 3 * 9 + 3)
    assert sum(p.numel() for p in found.parameters()) == 10 * group + ends == 15_444_643


def test_operation_by_operation(model: RCAN) -> None:
    w, x = model.state_dict(), torch.rand(2, 3, 5, 5)

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        weight = w[f"{name}.weight"]
        return F.conv2d(x, weight, w[f"{name}.bias"], padding=weight.shape[-1] // 2)

    mean = torch.tensor(MEAN)[:, None, None]
    head = conv("head", x - mean)
    h = head
    for g in range(2):
        start = h
        name = f"body.{g}.body.0.body"
        y = conv(f"{name}.2", conv(f"{name}.0", h).relu())
        means = y.mean((2, 3), keepdim=True)
        gate = conv(f"{name}.3.gate.3", conv(f"{name}.3.gate.1", means).relu()).sigmoid()
        h = conv(f"body.{g}.body.1", h + y * gate) + start
    h = conv("tail.0", head + conv("body.2", h))
    # pixel shuffle: channel 4 c + 2 dy + dx goes to (2 y + dy, 2 x + dx)
    shuffled = h.reshape(2, 4, 2, 2, 5, 5).permute(0, 1, 4, 2, 5, 3).reshape(2, 4, 10, 10)
    assert_close(model(x), conv("tail.2", shuffled) + mean, atol=1e-5, rtol=1e-5)


def test_with_an_image_skip_it_starts_as_bicubic() -> None:
    model = RCAN(replace(MICRO, image_skip=True))
    x = torch.rand(1, 3, 6, 6)
    assert_close(model(x), bicubic(x))
    model(x).square().mean().backward()
    gradient = model.get_parameter("tail.2.weight").grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0


def test_bicubic_keeps_what_it_should() -> None:
    flat = torch.full((1, 3, 4, 4), 0.3)
    assert_close(upscale(flat), torch.full((1, 3, 8, 8), 0.3))
    ramp = torch.linspace(0.1, 0.9, 16).expand(1, 3, 16, 16)
    inner = upscale(ramp)[0, 0, 0, 6:-6].diff()  # a straight ramp stays straight
    assert_close(inner, torch.full_like(inner, 0.8 / 15 / 2))
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 1.0
    assert upscale(step).aminmax() == (0.0, 1.0)  # clamped where the cubic overshoots


def test_depth_comes_along_and_invents_nothing(model: RCAN) -> None:
    pictures, depth = torch.rand(11, 3, 4, 4), torch.rand(11, 1, 4, 4) + 4.0
    with torch.no_grad():
        expected = model(pictures).clamp(0, 1)
    for chosen, wanted in ((None, bicubic(pictures).clamp(0, 1)), (model, expected)):
        larger, far = upscale(pictures, depth, chosen)
        assert_close(larger, wanted)
        assert far.shape == (11, 1, 8, 8)
        around = F.max_pool2d(depth, 3, 1, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert bool((far <= around + 1e-6).all())
        assert_close(upscale(pictures, model=chosen), larger)


def test_there_and_back(model: RCAN, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = RCAN.from_pretrained(tmp_path)
    assert again.config == MICRO
    x = torch.rand(1, 3, 4, 4)
    assert_close(again(x), model(x))
    upscaler = load_upscaler(str(tmp_path))
    assert upscaler is not None
    assert_close(upscaler(x), upscale(x, model=model))
    plain = load_upscaler("bicubic")
    assert plain is not None
    assert_close(plain(x), upscale(x))
    assert load_upscaler("none") is None


def test_what_is_refused(model: RCAN, tmp_path: Path) -> None:
    for fields, words in (
        ({"channels": 6, "reduction": 4}, "channels = 6 must be a multiple of reduction = 4"),
        ({"groups": 0}, "groups must be at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            RCAN(replace(MICRO, **fields))
    with pytest.raises(ValueError, match=r"pictures\[None\]"):
        upscale(torch.rand(3, 4, 4))
    with pytest.raises(ValueError, match=r"depth must be floats \(1, 1, 4, 4\)"):
        upscale(torch.rand(1, 3, 4, 4), torch.rand(1, 4, 4))
    with pytest.raises(CheckpointError, match="does not exist"):
        load_upscaler(str(tmp_path / "gone"))
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["model"]["groups"] = 1
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="unexpected"):
        RCAN.from_pretrained(tmp_path)
    content["model"]["groups"] = 10**7
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="layers but the file only"):
        RCAN.from_pretrained(tmp_path)
