"""The one script for a GPU: what it would run exists, and it says what is missing."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.__main__ import main
from bench.operators import CASES

SCRIPT = Path(__file__).parents[2] / "bench/on_gpu.sh"
STAGES = ["parity", "bench", "tune", "tuned", "sweep", "sanitize", "pages"]


def run(*stages: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(SCRIPT), *stages],
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_stage_names_commands_that_exist(tmp_path: Path) -> None:
    done = run(DRY_RUN="1", OUT=str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line[3:] for line in lines if line.startswith("== ")] == STAGES
    commands = [shlex.split(line[2:]) for line in lines if line.startswith("+ ")]
    assert len(commands) == 10
    assert not (tmp_path / "out").exists(), "a dry run writes nothing"
    for words in commands:
        words = words[words.index("python") :]
        assert words[1] == "-m"
        assert importlib.util.find_spec(words[2]), words
        if "--only" in words and words[2] == "bench":
            patterns = words[words.index("--only") + 1 :]
            for pattern in (p for p in patterns if not p.startswith("-")):
                known = [*CASES, "sweep"]
                if not pattern.replace(".", "").isdigit():
                    assert any(pattern in name for name in known), pattern


def test_the_options_of_the_bench_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    usage = capsys.readouterr().out
    for line in run(DRY_RUN="1").stdout.splitlines():
        words = shlex.split(line[2:]) if "python -m bench --" in line else []
        options = (
            {word for word in words[words.index("bench") :] if word.startswith("--")}
            if words
            else set()
        )
        assert all(option in usage for option in options), options


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu() -> None:
    done = run("parity")
    assert done.returncode == 2
    assert "needs a GPU" in done.stdout


def test_a_stage_that_does_not_exist() -> None:
    done = run("sing", DRY_RUN="1")
    assert done.returncode == 1
    assert "no stage sing; there are parity" in done.stdout
