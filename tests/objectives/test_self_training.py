"""L_SELF against Eq. 2-10 written down once more, and where its gradients may and may not go."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastrecon import perceptual
from fastrecon.config import Config
from fastrecon.models.lrm import LRM
from fastrecon.objectives import SelfTraining
from tests.objectives.equations import Setting, Weights, self_loss, total
from tests.objectives.self_case import (
    ARMS,
    SIZE,
    STEPS,
    Drawn,
    FirstPlanes,
    fake_clip,
    gradients,
    make_config,
)


def setting(model: LRM, cfg: Config) -> Setting:
    task = cfg.self_training
    names = asdict(Weights())
    return Setting(
        model=model,
        render=model.config.render,
        size=task.size,
        distance=task.camera_distance,
        fov=task.fov_deg,
        weights=Weights(**{name: getattr(task, name) for name in names}),
        judge=perceptual.l1_ssim if task.cycle_perceptual else None,
        clip=fake_clip if task.semantic else None,
        stop_gradient=task.stop_gradient,
        cycle_size=task.cycle_size,
        hardest=task.semantic_hardest,
    )


def by_the_equations(
    model: LRM, cfg: Config, photos: Tensor, drawn: Drawn
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean over pictures, one at a time."""
    s = setting(model, cfg)
    losses, found = [], []
    pixels = [None] * len(photos) if drawn.pixels is None else drawn.pixels.tolist()
    for photo, novel, views, chosen in zip(
        photos, drawn.novel, drawn.semantic, pixels, strict=True
    ):
        terms = self_loss(s, photo, novel.double().numpy(), list(views.double().numpy()), chosen)
        losses.append(total(s, terms))
        found.append({name: float(term.detach()) for name, term in terms.items()})
    means = {name: torch.tensor([f[name] for f in found]).mean() for name in found[0]}
    return torch.stack(losses).mean(), means


# ------------------------------------------------------------------------------------ the equations


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("arm", ARMS)
def test_the_loss_is_that_of_the_equations(
    arm: str, count: int, model: LRM, photos: Tensor, drawn: Drawn
) -> None:
    cfg = make_config(**ARMS[arm])
    for step in (0, 6):
        loss, metrics = SelfTraining(cfg)(model, photos[-count:], step)
        expected, terms = by_the_equations(model, cfg, photos[-count:], drawn)
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=2e-5)
        task = cfg.self_training
        for name, term in terms.items():
            if getattr(task, name):
                assert float(metrics[f"self_{name}"]) == pytest.approx(float(term), rel=1e-4), name
        assert float(metrics["self_loss"]) == float(loss.detach())


@pytest.mark.parametrize("arm", ARMS)
def test_the_gradient_is_that_of_the_equations(
    arm: str, model: LRM, photos: Tensor, drawn: Drawn
) -> None:
    cfg = make_config(**ARMS[arm])
    found = gradients(model, SelfTraining(cfg)(model, photos, 4)[0])
    expected = gradients(model, by_the_equations(model, cfg, photos, drawn)[0])
    assert set(found) == set(expected)
    for name, value in expected.items():
        size = float(value.abs().max())
        torch.testing.assert_close(
            found[name],
            value,
            rtol=2e-3,
            atol=1e-3 * size + 1e-7,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_a_batch_is_the_mean_of_its_pictures(model: LRM, photos: Tensor, drawn: Drawn) -> None:
    """Each with its own poses: the public code slices them right at a batch of one only."""
    cfg = make_config()
    whole, metrics = SelfTraining(cfg)(model, photos, 5)
    of_one = []
    for i in range(3):
        chosen = Drawn(drawn.novel[i : i + 1], drawn.semantic[i : i + 1])
        of_one.append(by_the_equations(model, cfg, photos[i : i + 1], chosen))
    assert float(whole.detach()) == pytest.approx(
        float(torch.stack([loss for loss, _ in of_one]).mean().detach()), rel=2e-5
    )
    for name in ("input_rgb", "cycle_rgb", "semantic"):
        values = torch.stack([terms[name] for _, terms in of_one])
        assert float(values.std()) > 0.01 * float(values.mean().abs()), "pictures differ"
        assert float(metrics[f"self_{name}"]) == pytest.approx(float(values.mean()), rel=1e-4)


def test_swapped_poses_would_be_noticed(model: LRM, photos: Tensor, drawn: Drawn) -> None:
    cfg = make_config()
    loss, _ = SelfTraining(cfg)(model, photos, 5)
    swapped = Drawn(drawn.novel.flip(0), drawn.semantic)
    other, _ = by_the_equations(model, cfg, photos, swapped)
    assert abs(float((loss - other).detach())) > 1e-3 * float(loss.detach())


def test_metrics_are_detached_and_complete(model: LRM, photos: Tensor) -> None:
    _, metrics = SelfTraining(make_config(**ARMS["released"]))(model, photos, 0)
    terms = ("input_rgb", "input_mask", "cycle_rgb", "cycle_mask", "cycle_perceptual", "semantic")
    assert set(metrics) == {"self_loss", "psnr_input", "psnr_cycle", *(f"self_{t}" for t in terms)}
    assert all(v.ndim == 0 and not v.requires_grad for v in metrics.values())
    for name in ("input", "cycle"):
        mse = metrics[f"self_{name}_rgb"]
        torch.testing.assert_close(metrics[f"psnr_{name}"], -10 * torch.log10(mse))


# ---------------------------------------------------------------------------------- the poses drawn


def test_the_curriculum_follows_the_step(model: LRM, photos: Tensor, drawn: Drawn) -> None:
    objective = SelfTraining(make_config(semantic=0.0))
    for step in (0, 3, STEPS - 1):
        objective(model, photos, step)
    assert drawn.limits == pytest.approx([15.0, 15.0 + 75.0 * 3 / 9, 90.0])


def test_pixels_are_drawn_once_each_for_every_picture(
    model: LRM, photos: Tensor, drawn: Drawn
) -> None:
    cfg = make_config(rays=20, semantic=0.0)
    SelfTraining(cfg)(model, photos, 0)
    assert drawn.pixels is not None
    assert drawn.pixels.shape == (3, 20)
    assert all(len(set(row)) == 20 and set(row) <= set(range(64)) for row in drawn.pixels.tolist())
    assert len({tuple(row) for row in drawn.pixels.tolist()}) == 3
    before = drawn.pixels
    SelfTraining(cfg)(model, photos, 1)
    assert not torch.equal(before, drawn.pixels)


def test_draws_are_a_function_of_seed_and_step(model: LRM, photos: Tensor, drawn: Drawn) -> None:
    def at(step: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        cfg = make_config(cycle_limits=(90.0, 90.0), jitter=True)
        objective = SelfTraining(replace(cfg, run=replace(cfg.run, seed=seed)))
        loss, _ = objective(model, photos, step)
        return drawn.novel, drawn.semantic, loss.detach()

    state = torch.get_rng_state()
    assert all(map(torch.equal, at(2), at(2)))
    assert not any(map(torch.equal, at(2), at(3)))
    assert not any(map(torch.equal, at(2), at(2, seed=1)))
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator is left alone"
    novel, semantic, _ = at(2)
    different = torch.cat([novel[:, None], semantic], dim=1).flatten(0, 1)
    assert len(torch.unique(different, dim=0)) == 15, "no picture shares a pose with another"


# ------------------------------------------------------------------------------------ the gradients


CYCLE_ALONE: dict[str, Any] = {"input_rgb": 0.0, "semantic": 0.0}


@pytest.mark.parametrize("cycle_size", [0, 12])
def test_the_cycles_gradient_stops_at_the_novel_view(
    cycle_size: int, model: LRM, photos: Tensor, encoded: FirstPlanes
) -> None:
    loss, _ = SelfTraining(make_config(**CYCLE_ALONE, cycle_size=cycle_size))(model, photos, 9)
    loss.backward()
    model.zero_grad()
    first, again = encoded.all
    assert first.grad is None or not first.grad.any()
    assert again.grad is not None
    assert again.grad.abs().max() > 0


def test_without_the_stop_it_passes(model: LRM, photos: Tensor, encoded: FirstPlanes) -> None:
    loss, _ = SelfTraining(make_config(**CYCLE_ALONE, stop_gradient=False))(model, photos, 9)
    loss.backward()
    model.zero_grad()
    first = encoded.all[0].grad
    assert first is not None
    assert all(g.abs().max() > 0 for g in first)


def test_the_stop_changes_the_gradient_and_not_the_loss(model: LRM, photos: Tensor) -> None:
    stopped, through = (
        SelfTraining(make_config(**CYCLE_ALONE, stop_gradient=stop))(model, photos, 9)[0]
        for stop in (True, False)
    )
    torch.testing.assert_close(stopped, through)
    a, b = gradients(model, stopped), gradients(model, through)
    differ = [n for n in a if not torch.allclose(a[n], b[n], rtol=1e-2, atol=1e-7)]
    assert len(differ) > 0.5 * len(a)


def view_gradients(
    objective: SelfTraining, model: LRM, photos: Tensor, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Tensor, Tensor]]:
    """Cameras and gradients of the pictures that a call renders with a gradient, in its order."""
    seen: list[tuple[Tensor, Tensor]] = []
    original = SelfTraining._view

    def view(self, model, planes, c2w, *args, **kwargs):
        rendering = original(self, model, planes, c2w, *args, **kwargs)
        if rendering.rgb.requires_grad:
            rendering.rgb.retain_grad()
            seen.append((c2w, rendering.rgb))
        return rendering

    monkeypatch.setattr(SelfTraining, "_view", view)
    objective(model, photos, 2)[0].backward()
    model.zero_grad()
    return [(c2w, rgb.grad) for c2w, rgb in seen if rgb.grad is not None]


def test_semantics_teach_the_least_similar_view_alone(
    model: LRM, photos: Tensor, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = SelfTraining(make_config(**ARMS["semantics alone"], semantic_views=6))
    [(cameras, gradient)] = view_gradients(objective, model, photos, monkeypatch)
    assert gradient.shape == (3, 1, SIZE, SIZE, 3), "one view of each picture"
    s = setting(model, make_config())
    for photo, views, chosen in zip(photos, drawn.semantic, cameras[:, 0], strict=True):
        on_white, on_grey = photo[:3] + 1 - photo[3], photo[:3] + 0.5 * (1 - photo[3])
        planes = s.lrm(on_grey)
        shown = [s.pi(planes, c2w.double().numpy(), SIZE)[0] for c2w in views]
        wanted = fake_clip(on_white[None])[0]
        similar = [float((fake_clip(x[None])[0] @ wanted).detach()) for x in shown]
        gap = sorted(similar)[1] - sorted(similar)[0]
        assert gap > 1e-4, "the hardest is no toss-up"
        assert torch.equal(chosen, views[int(np.argmin(similar))])
    assert all(g.abs().max() > 0 for g in gradient)


def test_naive_semantics_teach_every_view(
    model: LRM, photos: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = SelfTraining(make_config(**ARMS["semantics alone"], semantic_hardest=False))
    [(_, gradient)] = view_gradients(objective, model, photos, monkeypatch)
    assert gradient.shape == (3, 4, SIZE, SIZE, 3)
    assert (gradient.flatten(2).abs().amax(-1) > 0).all()
