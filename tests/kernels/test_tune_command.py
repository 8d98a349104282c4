"""The command that measures launch choices: its options, its table, what it exits with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="launch choices are the kernels'")

from fastrecon_kernels import tune
from fastrecon_kernels.render import autotune, kept, tuned
from fastrecon_kernels.render.autotune import Measured
from fastrecon_kernels.render.pack import DecoderShape
from fastrecon_kernels.render.tuned import FieldKey

from bench.conditions import child_environment
from tests.kernels.tiny_tuning import TILES, FakeClock, measure
from tests.kernels.tiny_tuning import alike as alike


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """The command as on a GPU, with the interpreter and a clock that tells what it is told."""
    monkeypatch.setenv("FASTRECON_CACHE", str(tmp_path))
    monkeypatch.setattr(tune, "missing_device", lambda name: "")
    monkeypatch.setattr(tuned, "place_of", lambda device: "A GPU")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    def small(
        device: torch.device, key: FieldKey, sides: tuple[int, ...], parts: Any, report: Any
    ) -> Measured:
        here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        assert parts == ("forward",)
        return measure(here, FakeClock(4.0, 3.0, 5.0, 3.99), TILES, key=key, report=report)

    monkeypatch.setattr(autotune, "measure_field", small)
    return lambda *words: tune.main([*words, "--forward-only", "--precision", "tf32"])


def test_the_command_prints_a_table_and_keeps_the_choice(
    command: Callable[..., int],
    alike: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    field = ["--channels", "4", "--reduction", "sum", "--hidden", "1x16", "--activation", "relu"]
    assert command(*field, "--levels", "8") == 0
    printed = capsys.readouterr().out
    assert "4 channels, 1 level, sum, 16-4 relu, tf32" in printed
    assert "taken, 25.0% less" in printed
    assert f"written to {tmp_path / 'tuning.json'}" in printed
    (fields,) = kept.read_choices(tmp_path / "tuning.json").values()
    assert fields["4 channels, 1 level, sum, 16-4 relu, tf32"]["forward"]["field"] == [16, 4]


def test_what_cannot_be_kept_exits_with_1(
    command: Callable[..., int],
    alike: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTRECON_CACHE", str(tmp_path / "file"))
    assert command("--channels", "4", "--reduction", "sum", "--hidden", "16") == 1
    assert "cannot be kept" in capsys.readouterr().err


def parse(*words: str) -> Any:
    return tune.parse(words)


def test_presets_are_the_published_fields_and_give_way() -> None:
    triposr = tune.field_key(parse("--preset", "triposr"))
    assert triposr == FieldKey(
        DecoderShape(40, 3, (64,) * 9 + (4,)), 1, "concat", "silu", "bf16"
    )  # fmt: skip
    g3dr = tune.field_key(parse("--preset", "g3dr", "--precision", "tf32"))
    assert g3dr == FieldKey(DecoderShape(64, 1, (64, 4)), 3, "mean", "softplus", "tf32")
    assert parse("--preset", "g3dr", "--levels", "96", "48").levels == [96, 48]
    none = tune.field_key(parse("--hidden", "none", "--colours", "7"))
    assert none.shape.widths == (8,)
    assert tune.field_key(parse("--hidden", "64,32")).shape.widths == (64, 32, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hidden", "9y64"], "must look like 9x64"),
        (["--hidden", "0x64"], "must look like 9x64"),
        (["--channels", "0"], "must be a number of at least 1"),
        (["--levels", "64", "-3"], "must be a number of at least 1"),
        (["--preset", "nerf"], "invalid choice: 'nerf'"),
    ],
)
def test_bad_options_exit_with_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        tune.main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_what_has_no_choices_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune, "missing_device", lambda name: "")
    assert tune.main(["--hidden", "4x256"]) == 2
    assert "wider than 128 go through PyTorch's own products" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_one_line_and_2() -> None:
    environment = {k: v for k, v in child_environment().items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "fastrecon_kernels.tune", "--preset", "triposr"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "needs a GPU, and torch sees none" in done.stderr


def test_the_interpreter_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "unset TRITON_INTERPRET" in tune.missing_device("cuda")


def test_devices_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "interpreting", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert tune.missing_device("cuda") == tune.missing_device("cuda:0") == ""
    assert "one of 1 GPUs" in tune.missing_device("cuda:1")
    assert "one of 1 GPUs" in tune.missing_device("cpu")
    assert "must look like cuda or cuda:0, got 'gpu'" in tune.missing_device("gpu")
