"""The same work on Ray Data: many machines that see the same folders.

Items and results are small: descriptions of what to read and what was written. Ray Data replaces a
process that dies and begins its item again, without end; what an item does has to notice, as
`journal` does, that a picture is fatal.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..signals import StopRequest
from .coco import CurationError
from .pool import Work

T = TypeVar("T")
R = TypeVar("R")
L = TypeVar("L")
LOCAL = "local"


def _ray() -> Any:
    try:
        import ray  # type: ignore[import-not-found]
        import ray.data  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError(
            f'--ray needs Ray Data ({error}): pip install "fastrecon[scale]"; or leave --ray away '
            "to work on this machine's processes"
        ) from error
    return ray


@contextlib.contextmanager
def cluster(address: str, cpus: int) -> Iterator[None]:
    """Be connected to a Ray cluster; one that is connected already is used and left as it is.

    Args:
        address: "local" starts one in this machine for the block; "auto", "host:port" or
            "ray://host:port" is one that runs.
        cpus: of the local one.

    Raises:
        ImportError: Ray Data is missing; the message names the extra.
        CurationError: there is no such cluster, or it does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        options |= {"num_cpus": max(1, cpus), "include_dashboard": False}
    try:
        with _environment() if address == LOCAL else contextlib.nullcontext():
            ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        raise CurationError(
            f"cannot reach or start Ray at {address!r} ({error}); --ray local starts one here, "
            "`ray status` tells whether a cluster runs"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Have processes that Ray starts import from where this one does, and be as urgent as it."""
    wanted = {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path),
        "RAY_worker_niceness": "0",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def on_ray(work: Work[T, R], stop: StopRequest) -> Generator[R]:
    """Results as they are finished, one CPU for an item.

    Raises:
        Whatever ``work.run`` raises.
        CurationError: the cluster itself fails.
    """
    return _results(work.items, _Call(work.run), {"num_cpus": 1}, work.lost, stop)


def on_actors(
    items: Sequence[T],
    load: Callable[[], L],
    use: Callable[[T, Callable[[], L]], R],
    lost: Callable[[T], R],
    gpu: bool,
    stop: StopRequest,
) -> Generator[R]:
    """Results of processes that each load something large, such as a network, once.

    Args:
        load: gives what processes keep.
        use: does an item with a function that gives what was loaded.
        lost: the result of an item that Ray has given up.
        gpu: a process for every GPU of the cluster; else one in all.

    Raises:
        Whatever ``load`` and ``use`` raise.
        CurationError: the cluster has no GPU, or fails.
    """
    ray = _ray()
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpu and not gpus:
        raise CurationError(
            "this Ray cluster has no GPU; start it on machines that have one, or pass --device cpu"
        )
    options = {
        "fn_constructor_args": (load, use),
        "compute": ray.data.ActorPoolStrategy(size=min(gpus, len(items)) if gpu else 1),
        **({"num_gpus": 1} if gpu else {"num_cpus": 1}),
    }
    return _results(items, _Actor, options, lost, stop)


def has_gpus() -> bool:
    """Whether the cluster that is connected has any."""
    return _ray().cluster_resources().get("GPU", 0) >= 1


def _results(
    items: Sequence[T],
    call: Any,
    options: dict[str, Any],
    lost: Callable[[T], R],
    stop: StopRequest,
) -> Generator[R]:
    """Rows in and out are bytes, which Ray Data takes as they are."""
    if not items:
        return
    ray = _ray()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # those of items that are lost
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"item": pickle.dumps(pair)} for pair in enumerate(items)]
    made = ray.data.from_items(rows, override_num_blocks=len(rows)).map(call, **options)
    waiting = dict(enumerate(items))
    try:
        for row in made.iter_rows():
            answer: _Answer[R] = pickle.loads(row["answer"])
            del waiting[answer.number]
            yield answer.result()
            if stop.signum is not None:
                return
    except ray.exceptions.RayError as error:
        raise CurationError(
            f"Ray failed ({str(error).strip().splitlines()[0]}); the same command continues"
        ) from error
    for item in waiting.values():
        yield lost(item)


@dataclass
class _Answer(Generic[R]):
    """What `run` gave or raised: Ray would wrap an exception, and try again after some."""

    number: int
    value: Any
    error: Exception | None = None

    def result(self) -> R:
        if self.error is not None:
            raise self.error
        return self.value


def _answer(row: dict[str, Any], run: Callable[[Any], Any]) -> dict[str, bytes]:
    number, item = pickle.loads(row["item"])
    try:
        answer = _Answer(number, run(item))
    except Exception as error:
        answer = _Answer(number, None, error)
    return {"answer": pickle.dumps(answer)}


class _Call:
    """A function as Ray Data calls it."""

    def __init__(self, run: Callable[[Any], Any]) -> None:
        self.run = run
        self.__name__ = "curate"

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        return _answer(row, self.run)


class _Actor:
    """A process that loads something when it is first asked for, and keeps it."""

    def __init__(self, load: Callable[[], Any], use: Callable[[Any, Any], Any]) -> None:
        self.loaded = functools.cache(load)
        self.use = use

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        return _answer(row, lambda item: self.use(item, self.loaded))
