"""Every case's renderers agree with the published one; typical objects are balls."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch

from bench.case import PASSES, Case, Size
from bench.harness import Options, measure_pass
from bench.operators import CASES, composite, points, sample_multires, sample_triplane, typical
from bench.operators.points import PlaneInputs, PointInputs
from tests.bench.small_cases import CPU, SMALL_A, SMALL_B

OPTIONS = Options(CPU, memory=False, budget=0.0, most=1)
SMALL = {"A": SMALL_A, "B": SMALL_B}


def shrunk(case: Case) -> Case:
    """The case on a small workload."""
    operator, letter = case.name.split()[0], case.name.split()[-1]
    workload = SMALL[letter]
    makers = {
        "render_rays": workload.problem,
        "composite": functools.partial(composite.records, workload),
        "query_points": functools.partial(points.along_rays, workload, PointInputs, every=4),
        "typical": functools.partial(typical.ball, workload),
        "frame": functools.partial(typical.ball, workload),
    }
    lookup = functools.partial(points.along_rays, workload, PlaneInputs, every=4)
    sizes = dict.fromkeys(PASSES, Size(2, 5))
    return replace(case, make=makers.get(operator, lookup), cpu=sizes)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.extra])
def test_everybody_agrees_forward_and_backward(name: str) -> None:
    case = shrunk(CASES[name])
    for which in case.passes:
        rows = measure_pass(case, which, OPTIONS)
        assert [row["status"] for row in rows] == ["ok"] * len(rows), rows
        assert {"published", "reference", "ours"} <= {row["renderer"] for row in rows}
        if which == "forward+backward":
            exact = [row for row in rows if "bf16" not in row["renderer"]]
            assert all(row["gradient_error"] < 1e-3 for row in exact)


@pytest.fixture
def coarse_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typical, "RESOLUTION", 8)


def test_early_stop_and_occupancy_hardly_change_a_typical_object(coarse_grid: None) -> None:
    for name in ("typical A", "typical B"):
        rows = measure_pass(shrunk(CASES[name]), "forward", OPTIONS)
        assert [row["status"] for row in rows] == ["ok"] * len(rows), rows
        assert rows[-1]["renderer"].endswith("occupancy")
        assert rows[-1]["max_error"] < 0.02


@pytest.mark.parametrize("letter", ["A", "B"])
def test_a_typical_object_is_a_ball(letter: str, coarse_grid: None) -> None:
    workload = replace(SMALL[letter], plane_side=32)
    x = typical.ball(workload, Size(1, 20 * 20, 20), CPU, False)
    _, opacity = typical.ours(backend="reference")(x)
    picture = opacity.view(20, 20)
    assert float(picture[9:11, 9:11].min()) > 0.95
    assert float(picture[0].max()) < 0.05
    assert 0.05 < float(x.occupancy.float().mean()) < 0.9
    rgb, _ = typical.ours(backend="reference")(x)
    assert float(rgb.view(20, 20, 3)[8:12, 8:12].std()) > 0.01


def test_points_lie_along_the_rays() -> None:
    x = points.along_rays(SMALL_A, PointInputs, Size(2, 3), CPU, False, every=4)
    assert x.points.shape == (2, 3 * 32, 3)
    assert x.n_samples == 2 * 3 * 32
    offset = x.points.view(2, 3, 32, 3) - x.rays_o[:, :, None]
    across = torch.linalg.cross(offset, x.rays_d[:, :, None].expand_as(offset))
    assert float(across.abs().max()) < 1e-5


def test_lookups_have_no_decoder_among_their_leaves() -> None:
    for module, workload, n in ((sample_triplane, SMALL_A, 1), (sample_multires, SMALL_B, 3)):
        assert module.CASES[0].name in CASES
        x = points.along_rays(workload, PlaneInputs, Size(1, 2), CPU, True, every=4)
        assert len(x.leaves) == n
