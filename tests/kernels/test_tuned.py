"""Which launch choice is used: the defaults, the kept one, or one that is measured now."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="launch choices are the kernels'")

from fastrecon_kernels import render_rays
from fastrecon_kernels.render import kept, tuned
from fastrecon_kernels.render.pack import DecoderShape
from fastrecon_kernels.render.tuned import FieldKey
from fastrecon_kernels.render.tuning import TUNING, Tuning

from tests.kernels.launch_choices import (
    BACKWARD,
    FORWARD,
    GPU,
    HOPPER,
    KEY,
    PLACE,
    choice,
    write,
    write_entry,
)
from tests.kernels.launch_choices import gpu as gpu
from tests.kernels.small_field import BINS, make_field, make_rays


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Measuring that takes no time: the parts that it was asked for."""
    from fastrecon_kernels.render import autotune

    asked: list[tuple[str, ...]] = []

    def measure(
        device: Any, key: Any, sides: Any, parts: tuple[str, ...], combine_with: Any
    ) -> Any:
        assert sides == (64,)
        asked.append(parts)
        every = {"forward": FORWARD, "backward": BACKWARD}
        return SimpleNamespace(parts={part: every[part] for part in parts})

    monkeypatch.setattr(autotune, "measure_field", measure)
    return asked


# --- which one is used -------------------------------------------------------------------------


def test_defaults_without_a_file_and_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choice() is HOPPER
    assert not list(tmp_path.iterdir())
    assert tuned.state(GPU) == "defaults"


def test_what_is_kept_is_used_by_the_next_process(tmp_path: Path) -> None:
    path = tuned.keep(GPU, KEY, {"forward": FORWARD, "backward": BACKWARD})
    assert path == tmp_path / "tuning.json"
    tuned.forget()
    assert choice() == HOPPER._replace(**FORWARD, **BACKWARD)
    assert choice(backward=False) == choice()
    assert tuned.state(GPU) == "kept for 1 field"
    assert [p.name for p in tmp_path.iterdir() if p.suffix not in (".json", ".lock")] == []


def test_parts_are_kept_one_after_the_other() -> None:
    tuned.keep(GPU, KEY, {"forward": FORWARD})
    assert choice() == HOPPER._replace(**FORWARD)
    tuned.keep(GPU, KEY, {"backward": BACKWARD})
    assert choice() == HOPPER._replace(**FORWARD), "a process does not change its mind"
    tuned.forget()
    assert choice() == HOPPER._replace(**FORWARD, **BACKWARD)


@pytest.mark.parametrize(
    "other",
    [
        KEY._replace(precision="tf32"),
        KEY._replace(n_levels=3),
        KEY._replace(reduction="mean"),
        KEY._replace(activation="relu"),
        KEY._replace(shape=DecoderShape(40, 3, (64, 64, 64, 4))),
        KEY._replace(shape=DecoderShape(32, 3, (64, 64, 4))),
    ],
)
def test_other_fields_have_choices_of_their_own(other: FieldKey) -> None:
    tuned.keep(GPU, KEY, {"forward": FORWARD})
    tuned.forget()
    assert choice(key=other) is HOPPER


@pytest.mark.parametrize("place", ["Another GPU", PLACE.replace("3.6.0", "3.7.0")])
def test_other_devices_and_versions_have_choices_of_their_own(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    tuned.keep(GPU, KEY, {"forward": FORWARD})
    tuned.forget()
    monkeypatch.setattr(tuned, "place_of", lambda device: place)
    assert choice() is HOPPER


def test_a_place_names_device_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    properties = SimpleNamespace(name="NVIDIA H200", major=9, minor=0, gcnArchName="")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "hip", None)
    place = tuned.place_of(torch.device("cuda", 99))
    import triton

    assert place.startswith(f"NVIDIA H200, sm_90, triton {triton.__version__}, fastrecon ")


def test_neither_rays_nor_batch_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    from fastrecon_kernels.render import field

    keys = []
    real = TUNING["interpreter" if device.type == "cpu" else "fp32"]

    def look_up(device: Any, key: FieldKey, sides: Any, backward: bool) -> Tuning:
        keys.append((key, sides, backward))
        return real

    monkeypatch.setattr(field, "tuning_for", look_up)
    for batch, n_rays in ((1, 1), (2, 3)):
        planes, decoder = make_field(batch)
        rays_o, rays_d = (x.to(device) for x in make_rays(batch, n_rays))
        render_rays(
            planes.to(device), decoder.to(device), rays_o, rays_d, BINS, backend="triton"
        )  # fmt: skip
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_the_file_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned.keep(GPU, KEY, {"forward": FORWARD})
    reads = []

    def counted(path: Path) -> Any:
        reads.append(path)
        return kept.read_choices(path)

    monkeypatch.setattr(tuned, "read_choices", counted)
    for _ in range(3):
        choice()
        choice(key=KEY._replace(n_levels=2))
    assert len(reads) == 1


def test_a_choice_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = choice()
    monkeypatch.setattr(tuned, "_choose", None)
    assert choice() is first


def test_0_reads_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned.keep(GPU, KEY, {"forward": FORWARD})
    monkeypatch.setenv("FASTRECON_TUNE", "0")
    monkeypatch.setattr(tuned, "read_choices", None)
    assert choice() is HOPPER
    assert tuned.state(GPU) == "defaults"


def test_the_interpreter_reads_no_file(
    monkeypatch: pytest.MonkeyPatch, measured: list[tuple[str, ...]]
) -> None:
    tuned.keep(GPU, KEY, {"forward": FORWARD})
    monkeypatch.setenv("FASTRECON_TUNE", "1")
    monkeypatch.setattr(tuned, "interpreting", lambda: True)
    monkeypatch.setattr(tuned, "read_choices", None)
    assert choice() is HOPPER
    assert not measured


def test_other_words_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRECON_TUNE", "yes")
    with pytest.warns(RuntimeWarning, match="FASTRECON_TUNE must be 0 or 1 or unset, got 'yes'"):
        assert choice() is HOPPER


# --- measured when first met -------------------------------------------------------------------


def test_1_measures_what_is_missing_once(
    monkeypatch: pytest.MonkeyPatch, measured: list[tuple[str, ...]]
) -> None:
    monkeypatch.setenv("FASTRECON_TUNE", "1")
    assert choice(backward=False) == HOPPER._replace(**FORWARD)
    assert choice(backward=True) == HOPPER._replace(**FORWARD, **BACKWARD)
    choice(backward=False)
    assert measured == [("forward",), ("backward",)]
    tuned.forget()
    assert choice() == HOPPER._replace(**FORWARD, **BACKWARD)
    assert choice(backward=False) == choice()
    assert len(measured) == 2, "the file has it"
    assert tuned.state(GPU) == "kept for 1 field, others measured when met"


@pytest.mark.filterwarnings("ignore:the launch choices kept:RuntimeWarning")
def test_1_replaces_what_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measured: list[tuple[str, ...]]
) -> None:
    path = write_entry(tmp_path, {"sideways": {}, "backward": BACKWARD})
    monkeypatch.setenv("FASTRECON_TUNE", "1")
    assert choice() == HOPPER._replace(**FORWARD, **BACKWARD)
    assert measured == [("forward", "backward")]
    assert set(kept.read_choices(path)[PLACE][str(KEY)]) == {"forward", "backward"}


def test_unset_measures_nothing(measured: list[tuple[str, ...]]) -> None:
    choice()
    assert not measured


def test_nothing_is_measured_while_a_graph_is_captured(
    monkeypatch: pytest.MonkeyPatch, measured: list[tuple[str, ...]]
) -> None:
    monkeypatch.setenv("FASTRECON_TUNE", "1")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    tuned.keep(GPU, KEY, {"forward": FORWARD})
    assert choice() == HOPPER._replace(**FORWARD), "what is kept may be used"
    assert not measured
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    choice()
    assert measured == [("backward",)]


def test_measuring_that_fails_is_a_warning_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fastrecon_kernels.render import autotune

    calls = []

    def fail(*arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        raise RuntimeError("no memory")

    monkeypatch.setattr(autotune, "measure_field", fail)
    monkeypatch.setenv("FASTRECON_TUNE", "1")
    with pytest.warns(RuntimeWarning, match="could not be measured, defaults are used.*no memory"):
        assert choice() is HOPPER
    assert choice() is HOPPER
    assert len(calls) == 1


def test_a_folder_that_cannot_be_written_serves_the_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measured: list[tuple[str, ...]]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTRECON_CACHE", str(tmp_path / "file" / "folder"))
    monkeypatch.setenv("FASTRECON_TUNE", "1")
    with pytest.warns(RuntimeWarning, match="cannot be kept, they serve this process alone"):
        assert choice(backward=False) == HOPPER._replace(**FORWARD)


def test_warnings_that_are_errors_stop_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path, "{")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choice() is HOPPER


# --- choices that do not launch after all ------------------------------------------------------


def failing(error: Exception) -> Callable[[], Tuning]:
    """A launch that fails with any choice but the defaults."""

    @tuned.or_with_defaults
    def launch() -> Tuning:
        if choice() is not HOPPER:
            raise error
        return choice()

    return launch


def test_a_kept_choice_that_cannot_run_is_dropped() -> None:
    from triton.runtime.errors import OutOfResources

    tuned.keep(GPU, KEY, {"forward": FORWARD})
    launch = failing(OutOfResources(300_000, 232_448, "shared memory"))
    with pytest.warns(RuntimeWarning, match="cannot run here, the defaults are used: .*shared mem"):
        assert launch() is HOPPER
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert launch() is HOPPER


def test_other_errors_are_raised() -> None:
    from triton.runtime.errors import OutOfResources

    tuned.keep(GPU, KEY, {"forward": FORWARD})
    with pytest.raises(ValueError, match="of the caller"):
        failing(ValueError("of the caller"))()
    tuned.forget()

    @tuned.or_with_defaults
    def never() -> None:
        raise OutOfResources(300_000, 232_448, "shared memory")

    assert choice(key=KEY._replace(n_levels=2)) is HOPPER
    with pytest.raises(OutOfResources):
        never()
