"""The workloads are what they are said to be."""

from __future__ import annotations

import pytest
import torch
from fastrecon_kernels import render_rays

from bench.case import FULL, Size
from bench.workloads import SEED, WORKLOADS, B
from tests.bench.small_cases import CPU, SMALL_A, SMALL_B


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_workloads_are_as_documented(name: str) -> None:
    x = WORKLOADS[name].inputs(views=2)
    assert x.rays_o.shape == x.rays_d.shape == (2, 16384, 3)
    torch.testing.assert_close(x.rays_d.norm(dim=-1), torch.ones(2, 16384))
    decoder = x.decoder
    if name == "A":
        assert x.n_samples * 4 == 16_777_216  # of 8 views
        assert [tuple(level.shape) for level in x.levels] == [(2, 3, 40, 64, 64)]
        assert [w.shape[1] for w in decoder.weights] == [120, *[64] * 9]
        assert decoder.activation == "silu"
        macs = sum(w.numel() for w in decoder.weights)
        assert 40_600 < macs < 40_800
    else:
        assert x.n_samples * 4 == 8_388_608
        assert [level.shape[-1] for level in x.levels] == [128, 64, 32]
        assert [tuple(w.shape) for w in decoder.weights] == [(64, 64), (4, 64)]
        assert decoder.activation == "softplus"


def test_the_full_size_is_all_rays_of_8_views() -> None:
    assert Size(8, 16384, 128) == FULL


def test_inputs_are_seeded_and_leave_the_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, two = (B.inputs(views=1, image_side=2) for _ in range(2))
    assert torch.equal(one.planes, two.planes)
    assert torch.equal(one.decoder.weights[0], two.decoder.weights[0])
    assert not torch.equal(one.planes, B.inputs(views=1, image_side=2, seed=1).planes)
    assert torch.equal(state, torch.get_rng_state())


def test_fields_vary() -> None:
    """A field of one colour would hide errors from the parity check."""
    for workload in WORKLOADS.values():
        x = workload.inputs(views=1, image_side=6)
        with torch.no_grad():
            r = render_rays(x.levels, x.decoder, x.rays_o, x.rays_d, x.settings, seed=0)
        assert float(r.rgb.std()) > 0.02
        assert float(r.opacity.mean()) > 0.2


def test_problems_take_the_middle_of_the_picture() -> None:
    whole = SMALL_A.inputs(views=2, image_side=6)
    all_rays = whole.rays_d.view(2, 6, 6, 3)
    some = SMALL_A.problem(Size(2, 12, 6), CPU, False)
    torch.testing.assert_close(some.rays_d.view(2, 2, 6, 3), all_rays[:, 2:4])
    few = SMALL_A.problem(Size(2, 2, 6), CPU, False)
    torch.testing.assert_close(few.rays_d, all_rays[:, 3, 2:4])
    every = SMALL_A.problem(Size(2, 36, 6), CPU, False)
    torch.testing.assert_close(every.rays_d, whole.rays_d)


def test_problems_have_every_level_and_layer_as_a_leaf() -> None:
    x = SMALL_B.problem(Size(1, 2), CPU, True)
    assert [tuple(leaf.shape[-2:]) for leaf in x.leaves[:3]] == [(8, 8), (4, 4), (2, 2)]
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in x.leaves)
    assert len(x.leaves) == 3 + 4
    assert x.noise is not None
    assert [tuple(n.shape) for n in x.noise] == [(1, 2, 32), (1, 2, 32)]
    r = render_rays(x.levels, x.decoder, x.rays_o, x.rays_d, x.settings, seed=SEED)
    assert r.rgb.requires_grad
