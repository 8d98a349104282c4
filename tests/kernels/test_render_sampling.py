"""Sample positions, seeds and chunks of `render_rays`, the gradients of its CPU paths.

Every test runs on the plain reference and on what "auto" takes for CPU tensors.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fastrecon_kernels import (
    Decoder,
    RenderSettings,
    build_pyramid,
    render_rays,
    sample_rays,
)
from fastrecon_kernels.render import reference
from torch import Tensor

from tests.kernels.small_field import BINS, EACH_PLACEMENT, FINE, flatten, make_field, make_rays

pytestmark = pytest.mark.parametrize("backend", ["reference", "auto"])


@EACH_PLACEMENT
def test_sample_rays_gives_the_coarse_samples(backend: str, settings: RenderSettings) -> None:
    coarse = replace(settings, n_importance=0)
    planes, decoder = make_field()
    o, d = make_rays(2, 3, 4)
    ts, deltas = sample_rays(o, d, coarse, seed=9)
    r = render_rays(planes, decoder, o, d, coarse, per_sample=True, seed=9, backend=backend)
    assert r.samples is not None
    at = (ts[..., 1:] + ts[..., :-1]) / 2 if coarse.quadrature == "midpoint" else ts
    torch.testing.assert_close(r.samples.ts, at, rtol=0, atol=0)
    torch.testing.assert_close(r.samples.deltas, deltas, rtol=0, atol=0)


def test_given_ts_that_equal_the_own_change_nothing(backend: str) -> None:
    planes, decoder = make_field()
    o, d = make_rays(2, 5)
    for settings in (BINS, replace(BINS, interval="chord"), replace(FINE, n_importance=0)):
        ts, _ = sample_rays(o, d, settings, seed=4)
        own = render_rays(planes, decoder, o, d, settings, seed=4, backend=backend)
        given = render_rays(planes, decoder, o, d, settings, ts=ts, backend=backend)
        torch.testing.assert_close(own.rgb, given.rgb)
        torch.testing.assert_close(own.depth, given.depth)


def test_fine_samples_crowd_where_the_coarse_pass_saw_something(backend: str) -> None:
    """A thin slab at x = 0.25: most of the fine samples lie in it."""
    planes = torch.zeros(1, 3, 1, 16, 16)
    planes[0, 0, 0, :, 9:11] = 40.0  # xy plane, texels 9 and 10 of 16 span x in [0.125, 0.375]
    decoder = Decoder([torch.tensor([[1.0, 1, 1], [0, 0, 0]])], [torch.tensor([-20.0, 0])])
    settings = RenderSettings(
        quadrature="midpoint", n_samples=32, n_importance=32, density_activation="softplus"
    )
    o, d = torch.tensor([[[-3.0, 0.1, 0.1]]]), torch.tensor([[[1.0, 0, 0]]])
    r = render_rays(planes, decoder, o, d, settings, per_sample=True, backend=backend)
    assert r.samples is not None
    inside = (r.samples.ts > 3.0) & (r.samples.ts < 3.5)
    assert int(inside.sum()) > 24  # 8 of them are coarse
    assert bool((r.samples.deltas >= 0).all())
    torch.testing.assert_close(r.samples.deltas.sum(-1), torch.full((1, 1), 2.0))


@EACH_PLACEMENT
@pytest.mark.parametrize("chunk_samples", [1, 7, 25])
def test_chunks_do_not_matter(
    backend: str,
    settings: RenderSettings,
    chunk_samples: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planes, decoder = make_field()
    planes.requires_grad_()
    prior = torch.full((2, 9), 1.8)
    rays = make_rays(2, 9)

    def run() -> list[Tensor]:
        r = render_rays(
            planes,
            decoder,
            *rays,
            settings,
            depth_prior=prior,
            per_sample=True,
            seed=21,
            backend=backend,
        )
        return [*flatten(r), *torch.autograd.grad(r.rgb.square().sum(), planes)]

    whole = run()
    monkeypatch.setattr(reference, "CHUNK_SAMPLES", chunk_samples)
    for x, y in zip(run(), whole, strict=True):
        torch.testing.assert_close(x, y)


def test_seeds(backend: str) -> None:
    planes, decoder = make_field()
    rays = make_rays(2, 5)

    def run(seed: int | Tensor | None) -> Tensor:
        return render_rays(planes, decoder, *rays, FINE, seed=seed, backend=backend).rgb

    assert torch.equal(run(5), run(5))
    assert torch.equal(run(5), run(torch.tensor(5)))
    assert torch.equal(run(-1), run(2**64 - 1))
    assert not torch.equal(run(5), run(6))
    assert not torch.equal(run(5), run(5 + 2**32))
    torch.manual_seed(0)
    first, second = run(None), run(None)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(first, run(None))
    state = torch.get_rng_state()
    run(5)
    render_rays(planes, decoder, *rays, BINS, backend=backend)
    assert torch.equal(state, torch.get_rng_state()), "a call that needs no numbers drew some"


@EACH_PLACEMENT
@pytest.mark.parametrize("reduction", ["concat", "sum", "mean"])
def test_every_gradient_equals_the_fp64_reference(
    backend: str, settings: RenderSettings, reduction: str
) -> None:
    settings = replace(settings, reduction=reduction, radius=0.9)  # type: ignore[arg-type]
    planes, decoder = make_field()
    if reduction != "concat":
        decoder = Decoder([decoder.weights[0][:, :4], decoder.weights[1]], decoder.biases)
    o, d = make_rays(2, 6)
    # Importance samples of the two precisions differ by rounding, which fp64 ts take away.
    ts = sample_rays(o, d, replace(settings, n_importance=0, near_far=(1.0, 3.0)), seed=2)[0]
    g = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(2, 6, *s, generator=g) for s in ((3,), (), ())]

    def run(dtype: torch.dtype, which: str) -> dict[str, Tensor]:
        names = ["planes", "weight 0", "weight 1", "bias 0", "bias 1", "rays_o", "rays_d"]
        leaves = [planes, *decoder.parameters, o, d]
        leaves = [x.detach().to(dtype).requires_grad_() for x in leaves]
        r = render_rays(
            build_pyramid(leaves[0], 2),
            Decoder(leaves[1:3], leaves[3:5]),
            leaves[5],
            leaves[6],
            settings,
            ts=ts,
            depth_prior=torch.full((2, 6), 1.9),
            backend=which,
        )
        grads = torch.autograd.grad(r[:3], leaves, [c.to(dtype) for c in cotangents])
        return dict(zip(names, grads, strict=True))

    expected = run(torch.float64, "reference")
    for name, grad in run(torch.float32, backend).items():
        error = float((grad - expected[name]).norm() / expected[name].norm())
        assert error < 1e-5, f"gradient of {name}: relative error {error:.1e}"
