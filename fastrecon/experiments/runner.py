"""Runs an experiment: prepares it, its jobs a few at a time, the table of what is there so far."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..checkpoint import CheckpointStore, write_atomic
from ..config.checks import config_differences, resolve_device
from ..evaluation.report import insert
from ..export.pictures import png_bytes
from ..run_folder import only_run
from ..signals import StopRequest
from ..tasks import task_for
from .experiment import Experiment, ExperimentError, ExperimentOptions, Job, chosen_arms, jobs_of
from .figure import bars
from .job import JOB, RESULT, TRAINED, WITH_PARENT, read_json
from .table import Table, markdown, markers

LOG = "log.txt"
TABLE, NUMBERS, FIGURE = "table.md", "results.json", "figure.png"
POLL_S = 0.2
LAST_LINES = 12
"""Of a failed run's log that are shown."""
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


@dataclass
class Progress:
    """What became of the jobs."""

    failed: dict[str, str] = field(default_factory=dict)
    """Last lines of the logs, by the jobs' names."""
    stopped: int | None = None
    """The signal that ended it all."""


def run_experiment(experiment: Experiment, options: ExperimentOptions) -> int:
    """Run what is missing and write the table. Returns the exit code.

    0: everything is there; 1: some run failed, the others are in the table; 128 + signal: stopped,
    and the same call continues.

    Raises:
        ExperimentError, ValueError: nothing was run; the message says why.
    """
    options.check()
    chosen_arms(experiment, options)  # refuse before the work, not after it
    out = Path(options.config.run.out)
    device = resolve_device(options.config.run.device)
    if options.markdown is not None:
        insert(options.markdown, "", markers(experiment))
    if options.dry_run:
        prepared = experiment.prepare(True)
        _describe(jobs_of(experiment, prepared, options), prepared.todo)
        return 0
    out.mkdir(parents=True, exist_ok=True)
    with only_run(out, ExperimentError):
        began = time.perf_counter()
        prepared = experiment.prepare(False)
        jobs = jobs_of(experiment, prepared, options)
        _refuse_others(jobs)
        todo = [job for job in jobs if finished(job) is None]
        at_once = options.jobs or (1 if device.type == "cuda" else _cores())
        print(f"{len(jobs)} runs, {len(jobs) - len(todo)} of them done; {at_once} at a time")

        def tabulate() -> Table:
            results = [r for r in (finished(job) for job in jobs) if r is not None]
            table = Table.of(experiment, results, prepared.conditions)
            _write(out, experiment, table)
            return table

        progress = run_jobs(todo, at_once, device.type == "cpu", tabulate)
        table = tabulate()
    if progress.stopped is not None:
        print(f"stopped; the same command continues ({out})", file=sys.stderr)
        return 128 + progress.stopped
    if options.markdown is not None and table.rows:
        _publish(options.markdown, experiment, table)
    print(markdown(table, experiment))
    print(f"{time.perf_counter() - began:.0f} s; {out}/: {TABLE}  {NUMBERS}  {FIGURE}")
    for name, lines in progress.failed.items():
        print(f"\n{name} failed:\n{lines}", file=sys.stderr)
    return 1 if progress.failed else 0


def finished(job: Job) -> dict[str, Any] | None:
    """The job's result, if it has one and it is of this configuration and evaluation."""
    result, content = read_json(job.folder / RESULT), job.content()
    if result is None or "scores" not in result:
        return None
    alike = all(result.get(key) == content[key] for key in ("config_type", "settings", "evaluate"))
    if not alike or config_differences(result["config"], content["config"]):
        return None
    return result


def run_jobs(
    jobs: Sequence[Job], at_once: int, one_thread: bool, done: Callable[[], object]
) -> Progress:
    """Run jobs as processes, ``at_once`` at a time; one that fails does not stop the others.

    SIGINT and SIGTERM are passed on, and all running jobs write their checkpoints; a second one
    kills them.

    Args:
        done: called after every job that ended well.
    """
    waiting, running = deque(jobs), dict[subprocess.Popen[bytes], Job]()
    progress, began = Progress(), time.monotonic()
    bar = tqdm(total=len(jobs), desc="runs", unit="run", disable=None, leave=False)
    with StopRequest() as stop, bar:
        try:
            while running or (waiting and not stop.signum):
                while waiting and len(running) < at_once and not stop.signum:
                    job = waiting.popleft()
                    running[_start(job, one_thread)] = job
                time.sleep(POLL_S)
                if stop.signum and progress.stopped is None:
                    progress.stopped = stop.signum
                    bar.write(f"stopping {len(running)} runs after a checkpoint each ...")
                    for process in running:
                        process.terminate()
                for process in [p for p in running if p.poll() is not None]:
                    job = running.pop(process)
                    _close(process)
                    bar.n += 1
                    bar.refresh()
                    if process.returncode == 0:
                        left = (time.monotonic() - began) * (len(jobs) / bar.n - 1.0) / 60.0
                        bar.write(f"[{bar.n}/{len(jobs)}, {left:.0f} min left] {_line(job)}")
                        done()
                    elif progress.stopped is None:
                        progress.failed[job.name] = _last_lines(job, process.returncode)
                        bar.write(f"{job.name} failed; see {job.folder / LOG}")
        finally:
            for process in running:
                _kill(process)
        progress.stopped = stop.signum
    return progress


def _start(job: Job, one_thread: bool) -> subprocess.Popen[bytes]:
    """A process of the job, in a session of its own so that Ctrl-C reaches only us."""
    path = job.folder / JOB
    write_atomic(path, json.dumps(job.content(), indent=1).encode())
    environment = dict(os.environ)
    environment["PYTHONUNBUFFERED"] = environment["TQDM_DISABLE"] = "1"  # logs: at once, no bars
    # The job finds what we find, also in a clone that is not installed.
    environment["PYTHONPATH"] = os.pathsep.join(p or os.getcwd() for p in sys.path)
    if one_thread:
        environment |= dict.fromkeys(THREAD_VARIABLES, "1")
    command = [sys.executable, "-m", "fastrecon.experiments.job", str(path), WITH_PARENT]
    with (job.folder / LOG).open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process with its workers, at once."""
    with contextlib.suppress(OSError):
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _close(process)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _refuse_others(jobs: Sequence[Job]) -> None:
    """Stop before a folder of another configuration is mistaken for this one."""
    for job in jobs:
        there = read_json(job.folder / TRAINED)
        if there is None and _checkpoints(job):
            there = read_json(job.folder / JOB)
        if there is None or job.seed is None:
            continue
        differences = config_differences(there["config"], job.content()["config"])
        if differences:
            raise ExperimentError(
                f"{job.folder} was trained with another configuration:\n  "
                + "\n  ".join(differences)
                + "\ngive the same values to continue, or another --out for a new experiment"
            )


def _line(job: Job) -> str:
    """A finished job in a line."""
    result = read_json(job.folder / RESULT) or {}
    means = []
    for metric, values in result["scores"].items():
        known = [v for v in values.values() if v is not None]
        means.append(f"{metric} {sum(known) / max(len(known), 1):.4g}")
    seconds = result["seconds"]
    return (
        f"{job.name}: {', '.join(means)} "
        f"({seconds['training']:.0f} s of training, {seconds['evaluation']:.0f} s of evaluation)"
    )


def _last_lines(job: Job, code: int) -> str:
    text = (job.folder / LOG).read_text(encoding="utf-8", errors="replace")
    lines = text.strip().splitlines()[-LAST_LINES:]
    return "\n".join([*lines, f"(exit code {code}; all of it in {job.folder / LOG})"])


def _write(out: Path, experiment: Experiment, table: Table) -> None:
    content = json.dumps(table.to_json(), indent=1).encode()
    write_atomic(out / NUMBERS, content)
    if table.rows:
        write_atomic(out / TABLE, markdown(table, experiment).encode())
        write_atomic(out / FIGURE, png_bytes(bars(table, experiment)))


def _publish(page: Path, experiment: Experiment, table: Table) -> None:
    """The section of a documentation page, and its figure beside the page."""
    figure = page.with_name(f"{experiment.name}.png")
    write_atomic(figure, png_bytes(bars(table, experiment)))
    text = markdown(table, experiment, figure.name)
    write_atomic(page, insert(page, text, markers(experiment)).encode())


def _describe(jobs: Sequence[Job], todo: str) -> None:
    """What a dry run says: the runs, their state and their size."""
    if todo:
        print(todo)
    for job in jobs:
        print(f"  {job.name}: {_state(job)}")
    cfg = jobs[0].config
    with torch.device("meta"):
        model = task_for(replace(cfg, run=replace(cfg.run, init=""))).build_model()
    size = 4e-6 * sum(p.numel() for p in model.parameters())
    trained = [job for job in jobs if job.seed is not None]
    # weights, their average and two moments of the optimizer, per checkpoint that is kept
    peak = max((job.config.run.keep for job in trained), default=0) * 4 * size
    print(
        f"{len(jobs)} runs; each leaves about {size:.0f} MB and needs up to "
        f"{peak:.0f} MB more for checkpoints while it trains"
    )
    known = [r["seconds"] for r in (read_json(job.folder / RESULT) for job in jobs) if r]
    if known:
        mean = sum(s["training"] + s["evaluation"] for s in known) / len(known)
        left = sum(finished(job) is None for job in jobs)
        print(f"{left} runs are missing, about {mean:.0f} s each as far as is known")


def _state(job: Job) -> str:
    if finished(job) is not None:
        return "done"
    if job.seed is None:
        return "to be judged"
    if (job.folder / TRAINED).exists():
        return "trained, to be judged"
    folders = _checkpoints(job)
    done = int(folders[0].name.removeprefix("step_")) if folders else 0
    return f"{done} of {job.config.optim.steps} steps done"


def _checkpoints(job: Job) -> list[Path]:
    return CheckpointStore(job.folder / "checkpoints").folders()
