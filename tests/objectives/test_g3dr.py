"""G3DR's loss against its equations written down once more, and where gradients may not go."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from fastrecon_kernels import RenderSettings
from torch import Tensor
from torch.testing import assert_close

from fastrecon import perceptual
from fastrecon.config import NetworksConfig, OptimConfig
from fastrecon.config.g3dr import G3DRConfig, G3DRLossConfig, SceneCameraConfig, TriGenConfig
from fastrecon.data.rgbd import RGBDBatch
from fastrecon.models.trigen import TriGen
from fastrecon.objectives import g3dr as objective
from fastrecon.objectives.g3dr import (
    G3DRObjective,
    View,
    around_depth,
    choose_view,
    depth_kl,
    depth_tv,
    ramp,
    yaw_limit,
)
from fastrecon.scene_cameras import scene_c2w, scene_rays
from fastrecon.tasks.scene import SceneGeneration
from tests.objectives import scene_equations as eq
from tests.objectives.scene_equations import F64

SIZE, STEPS = 16, 60
RENDER = RenderSettings.g3dr(n_samples=6, n_importance=5, stratified=False)
CANONICAL, AROUND, NOVEL = View(False, False), View(False, True), View(True, False)
EMBEDDED = torch.randn(3 * SIZE * SIZE, 5, generator=torch.Generator().manual_seed(4)) / SIZE


class FakeClip:
    """Embeddings that are not normalised."""

    def embed(self, pictures: Tensor) -> Tensor:
        return pictures.flatten(1) @ EMBEDDED.to(pictures.dtype)


class FakeLpips:
    """Squared differences, one weight for every layer that is asked for."""

    def __init__(self) -> None:
        self.layers: list[tuple[int, ...]] = []

    def __call__(self, pictures: Tensor, target: Tensor, layers: tuple[int, ...]) -> Tensor:
        self.layers.append(layers)
        return sum(layers) * (pictures - target).square().mean((1, 2, 3))


@pytest.fixture(autouse=True)
def judges(monkeypatch: pytest.MonkeyPatch) -> FakeLpips:
    lpips = FakeLpips()
    monkeypatch.setattr(perceptual, "load_clip", lambda networks, device: FakeClip())
    monkeypatch.setattr(perceptual, "load_lpips", lambda networks, device: lpips)
    return lpips


def make_config(**loss: Any) -> G3DRConfig:
    fields: dict[str, Any] = {"clip_ramp": 40} | loss
    return G3DRConfig(
        model=replace(TriGenConfig.tiny(), size=SIZE, channels=3, hidden=7, render=RENDER),
        loss=G3DRLossConfig(**fields),
        networks=NetworksConfig(perceptual="ssim"),
        optim=OptimConfig(steps=STEPS, batch_size=2, precision="fp32"),
    )


def make_model(cfg: G3DRConfig) -> TriGen:
    torch.manual_seed(0)
    model = TriGen(cfg.model)
    dict(model.named_parameters())["decoder.net.2.bias"].data[0] += (
        2.0  # dense enough for samples to hide one another
    )
    return model


def make_batch() -> RGBDBatch:
    generator = torch.Generator().manual_seed(1)
    return RGBDBatch(
        torch.rand(2, 3, SIZE, SIZE, generator=generator),
        torch.rand(2, 1, SIZE, SIZE, generator=generator),
        torch.zeros(2, dtype=torch.long),
    )


class Planes:
    """Stands for the network: planes that gradients can be read from."""

    def __init__(self, cfg: G3DRConfig, monkeypatch: pytest.MonkeyPatch, model: TriGen) -> None:
        generator = torch.Generator().manual_seed(2)
        shape = (2, 3, cfg.model.channels, SIZE, SIZE)
        self.values = (1.5 * torch.randn(shape, generator=generator)).requires_grad_()
        monkeypatch.setattr(model, "encode", lambda images, depth: self.values)


def scenes(model: TriGen, planes: Tensor) -> list[eq.Field]:
    own = {name: p.detach().double() for name, p in model.decoder.named_parameters()}
    return [
        eq.Field(
            each,
            [own["net.0.weight"], own["net.2.weight"]],
            [own["net.0.bias"], own["net.2.bias"]],
            model.config.render.axes,
            model.config.levels,
        )
        for each in planes
    ]


def expected_canonical(
    model: TriGen, cfg: G3DRConfig, planes: Tensor, batch: RGBDBatch, around: bool
) -> dict[str, Tensor]:
    """The terms of section 6, means over the pictures."""
    o, d = eq.rays(0.0, 0.0, SIZE)
    terms: dict[str, list[Tensor]] = {}
    pictures = []
    for i, scene in enumerate(scenes(model, planes)):
        depth = 4 + 2 * batch.depth[i].double().flatten()
        seen = scene.render(
            o,
            d,
            eq.evenly(o, d, RENDER.n_samples),
            RENDER.n_importance,
            prior=depth if cfg.loss.depth_kernel else None,
            around=depth if around else None,
        )
        wanted = 2 * batch.images[i].double().flatten(1).T - 1
        found = {
            "rgb": (seen.rgb - wanted).abs().mean(),
            "depth": (seen.depth - depth).abs().mean(),
            "opacity": (1 - seen.opacity).mean(),
        }
        if cfg.loss.depth_kl:
            found["depth_kl"] = eq.kl(seen, depth)
        for name, value in found.items():
            terms.setdefault(name, []).append(value)
        pictures.append(((seen.rgb + 1) / 2).T.view(3, SIZE, SIZE))
    means = {name: torch.stack(values).mean() for name, values in terms.items()}
    shown, target = torch.stack(pictures).clamp(0, 1), batch.images.double()
    means["perceptual"] = perceptual.l1_ssim(shown, target).double().mean()
    means["clip"] = (FakeClip().embed(shown) - FakeClip().embed(target)).abs().mean()
    return means


def expected_novel(
    model: TriGen, planes: Tensor, batch: RGBDBatch, poses: list[tuple[float, float]]
) -> dict[str, Tensor]:
    tvs, opacities, pictures = [], [], []
    for scene, (yaw, pitch) in zip(scenes(model, planes), poses, strict=True):
        o, d = eq.rays(yaw, pitch, SIZE)
        seen = scene.render(o, d, eq.evenly(o, d, RENDER.n_samples), RENDER.n_importance)
        tvs.append(eq.tv(seen.depth.view(SIZE, SIZE)))
        opacities.append((1 - seen.opacity).mean())
        pictures.append(((seen.rgb + 1) / 2).T.view(3, SIZE, SIZE))
    shown, target = torch.stack(pictures).clamp(0, 1), batch.images.double()
    return {
        "tv": torch.stack(tvs).mean(),
        "opacity": torch.stack(opacities).mean(),
        "clip": (FakeClip().embed(shown) - FakeClip().embed(target)).abs().mean(),
        "deep": FakeLpips()(shown, target, (3, 4)).mean(),
    }


def compare(
    found: tuple[Tensor, dict[str, Tensor]],
    kind: str,
    terms: dict[str, Tensor],
    weights: dict[str, float],
    planes: Tensor,
    truth: Tensor,
) -> None:
    """Every term, the loss, and the gradient at every texel."""
    loss, metrics = found
    for name in weights:
        assert float(metrics[f"{kind}_{name}"]) == pytest.approx(
            float(terms[name].detach()), rel=1e-4
        ), name
    logged = {name.removeprefix(f"{kind}_") for name in metrics if name.startswith(kind)}
    assert logged == set(weights)
    total = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
    assert float(loss.detach()) == pytest.approx(float(total.detach()), rel=1e-4)
    (wanted,) = torch.autograd.grad(total, truth)
    (gradient,) = torch.autograd.grad(loss, planes)
    assert float(wanted.abs().max()) > 0
    assert_close(gradient.double(), wanted, rtol=5e-3, atol=2e-4 * float(wanted.abs().max()))


# ------------------------------------------------------------------------------- the canonical view


CANONICAL_ARMS: dict[str, dict[str, Any]] = {
    "kernel": {},
    "plain": {"depth_kernel": False},
    "kl": {"depth_kernel": False, "depth": 0.0, "depth_kl": 2.0},
    "kernel and kl": {"depth_kl": 0.7},
}


@pytest.mark.parametrize("view", [CANONICAL, AROUND], ids=["importance", "around the depth"])
@pytest.mark.parametrize("arm", CANONICAL_ARMS)
def test_the_canonical_loss_is_that_of_the_equations(
    arm: str, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_config(**CANONICAL_ARMS[arm])
    model, batch = make_model(cfg), make_batch()
    planes = Planes(cfg, monkeypatch, model).values
    monkeypatch.setattr(objective, "choose_view", lambda *args: view)
    truth = planes.detach().double().requires_grad_()
    terms = expected_canonical(model, cfg, truth, batch, view.around_depth)
    weights = {"rgb": 1.0, "depth": cfg.loss.depth, "perceptual": 0.5, "opacity": 20 / 30}
    if cfg.loss.depth_kl:
        weights["depth_kl"] = cfg.loss.depth_kl
    compare(G3DRObjective(cfg)(model, batch, 20), "canonical", terms, weights, planes, truth)


def test_the_kernel_changes_the_gradient_and_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, found = make_batch(), {}
    monkeypatch.setattr(objective, "choose_view", lambda *args: CANONICAL)
    for kernel in (True, False):
        cfg = make_config(depth_kernel=kernel)
        model = make_model(cfg)
        planes = Planes(cfg, monkeypatch, model).values
        loss, _ = G3DRObjective(cfg)(model, batch, 20)
        found[kernel] = loss.detach(), torch.autograd.grad(loss, planes)[0]
    assert torch.equal(found[True][0], found[False][0])
    assert float((found[True][1] - found[False][1]).abs().max()) > 0.1 * float(
        found[False][1].abs().max()
    )


def test_the_codes_canonical_terms_begin_in_the_second_half(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cfg = make_config(perceptual=1.0, perceptual_from=0.5, clip_canonical=0.175)
    model, batch = make_model(cfg), make_batch()
    planes = Planes(cfg, monkeypatch, model).values
    monkeypatch.setattr(objective, "choose_view", lambda *args: CANONICAL)
    _, early = G3DRObjective(cfg)(model, batch, 29)
    assert {"canonical_perceptual", "canonical_clip_canonical"}.isdisjoint(early)
    truth = planes.detach().double().requires_grad_()
    terms = expected_canonical(model, cfg, truth, batch, False)
    terms["clip_canonical"] = terms["clip"]
    weights = {"rgb": 1.0, "depth": 2.0, "perceptual": 1.0, "opacity": 1.0}
    weights["clip_canonical"] = 0.175
    compare(G3DRObjective(cfg)(model, batch, 30), "canonical", terms, weights, planes, truth)


def test_pictures_of_another_size_are_brought_to_that_of_the_rendering(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the network's input is: antialiased."""
    cfg = make_config()
    model, batch = make_model(cfg), make_batch()
    Planes(cfg, monkeypatch, model)
    monkeypatch.setattr(objective, "choose_view", lambda *args: CANONICAL)
    images, depth = (
        x.repeat_interleave(2, -1).repeat_interleave(2, -2) for x in (batch.images, batch.depth)
    )
    twice = RGBDBatch(images, depth, batch.labels)
    sharp, _ = G3DRObjective(cfg)(model, batch, 20)
    # Doubled pixels come back blurred by the filter [1, 6, 1] / 8.
    blurred = [
        torch.nn.functional.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
        for x in (twice.images, twice.depth)
    ]
    soft, _ = G3DRObjective(cfg)(model, RGBDBatch(blurred[0], blurred[1], batch.labels), 20)
    found, _ = G3DRObjective(cfg)(model, twice, 20)
    assert_close(found, soft)
    assert float((found - sharp).abs()) > 1e-3


# ------------------------------------------------------------------------------------- novel views


def test_the_novel_loss_is_that_of_the_equations(
    monkeypatch: pytest.MonkeyPatch, judges: FakeLpips
) -> None:
    """Poses within the limits of the step; CLIP ramps from 0.02; nothing scales a gradient."""
    cfg, step = make_config(), 10
    model, batch = make_model(cfg), make_batch()
    planes = Planes(cfg, monkeypatch, model).values
    monkeypatch.setattr(objective, "choose_view", lambda *args: NOVEL)
    poses: list[tuple[float, float]] = []

    def watched(yaw: Tensor, pitch: Tensor, radius: float) -> Tensor:
        poses.extend(zip(yaw.tolist(), pitch.tolist(), strict=True))
        return scene_c2w(yaw, pitch, radius)

    monkeypatch.setattr(objective, "scene_c2w", watched)
    rendered = model.render
    priors: list[Any] = []

    def render(*args: Any, **kwargs: Any) -> Any:
        priors.append(kwargs.get("depth_prior"))
        return rendered(*args, **kwargs)

    monkeypatch.setattr(model, "render", render)
    found = G3DRObjective(cfg)(model, batch, step)
    assert len(poses) == 2
    assert poses[0] != poses[1]
    assert all(abs(yaw) <= math.pi / (24 - 18 * 10 / 20) for yaw, _ in poses)
    assert all(abs(pitch) <= math.radians(10) for _, pitch in poses)
    assert priors == [None]
    assert judges.layers == [(3, 4)]
    truth = planes.detach().double().requires_grad_()
    weights = {"tv": 0.1, "opacity": step / 30, "clip": 0.02 + 0.33 * step / 40, "deep": 0.5}
    compare(found, "novel", expected_novel(model, truth, batch, poses), weights, planes, truth)


def test_no_depth_is_looked_at_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = make_config()
    model, batch = make_model(cfg), make_batch()
    planes = Planes(cfg, monkeypatch, model).values
    monkeypatch.setattr(objective, "choose_view", lambda *args: NOVEL)
    other = RGBDBatch(batch.images, 1 - batch.depth, batch.labels)
    gradients = [
        torch.autograd.grad(G3DRObjective(cfg)(model, b, 10)[0], planes)[0] for b in (batch, other)
    ]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("step", [0, 1, 10, 39])
def test_a_weight_of_zero_turns_clip_off(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it starts from."""
    cfg = make_config(clip=0.0, deep=0.0)
    monkeypatch.delattr(perceptual, "load_clip")
    monkeypatch.delattr(perceptual, "load_lpips")
    monkeypatch.setattr(objective, "choose_view", lambda *args: NOVEL)
    model = make_model(cfg)
    Planes(cfg, monkeypatch, model)
    _, metrics = G3DRObjective(cfg)(model, make_batch(), step)
    assert {"novel_clip", "novel_deep"}.isdisjoint(metrics)


# ------------------------------------------------------------------------------ samples, quadrature


def test_samples_around_the_depth() -> None:
    """The coarse ones of the same seed, 5 others within 0.05, all in order."""
    cfg = make_config()
    model = make_model(cfg)
    jittered = replace(RENDER, stratified=True)
    model.config = replace(cfg.model, render=jittered)
    o, d = scene_rays(scene_c2w(0.0, 0.0).expand(2, 4, 4), SIZE)
    depth = 4 + 2 * torch.rand(2, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    ts = around_depth(model, o, d, depth, seed=5)
    assert ts.shape == (2, SIZE, SIZE, 11)
    assert bool((ts.diff(dim=-1) >= 0).all())
    known = depth[..., None] + torch.tensor([-0.05, -0.025, 0.0, 0.025, 0.05])
    origins, directions = (x.reshape(-1, 3).double() for x in (o, d))
    step = (eq.evenly(origins, directions, 6).diff(dim=-1)[:, :1]).float()
    for found, fine, grid, gap in zip(
        ts.view(-1, 11),
        known.view(-1, 5),
        eq.evenly(o.reshape(-1, 3).double(), d.reshape(-1, 3).double(), 6).float(),
        step[:, 0],
        strict=True,
    ):
        rest = found.tolist()
        for value in fine.tolist():  # each of them is there
            nearest = min(rest, key=lambda t, value=value: abs(t - value))
            assert nearest == pytest.approx(value, abs=1e-5)
            rest.remove(nearest)
        shares = (torch.tensor(rest) - grid) / gap
        assert bool(((shares > -1e-4) & (shares < 1 + 1e-4)).all()), "one jittered sample per step"
    assert torch.equal(ts, around_depth(model, o, d, depth, seed=5))
    assert not torch.equal(ts, around_depth(model, o, d, depth, seed=6))


def test_kl_and_tv_by_hand() -> None:
    depth = torch.tensor([[[0.0, 1.0], [2.0, 4.0]]])
    assert float(depth_tv(depth)) == pytest.approx((4 + 9) / 2 + (1 + 4) / 2)
    seen = eq.Seen(*(torch.zeros(0),) * 3, *(torch.rand(3, 4, dtype=F64) + 4 for _ in range(4)))
    seen.weights = seen.weights - 4
    d = torch.tensor([4.1, 4.5, 5.0], dtype=F64)
    from fastrecon_kernels import RaySamples

    samples = RaySamples(seen.weights, seen.mids, seen.deltas)
    assert_close(depth_kl(samples, d), eq.kl(seen, d))


def test_a_jittered_step_is_a_function_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = make_config()
    cfg = replace(
        cfg, model=replace(cfg.model, render=RenderSettings.g3dr(n_samples=6, n_importance=5))
    )
    model, batch = make_model(cfg), make_batch()
    Planes(cfg, monkeypatch, model)
    for view in (CANONICAL, AROUND, NOVEL):
        monkeypatch.setattr(objective, "choose_view", lambda *args, view=view: view)
        again = [float(G3DRObjective(cfg)(model, batch, s)[0].detach()) for s in (25, 25, 26)]
        assert again[0] == again[1]
        assert again[0] != again[2]


# --------------------------------------------------------------------------------------- schedules


def test_views_come_with_the_published_probability() -> None:
    loss, steps, count = G3DRLossConfig(), 40_000, 4000
    assert not choose_view(loss, 0, 0, steps).novel, "the first step is canonical"
    for step, share in (
        (steps // 20, 0.1),
        (steps // 10, 0.2),
        (steps // 5, 0.4),
        (steps - 1, 0.4),
    ):
        # as many seeds at one step as steps of one seed: the draws have no order
        views = [choose_view(loss, seed, step, steps) for seed in range(count)]
        slack = 4 * math.sqrt(share * (1 - share) / count)
        assert sum(v.novel for v in views) / count == pytest.approx(share, abs=slack)
        canonical = [v.around_depth for v in views if not v.novel]
        assert sum(canonical) / len(canonical) == pytest.approx(
            0.4, abs=4 * math.sqrt(0.24 / len(canonical))
        )
        assert not any(v.novel and v.around_depth for v in views)


def test_steps_of_a_run_alternate_as_published() -> None:
    loss, steps = G3DRLossConfig(), 3000
    novel = torch.tensor([choose_view(loss, 7, s, steps).novel for s in range(steps)]).float()
    expected = torch.tensor([min(0.4, 2 * s / steps) for s in range(steps)])
    for part in novel.view(3, -1), expected.view(3, -1):
        assert part.shape == (3, 1000)
    assert_close(novel.view(3, -1).mean(1), expected.view(3, -1).mean(1), rtol=0, atol=0.06)
    assert float(novel[1:] @ novel[:-1]) / steps == pytest.approx(
        float(expected[1:] @ expected[:-1]) / steps, abs=0.04
    ), "one step tells nothing about the next"


def test_every_process_of_a_run_looks_from_the_same_kind_of_view() -> None:
    cfg = make_config()
    task = SceneGeneration(replace(cfg, optim=replace(cfg.optim, batch_size=6)))
    shares = [task.share(rank, 3) for rank in range(3)]
    objectives = [share.build_objective(torch.device("cpu")) for share in shares]
    assert {o.common_seed for o in objectives} == {cfg.run.seed}
    assert len({o.seed for o in objectives}) == 3, "but each from poses of its own"
    batches = [share.batches("cpu")(4) for share in shares]
    assert all(len(batch.images) == 2 for batch in batches)
    assert not torch.equal(batches[0].images, batches[1].images)


def test_the_yaw_widens_over_the_first_third() -> None:
    camera = SceneCameraConfig()
    for step, den in ((0, 24), (15, 19.5), (50, 9), (60, 6), (179, 6)):
        assert yaw_limit(camera, step, 180) == pytest.approx(math.pi / den)


def test_ramps() -> None:
    assert [ramp(0.35, 0.02, s, 100_000) for s in (0, 50_000, 100_000, 200_000)] == pytest.approx(
        [0.02, 0.185, 0.35, 0.35]
    )
    assert [ramp(1.0, 0.0, s, 30) for s in (0, 15, 30, 45)] == [0.0, 0.5, 1.0, 1.0]
    assert ramp(0.35, 0.02, 0, 0) == 0.35
