"""The same work on Ray Data. Ray takes seconds to start: `pytest -m slow tests/curation`."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fastrecon.cli import main
from fastrecon.curation.batches import Batch, Outcome
from fastrecon.curation.coco import CurationError
from fastrecon.curation.decide import Job
from fastrecon.curation.journal import ATTEMPTS
from fastrecon.curation.pool import Work
from fastrecon.curation.scale import cluster, on_actors, on_ray
from fastrecon.signals import StopRequest
from tests.curation.made_set import (
    arguments,
    manifest,
    pack,
    shard_arguments,
    shard_bytes,
    write_set,
)
from tests.curation.test_shards import deadly, members, scene


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    write_set(tmp_path, {"a.png": scene()})
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*arguments(tmp_path, tmp_path / "out"), "--ray", "local"]) == 1
    assert 'pip install "fastrecon[scale]"' in capsys.readouterr().err


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One local cluster of two CPUs for all of this file."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: it is in the extra scale")
    with cluster("local", 2):
        yield


@pytest.mark.slow
def test_ray_gives_what_the_local_pool_gives(tmp_path: Path, ray_here: None) -> None:
    content = write_set(tmp_path, {f"{k}.png": scene() for k in range(4)})
    pack(tmp_path, content, 2, "png")
    (tmp_path / "pictures" / "3.png").unlink()
    for ray, out in (([], tmp_path / "here"), (["--ray", "local"], tmp_path / "there")):
        assert main([*arguments(tmp_path, out / "files"), *ray]) == 1
        assert main([*shard_arguments(tmp_path, out / "shards"), *ray]) == 0
    here, there = tmp_path / "here", tmp_path / "there"
    for kind in ("files", "shards"):
        assert manifest(here / kind) == manifest(there / kind)
        assert (here / kind / "report.json").read_bytes() == (
            there / kind / "report.json"
        ).read_bytes()
    assert shard_bytes(here / "shards") == shard_bytes(there / "shards")
    crops = sorted((here / "files" / "crops").iterdir())
    assert len(crops) == 3
    for crop in crops:
        assert (there / "files" / "crops" / crop.name).read_bytes() == crop.read_bytes()


@pytest.mark.slow
def test_a_picture_that_kills_its_worker_costs_itself(tmp_path: Path, ray_here: None) -> None:
    content = write_set(tmp_path, {f"{k}.png": scene() for k in range(4)})
    shards = pack(tmp_path, content, 2, "png")
    job = Job(tmp_path, tmp_path, tmp_path / "out", "disparity")
    job.out.mkdir()
    todo = [Batch(path.stem, "run", shard=path) for path in shards]
    run = partial(deadly, job=job, victim="000/2.png", real=os.getpid())
    with StopRequest() as stop:
        outcomes = list(on_ray(Work(todo, run, _never, ATTEMPTS), stop))
    failed = [record for outcome in outcomes for record in outcome.failed]
    assert [(r.image, "died" in r.reason) for r in failed] == [("000/2.png", True)]
    assert list(members(job.out / "shards" / "000.tar")) == ["000/0_0.png", "000/0_0.json"]
    assert len(members(job.out / "shards" / "001.tar")) == 4


def _never(batch: Batch) -> Outcome:
    raise AssertionError(batch.name)


def fails(item: int) -> int:
    if item == 1:
        raise CurationError("as it was raised")
    return item


@pytest.mark.slow
def test_errors_are_those_of_the_work(ray_here: None) -> None:
    with StopRequest() as stop, pytest.raises(CurationError, match="as it was raised"):
        list(on_ray(Work([0, 1], fails, fails), stop))


def loaded_in() -> list[int]:
    return [os.getpid(), 0]


def use(item: int, load: Callable[[], list[int]]) -> tuple[int, int, int]:
    loaded = load()
    loaded[1] += 1
    return item, loaded[0], loaded[1]


def gave_up(item: int) -> tuple[int, int, int]:
    raise AssertionError(item)


@pytest.mark.slow
def test_actors_load_once(ray_here: None) -> None:
    with StopRequest() as stop:
        found = sorted(on_actors([5, 6, 7], loaded_in, use, gave_up, False, stop))
        assert [item for item, _, _ in found] == [5, 6, 7]
        assert {pid for _, pid, _ in found} - {os.getpid()} == {found[0][1]}
        assert sorted(times for _, _, times in found) == [1, 2, 3]
        with pytest.raises(CurationError, match="no GPU"):
            list(on_actors([1], loaded_in, use, gave_up, True, stop))
