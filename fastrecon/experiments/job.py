"""One run of an experiment in a process of its own: ``python -m fastrecon.experiments.job FILE``.

Training is the normal, resumable one. ``trained.json`` is written when it is over and its
checkpoints go, ``result.json`` when the model has been judged; both appear whole or not at all, so
the same job again does only what is missing.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint import CheckpointError, write_atomic
from ..config.checks import config_differences, resolve_device
from ..evaluation.report import commit
from ..run_folder import only_run
from ..signals import Interrupted
from ..tasks import task_for
from ..tasks.configs import AnyConfig
from ..trainer import Trainer, TrainingError
from .experiment import ExperimentError, Scores, resolved, restored

JOB, TRAINED, RESULT, CLOCK = "job.json", "trained.json", "result.json", "clock.json"
WITH_PARENT = "--with-parent"
"""Stop, after a checkpoint, when standard input ends: whoever started the job is gone."""
PATIENCE_S = 60.0
"""How long a job waits for a predecessor that is still writing its last checkpoint."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a job file; returns the exit code as ``fastrecon train`` does."""
    args = list(sys.argv[1:] if argv is None else argv)
    path = next(arg for arg in args if arg != WITH_PARENT)
    # An exception instead of instant death, so that worker processes are closed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if WITH_PARENT in args:
        threading.Thread(target=_stop_with_parent, daemon=True).start()
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        run_job(content)
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    except (CheckpointError, TrainingError, ValueError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _stop_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def run_job(content: Mapping[str, Any]) -> None:
    """Train what is not trained yet, judge it, write ``result.json``.

    Raises:
        Interrupted: SIGINT or SIGTERM arrived in training; the checkpoint is written.
        ExperimentError: another process is at it.
    """
    cfg: AnyConfig = restored(resolved(content["config_type"])(), content["config"])
    folder = Path(cfg.run.out)
    folder.mkdir(parents=True, exist_ok=True)
    _wait_for(folder)
    with only_run(folder, ExperimentError):
        seconds = _train(cfg, folder, content["config"]) if cfg.optim.steps else 0.0
        model = _model(cfg, folder)
        began = time.perf_counter()
        with torch.no_grad():
            scores: Scores = resolved(content["evaluate"])(model, cfg, content["settings"])
        result = {
            **content,
            "scores": scores,
            "seconds": {
                "training": round(seconds, 1),
                "evaluation": round(time.perf_counter() - began, 1),
            },
            "conditions": _conditions(model),
        }
        write_atomic(folder / RESULT, json.dumps(result, indent=1).encode())


def _wait_for(folder: Path) -> None:
    """Until no killed experiment's process holds the folder any more, or patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            with only_run(folder, ExperimentError):
                return
        except ExperimentError:
            time.sleep(0.5)


def _train(cfg: AnyConfig, folder: Path, content: dict[str, Any]) -> float:
    """Train to the end, if that has not happened; seconds of all attempts that ended well."""
    done = read_json(folder / TRAINED)
    if done is not None and not config_differences(done["config"], content):
        return done["seconds"]
    before = (read_json(folder / CLOCK) or {"seconds": 0.0})["seconds"]
    began = time.perf_counter()
    try:
        Trainer(cfg).run()
    except Interrupted:
        spent = {"seconds": before + time.perf_counter() - began}
        write_atomic(folder / CLOCK, json.dumps(spent).encode())
        raise
    seconds = before + time.perf_counter() - began
    done = {"seconds": seconds, "config": content}
    write_atomic(folder / TRAINED, json.dumps(done, indent=1).encode())
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return seconds


def _model(cfg: AnyConfig, folder: Path) -> nn.Module:
    """The trained model, or the one that training would start from, on the run's device."""
    torch.manual_seed(cfg.run.seed)
    if cfg.optim.steps:
        cfg = replace(cfg, run=replace(cfg.run, init=str(folder / "model")))
    return task_for(cfg).build_model().to(resolve_device(cfg.run.device)).eval()


def _conditions(model: nn.Module) -> dict[str, Any]:
    device = next(model.parameters()).device
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit() or "not a clone",
        "machine": _machine(device),
        "threads": torch.get_num_threads(),
    }


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        name = named[0].partition(":")[2].strip() if named else name
    return f"{name}, {os.cpu_count()} cores"


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file of a run; None if it is not there or was not written by us."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


if __name__ == "__main__":
    sys.exit(main())
