"""Run the networks over all pictures that they have not seen: in this process, or on a cluster."""

from __future__ import annotations

import contextlib
import functools
import json
import uuid
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from ..signals import Interrupted, StopRequest
from .annotate import ON_THE_WAY, Look, Pictures, Samples, Wrong, annotate, lost
from .coco import CurationError
from .crops import write_whole
from .models import Networks
from .pool import Work, here
from .scale import has_gpus, on_actors

NAMES = "networks.json"
"""Which networks have written what lies beside it."""


def look_at_folder(
    images: Path, names: Sequence[str], out: Path, networks: Networks, ray: bool
) -> Wrong:
    """Write OUT/instances/ and OUT/depth/, as the networks are asked for.

    Args:
        names: of the pictures below ``images``.
        ray: work on the Ray cluster that is connected, a process for every GPU.

    Returns:
        What is wrong with which picture.

    Raises:
        CurationError, ImportError: a network is missing or fails; the message says what to do.
        OSError: the files cannot be written.
        Interrupted: SIGINT or SIGTERM came; what is written is whole.
    """
    out = out.absolute()
    instances = out / "instances" if networks.segment else None
    depths = out / "depth" if networks.depth else None
    for folder in (instances, depths):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    _keep_to(out, networks, False)
    run = uuid.uuid4().hex
    todo = Pictures(images.absolute(), tuple(names), instances, depths, run).missing()
    some = ON_THE_WAY * networks.batch_size
    looks = [
        Pictures(images.absolute(), tuple(todo[k : k + some]), instances, depths, run)
        for k in range(0, len(todo), some)
    ]
    return _run(looks, networks, ray, len(names), "picture")


def look_at_shards(shards: Sequence[Path], found: Path, networks: Networks, ray: bool) -> Wrong:
    """Write a shard into ``found`` for each of ``shards``; else as `look_at_folder`."""
    found = found.absolute()
    found.mkdir(parents=True, exist_ok=True)
    _keep_to(found, networks, True)
    run = uuid.uuid4().hex
    looks = [
        Samples(shard, found / f"{shard.stem}.tar", run)
        for shard in shards
        if not (found / f"{shard.stem}.tar").exists()
    ]
    return _run(looks, networks, ray, len(shards), "shard")


def _keep_to(folder: Path, networks: Networks, both: bool) -> None:
    """Refuse to take what one network has left for what another would find.

    Args:
        both: what they leave is in the same files, so that none can be added later.
    """
    path = folder / NAMES
    now = {"segment": networks.segment, "depth": networks.depth}
    try:
        before = dict(json.loads(path.read_text())) if path.exists() else {}
    except (OSError, ValueError, TypeError) as error:
        raise CurationError(f"{path} is damaged ({error}); use another --out") from error
    for task, model in now.items():
        known = before.get(task, model)
        if known != model and (both or (known and model)):
            raise CurationError(
                f"{folder} has what --{task} {known or 'no network'} found, not "
                f"{model or 'none'}; use another --out"
            )
    if not both:
        now = {task: model or before.get(task, "") for task, model in now.items()}
    write_whole(path, json.dumps(now, indent=1).encode())


def _run(looks: Sequence[Look], networks: Networks, ray: bool, total: int, unit: str) -> Wrong:
    wrong: Wrong = {}
    if not looks:
        return wrong
    sizes = [look.count for look in looks]
    with (
        StopRequest() as stop,
        contextlib.closing(_answers(looks, networks, ray, stop)) as answers,
        tqdm(total=total, desc="networks", unit=unit, disable=None) as bar,
    ):
        bar.update(total - sum(sizes))
        for count, answer in answers:
            wrong |= answer
            bar.update(count)
        if stop.signum is not None:
            raise Interrupted(
                stop.signum,
                "stopped; what the networks have seen stays, the same command continues",
            )
    return wrong


def _answers(
    looks: Sequence[Look], networks: Networks, ray: bool, stop: StopRequest
) -> Generator[tuple[int, Wrong]]:
    """Of how many pictures or shards, and what is wrong with which."""
    if not ray:
        load = functools.cache(networks.load)
        yield from here(Work(looks, lambda look: annotate(look, load), lost), stop)
        return
    gpu = networks.device != "cpu" and (networks.device != "auto" or has_gpus())
    # Every process sees one GPU, which is its first.
    there = replace(networks, device="cuda" if gpu else "cpu")
    yield from on_actors(looks, there.load, annotate, lost, gpu, stop)
