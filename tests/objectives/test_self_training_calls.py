"""What L_SELF renders, which networks it asks, and that nothing waits for the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastrecon import perceptual
from fastrecon.config import NetworksConfig
from fastrecon.models.lrm import LRM
from fastrecon.objectives import SelfTraining, self_training
from fastrecon.objectives.supervised import encode
from fastrecon.renderer import EARLY_STOP
from tests.objectives.equations import camera
from tests.objectives.self_case import (
    ARMS,
    DISTANCE,
    FOV,
    Drawn,
    FirstPlanes,
    fake_clip,
    make_config,
)

# ------------------------------------------------------------------------ what is rendered, and how


def test_only_what_is_learnt_from_is_jittered(
    model: LRM, photos: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only the search may end a ray early; every picture has random numbers of its own."""
    calls = []
    original = LRM.render

    def render(self, planes, rays_o, rays_d, *, settings, seed):
        calls.append((rays_d.shape[:-1], settings, seed, torch.is_grad_enabled()))
        return original(self, planes, rays_o, rays_d, settings=settings, seed=seed)

    monkeypatch.setattr(LRM, "render", render)
    SelfTraining(make_config(jitter=True, cycle_size=12))(model, photos, 1)
    shapes, settings, seeds, learning = (list(column) for column in zip(*calls, strict=True))
    own, novel, back, search, hardest = range(5)
    assert shapes == [(3, 8, 8), (3, 12, 12), (3, 8, 8), (3, 4, 8, 8), (3, 1, 8, 8)]
    assert learning == [True, False, True, False, True]
    assert [s.stratified for s in settings] == learning
    assert settings[search].early_stop == EARLY_STOP
    assert not any(settings[i].early_stop for i in (own, novel, back, hardest))
    assert len(set(seeds)) == 5
    calls.clear()
    SelfTraining(make_config(cycle_rgb=0.0))(model, photos, 1)
    assert not any(s.stratified for _, s, _, _ in calls), "without jitter nothing is"


def test_a_term_without_weight_costs_nothing(
    model: LRM, photos: Tensor, encoded: FirstPlanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("not needed")

    monkeypatch.setattr(perceptual, "load_clip", refuse)
    monkeypatch.setattr(perceptual, "build_perceptual", refuse)
    _, metrics = SelfTraining(make_config(**ARMS["input alone"]))(model, photos, 0)
    assert set(metrics) == {"self_loss", "self_input_rgb", "psnr_input"}
    assert len(encoded.all) == 1


def test_the_networks_that_judge_come_from_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, NetworksConfig, Any]] = []

    def loader(name: str) -> Callable[[NetworksConfig, Any], Any]:
        return lambda networks, device: asked.append((name, networks, device))

    monkeypatch.setattr(perceptual, "load_clip", loader("clip"))
    monkeypatch.setattr(perceptual, "build_perceptual", loader("perceptual"))
    cfg = make_config(cycle_perceptual=1.0)
    SelfTraining(cfg, "meta")
    assert asked == [("perceptual", cfg.networks, "meta"), ("clip", cfg.networks, "meta")]


def test_bf16_reaches_every_network(
    model: LRM, photos: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def encoding(*args: Any, bf16: bool) -> Tensor:
        asked.append(bf16)
        return encode(*args, bf16=bf16)

    def clip(pictures: Tensor) -> Tensor:
        asked.append(torch.is_autocast_enabled("cpu"))
        return fake_clip(pictures)

    monkeypatch.setattr(self_training, "encode", encoding)
    monkeypatch.setattr(perceptual, "load_clip", lambda networks, device: clip)
    cfg = make_config()
    for precision in ("bf16", "fp32"):
        objective = SelfTraining(replace(cfg, optim=replace(cfg.optim, precision=precision)))
        loss, _ = objective(model, photos, 0)
        assert loss.dtype == torch.float32
        assert asked == [precision == "bf16"] * 5  # two encodings; picture, search, hardest
        asked.clear()


class HostReads(TorchDispatchMode):
    """Counts what would make a program wait for its device: values or sizes that Python needs."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        reads = any(word in name for word in ("_local_scalar_dense", "nonzero", "masked_select"))
        if name.startswith(("aten.index.", "aten.index_put")):
            reads = any(i is not None and i.dtype == torch.bool for i in args[1])
        self.count += reads
        return func(*args, **(kwargs or {}))


def test_host_reads_are_counted() -> None:
    values = torch.arange(3.0)
    with HostReads() as reads:
        assert bool(values[1] > 0)
        assert float(values[1]) == 1.0
        assert values[values > 0].shape == (2,)
        assert values[values.argmin()] == 0.0
    assert reads.count >= 4


@pytest.fixture
def silent_model(model: LRM, monkeypatch: pytest.MonkeyPatch) -> LRM:
    """Encoding and rendering replaced by arithmetic: on a CPU they look at their arguments."""

    class Seen:
        def __init__(self, planes: Tensor, rays_d: Tensor) -> None:
            level = planes.mean(dim=(1, 2, 3, 4)).reshape(-1, *[1] * (rays_d.ndim - 1))
            self.rgb = torch.sigmoid(level + rays_d)
            self.opacity = self.rgb.mean(-1)

    def see(self, planes, rays_o, rays_d, **_):
        return Seen(planes, rays_d)

    def planes(self, images, cameras=None):
        return images.mean(dim=(2, 3))[:, None, :, None, None] * torch.ones(1, 3, 1, 2, 2)

    monkeypatch.setattr(LRM, "render", see)
    monkeypatch.setattr(LRM, "encode", planes)
    return model


@pytest.mark.parametrize("arm", ARMS)
def test_nothing_waits_for_the_device(
    arm: str, silent_model: LRM, photos: Tensor, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = SelfTraining(make_config(jitter=True, **ARMS[arm]))
    expected, _ = objective(silent_model, photos, 3)
    novel, semantic, pixels = drawn.novel, drawn.semantic, drawn.pixels
    # Poses and pixels are drawn on the host, which waits for nobody.
    monkeypatch.setattr(self_training, "cycle_poses", lambda *_: novel)
    monkeypatch.setattr(self_training, "semantic_poses", lambda *_: semantic)
    monkeypatch.setattr(SelfTraining, "_pixels", lambda *_: pixels)
    canonical = torch.from_numpy(camera(0.0, 0.0, DISTANCE)).float()
    monkeypatch.setattr(self_training, "canonical_pose", lambda _: canonical)
    with HostReads() as reads:
        loss, _ = objective(silent_model, photos, 3)
    assert reads.count == 0
    torch.testing.assert_close(loss, expected)


def test_a_model_that_is_told_its_camera_is_told_that_of_the_pictures(
    silent_model: LRM, photos: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both times: the novel view is taken for a picture like any other."""
    told = []
    encoded = LRM.encode

    def spy(self, images, cameras=None):
        told.append(cameras)
        return encoded(self, images)

    monkeypatch.setattr(LRM, "encode", spy)
    cfg = make_config(semantic=0.0)
    SelfTraining(cfg)(silent_model, photos, 0)
    assert told == [None, None]
    told.clear()
    backbone = replace(cfg.model.backbone, conditioning="camera")
    SelfTraining(replace(cfg, model=replace(cfg.model, backbone=backbone)))(silent_model, photos, 0)
    focal = 0.5 / math.tan(math.radians(FOV) / 2)
    vector = [0, 0, 1, DISTANCE, 1, 0, 0, 0, 0, 1, 0, 0, focal, focal, 0.5, 0.5]
    assert len(told) == 2
    for cameras in told:
        torch.testing.assert_close(cameras, torch.tensor([vector] * 3))
