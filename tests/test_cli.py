"""The command line's own words."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastrecon.cli import main


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "reconstruct IMAGE..." in said
    assert "train RECIPE" in said
    assert main([]) == 2


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from fastrecon.cli import main; main(['--help']); "
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reconstrct"]) == 2
    assert "no command 'reconstrct'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["reconstruct", "train"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"fastrecon {command}" in capsys.readouterr().out


def test_a_mistyped_recipe_lists_the_real_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "tinny"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    for recipe in ("tiny", "small", "base", "triposr"):
        assert recipe in said
