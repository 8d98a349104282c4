"""Measuring launch choices: what is left out and why, which one is taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="launch choices are the kernels'")

from fastrecon_kernels import render_rays
from fastrecon_kernels.render import autotune, kept, launch, trial, tuned
from fastrecon_kernels.render.autotune import Attempt, best, difference, measure_field
from fastrecon_kernels.render.candidates import ALTERNATIVES, Stage, stages, tunings
from fastrecon_kernels.render.pack import DecoderShape
from fastrecon_kernels.render.trial import Size, Trial, camera_rays
from fastrecon_kernels.render.tuning import TUNING, row_of, tuning_of

from tests.kernels.small_field import BINS, make_field, make_rays
from tests.kernels.tiny_tuning import KEY, TILES, TINY, FakeClock, measure
from tests.kernels.tiny_tuning import alike as alike

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


# --- the choice --------------------------------------------------------------------------------


def test_the_fastest_is_taken(device: torch.device) -> None:
    clock = FakeClock(4.0, 3.0, 5.0, 2.0)
    reports: list[Sequence[Attempt]] = []
    found = measure(device, clock, TILES, report=reports.append)
    assert clock.timed == 4
    assert [attempt.milliseconds for attempt in found.attempts] == [4.0, 3.0, 5.0, 2.0]
    assert [attempt.taken for attempt in found.attempts] == [False, False, False, True]
    assert found.parts["forward"]["field"] == (128, 4)
    assert set(found.parts) == {"forward"}
    assert set(found.parts["forward"]) == set(kept.CHECKS["forward"])
    assert reports == [found.attempts]


def test_noise_changes_nothing(device: torch.device, alike: None) -> None:
    default = tuning_of(device, KEY.precision)
    found = measure(device, FakeClock(4.0, 3.93, 3.95, 4.0), TILES)
    assert found.attempts[0].taken
    assert found.parts["forward"]["field"] == default.field
    assert measure(device, FakeClock(4.0, 3.91, 3.95, 4.0), TILES).attempts[1].taken


def test_a_stage_begins_where_the_one_before_ended(device: torch.device, alike: None) -> None:
    second = Stage("forward", "forward", ({"field_programs": 3}, {"field_programs": 2}))
    found = measure(device, FakeClock(4.0, 3.0, 5.0, 5.0), TILES, second)
    assert found.attempts[4].tuning == found.attempts[1].tuning
    assert found.parts["forward"]["field"] == (16, 4)
    assert found.parts["forward"]["field_programs"] == 3


def test_parts_that_were_measured_before_are_where_it_begins(
    device: torch.device, alike: None
) -> None:
    found = measure(
        device, FakeClock(1.0, 1.0, 1.0), TILES, combine_with={"forward": {"field": (64, 4)}}
    )
    assert found.attempts[0].tuning.field == (64, 4)


def test_what_differs_is_left_out(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, alike: None
) -> None:
    results = Trial.results

    def spoilt(self: Trial, stage: str, tuning: Any) -> list[torch.Tensor]:
        raw, rgb = results(self, stage, tuning)
        if tuning.field == (16, 4):
            raw = raw + 0.1 * raw.std(correction=0)
        if tuning.field == (64, 4):
            rgb[0, 0] = torch.nan
        return [raw, rgb]

    monkeypatch.setattr(Trial, "results", spoilt)
    clock = FakeClock(4.0, 3.0)
    found = measure(device, clock, TILES)
    assert clock.timed == 2
    assert found.attempts[1].left_out == "raw density differs by 1.0e-01"
    assert found.attempts[2].left_out == "colour differs by inf"
    assert found.attempts[1].milliseconds is None
    assert found.attempts[3].taken


def test_what_raises_is_left_out(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, alike: None
) -> None:
    from triton.runtime.errors import OutOfResources

    results = Trial.results

    def limited(self: Trial, stage: str, tuning: Any) -> list[torch.Tensor]:
        if tuning.field == (128, 4):
            raise OutOfResources(262_144, 232_448, "shared memory")
        return results(self, stage, tuning)

    monkeypatch.setattr(Trial, "results", limited)
    found = measure(device, FakeClock(4.0, 3.0, 3.5), TILES)
    left_out = found.attempts[3].left_out
    assert left_out.startswith("OutOfResources: out of resource: shared memory, Required: 262144")
    assert found.attempts[1].taken


def test_what_spills_is_left_out(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, alike: None
) -> None:
    counts = iter([0, 0, 260, 24, 0])  # of the rule, then of each choice
    monkeypatch.setattr(autotune, "spilled_bytes", lambda now, before: next(counts))
    found = measure(device, FakeClock(4.0, 3.0, 3.5), TILES)
    assert [a.left_out for a in found.attempts] == ["", "spills 260 bytes per thread", "", ""]
    assert found.attempts[2].taken, "a little may pay"


def test_binaries_are_found_where_triton_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    held, device = object(), torch.device("cuda", 0)
    kernels = [SimpleNamespace(device_caches={0: ({"key": held}, {}), 1: ({"key": 7}, {})})]
    kernels += [SimpleNamespace(), SimpleNamespace(device_caches={0: None})]
    monkeypatch.setattr(autotune, "KERNELS", kernels)
    assert autotune.compiled_kernels(device) == {id(held): held}


def test_spills_are_those_of_new_binaries() -> None:
    def compiled(words: int | None) -> Any:
        return type("Compiled", (), {"n_spills": words})()

    before = {1: compiled(50)}
    now = {**before, 2: compiled(3), 3: compiled(None), 4: compiled(2)}
    assert autotune.spilled_bytes(now, before) == 12
    assert autotune.spilled_bytes(before, before) == 0


def test_defaults_that_fail_are_the_callers_to_know(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("no kernel")

    monkeypatch.setattr(Trial, "results", fail)
    with pytest.raises(RuntimeError, match="ValueError: no kernel"):
        measure(device, FakeClock(1.0), TILES)


def test_nothing_replaces_a_choice_that_has_no_time() -> None:
    tuning = TUNING["hopper"]
    untimed, timed = Attempt("forward", tuning, left_out="differs"), Attempt("forward", tuning, 1.0)
    assert best([untimed, timed]) is untimed


@pytest.mark.parametrize(
    ("precision", "gap", "words"),
    [("bf16", 0.01, ""), ("tf32", 0.01, "raw density differs by 1.0e-02"), ("fp32", 1e-6, "")],
)
def test_tolerances_are_those_of_the_precision(precision: str, gap: float, words: str) -> None:
    expected = [torch.randn(64, dtype=torch.float64), torch.rand(64, 3), torch.rand(5)]
    offset = gap * (expected[0] - expected[0].mean()).norm() / 8
    got = [expected[0] + offset, *expected[1:]]
    assert difference(got, expected, precision) == words
    got[2] = expected[2] * 1.2
    got[0] = expected[0]
    assert difference(got, expected, precision).startswith("a gradient differs by 2.0e-01")


# --- what is measured --------------------------------------------------------------------------


def test_the_backward_pass_is_measured_stage_by_stage(device: torch.device) -> None:
    """Every stage's step runs on the real kernels, its results agree, its choice is the next's."""
    layers = {"group": (16, 4), "pair_layers": False, "group_programs": 2, "widen": False}
    changes: dict[str, dict[str, Any]] = {
        "training": {"training": (16, 4)},
        "layers": layers,
        "taps": {"taps": (16, 4)},
        "windows": {"patch": (4, 2, 4), "window_warps": 4},
        "rows": {"line": (2, 1, 8)},
        "points": {"points": (16, 4)},
        "fold": {"fold": (16, 4)},
    }
    wanted = [Stage(name, "backward", (change,)) for name, change in changes.items()]
    key = KEY._replace(shape=DecoderShape(4, 1, (16, 16, 4)))  # one layer between cuts, or two
    tiny = Size(picture=2, samples=3)
    found = measure(device, FakeClock(2.0, 1.0), *wanted, key=key, size=tiny)
    assert [attempt.left_out for attempt in found.attempts] == [""] * 14
    assert [attempt.taken for attempt in found.attempts] == [False, True] * 7
    chosen = found.parts["backward"]
    assert chosen == {name: value for change in changes.values() for name, value in change.items()}


def test_global_state_is_left_alone(device: torch.device) -> None:
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        made = Trial(device, KEY, (8,), TINY, tuning_of(device, "tf32"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert made.samples.rays_o.dtype == made.d_raw.dtype == torch.float32


def test_the_trial_is_as_large_as_a_call_and_no_larger(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastrecon_kernels.render import triton_path

    monkeypatch.setattr(trial, "MAX_SIDE", 8)
    monkeypatch.setattr(triton_path, "CHUNK_BYTES", 3000)
    made = Trial(device, KEY, (4096, 5), TINY, tuning_of(device, "tf32"))
    assert [level.shape[-1] for level in made.levels] == [8, 5]
    field = made.field(made.default)
    assert 0 < made.samples.count * (field.sample_bytes(True) + 32) <= 3000
    assert made.samples.count < made.forward_samples.count
    assert made.samples.first_ray > 0, "the middle of the picture"


def test_the_cameras_see_the_object() -> None:
    rays = camera_rays(16, torch.device("cpu"))
    assert rays.rays_o.shape == (2 * 16 * 16, 3)
    torch.testing.assert_close(rays.rays_d.norm(dim=-1), torch.ones(512))
    closest = -(rays.rays_o * rays.rays_d).sum(-1, keepdim=True) * rays.rays_d + rays.rays_o
    assert closest.norm(dim=-1).view(2, 16, 16)[:, 7:9, 7:9].max() < 0.15
    assert closest.norm(dim=-1).max() < 1.5
    down = rays.rays_d.view(2, 16, 16, 3)[:, :, 8, 2]
    assert (down.diff(dim=1) < 0).all(), "rows go down the picture"


def test_alternatives_fit_the_field() -> None:
    hopper, both = TUNING["hopper"], ("forward", "backward")
    wide, deep = DecoderShape(64, 1, (128, 128, 4)), DecoderShape(40, 3, (64,) * 9 + (4,))
    assert [s.name for s in stages("hopper", deep, both)] == [
        "forward", "training", "layers", "taps", "windows", "rows", "points", "fold",
    ]  # fmt: skip
    one = DecoderShape(40, 3, (4,))
    assert [s.name for s in stages("hopper", one, ("backward",))] == [
        "taps", "windows", "rows", "points", "fold",
    ]  # fmt: skip
    forward, _, layers, *_ = stages("hopper", wide, both)
    assert {t.pair_layers for t in tunings(layers, deep, "bf16", hopper)} == {True, False}
    assert all(t.field_registers in (0, 128) for t in tunings(forward, wide, "bf16", hopper))
    assert all(t.pair_layers for t in tunings(layers, wide, "bf16", hopper))
    # 94 KiB of kept weights: no more than two programs' fit a processor.
    kept_weights = [t for t in tunings(forward, deep, "bf16", hopper) if t.kept_bytes]
    assert max(t.field_programs for t in kept_weights) == 2
    assert len(kept_weights) > 3
    rows = stages("hopper", deep, both)[-3]
    by_taps = hopper._replace(window_warps=0)
    assert list(tunings(rows, deep, "bf16", by_taps)) == [by_taps]


def test_a_call_measures_its_field_once_and_renders_with_the_choice(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`FASTRECON_TUNE=1`, for once in the interpreter too."""
    monkeypatch.setenv("FASTRECON_CACHE", str(tmp_path))
    monkeypatch.setenv("FASTRECON_TUNE", "1")
    if device.type == "cpu":
        monkeypatch.setattr(tuned, "interpreting", lambda: False)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        monkeypatch.setattr(tuned, "place_of", lambda device: "an interpreter")
        monkeypatch.setattr(autotune, "CudaClock", lambda device: FakeClock(4.0, 3.0))
    monkeypatch.setattr(autotune, "Size", lambda: TINY)
    change = {"field": (16, 4)}
    monkeypatch.setitem(ALTERNATIVES, row_of(device, "tf32"), {"forward": (change,)})
    tuned.forget()
    used = []
    fill = launch.fill_records

    def watched(records: Any, samples: Any, inputs: Any, *rest: Any) -> None:
        used.append(inputs.tuning.field)
        fill(records, samples, inputs, *rest)

    planes, decoder = make_field(1)
    planes, decoder = planes.to(device), decoder.to(device)
    rays_o, rays_d = (x.to(device) for x in make_rays(1, 5))

    def render(backend: str) -> torch.Tensor:
        return render_rays(planes, decoder, rays_o, rays_d, BINS, backend=backend).rgb

    try:
        first = render("triton")
        (fields,) = kept.read_choices(tmp_path / "tuning.json").values()
        ((name, parts),) = fields.items()
        assert name == "4 channels, 1 level, concat, 8-4 silu, tf32"
        monkeypatch.setattr(autotune, "measure_field", None)
        monkeypatch.setattr(launch, "fill_records", watched)
        assert torch.equal(render("triton"), first)
    finally:
        tuned.forget()
    assert used == [tuple(parts["forward"]["field"])]
    assert device.type == "cuda" or used == [(16, 4)]
    torch.testing.assert_close(first, render("reference"), rtol=1e-2, atol=1e-2)


@NEEDS_GPU
def test_a_gpu_is_timed(device: torch.device) -> None:
    forward = Stage("forward", "forward", ({"field": (16, 4)}, {"field": (64, 4)}))
    found = measure_field(torch.device("cuda", 0), KEY, (8,), alternatives=[forward])
    timed = [a.milliseconds for a in found.attempts if a.milliseconds is not None]
    assert len(timed) >= 2
    assert all(0 < milliseconds < 1000 for milliseconds in timed)
