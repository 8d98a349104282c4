"""Memory of training: counted storages, and the promise that a chunk of rays bounds it."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="counts the Triton path")

from fastrecon_kernels.render.triton_path import CHUNK_BYTES

from bench import __main__ as cli
from bench import memory_count, page
from bench.memory_count import LiveBytes, count
from bench.workloads import A, B

SAMPLES = (32, 64, 128, 256, 512)
SMALL_A = replace(A, plane_side=16, channels=16, hidden=(16,) * 9, image_side=16)
SMALL_B = replace(B, plane_side=32, channels=16, hidden=(16,), image_side=16)
CHUNK = 4 << 20


@functools.cache
def counted(
    importance: bool, deterministic: bool = False, chunk: int = CHUNK
) -> dict[int, memory_count.Row]:
    """Two objects of 256 rays of either workload, by samples per ray."""
    return {
        samples: count(
            SMALL_B if importance else SMALL_A,
            samples,
            importance=importance,
            deterministic=deterministic,
            views=2,
            chunk_bytes=chunk,
        )
        for samples in SAMPLES
    }


def test_storages_are_followed_from_the_first_tensor_to_the_last() -> None:
    given = torch.empty(100)
    memory = LiveBytes()
    with memory:
        memory.follow(given)
        assert memory.live == 400
        x = torch.empty(10) + 1  # while it is made there are two
        assert (memory.live, memory.peak) == (440, 480)
        part = x[:5]
        part += given[:5]
        del x
        assert memory.live == 440
        del part
        assert memory.live == 400
    assert memory.peak == 480


def test_positions_of_importance_sampling_are_all_that_is_kept() -> None:
    seed = 8
    for samples, row in counted(importance=True).items():
        assert row.kept == 2 * row.rays * samples * 4 + seed
    assert all(row.kept == 0 for row in counted(importance=False).values())


@pytest.mark.parametrize(("deterministic", "chunk"), [(False, CHUNK), (True, 2 * CHUNK)])
@pytest.mark.parametrize("importance", [False, True])
def test_a_chunk_bounds_the_peaks(importance: bool, deterministic: bool, chunk: int) -> None:
    """Whatever the samples, once there are chunks; and a chunk takes what it was counted for."""
    rows = [r for r in counted(importance, deterministic, chunk).values() if r.chunks > 2]
    assert len(rows) >= 2
    # Chunks end on rows of tiles, so that they are smaller than they might be.
    assert max(row.backward - row.fixed for row in rows) > 0.6 * chunk
    for row in rows:
        # Neither are tiles all full, nor a chunk of few rays.
        assert 0.75 * row.formula < row.in_flight < 1.2 * row.formula
        assert row.backward < row.fixed + 1.05 * chunk
    if not deterministic:
        # Records are small, so that it takes smaller chunks to have three of them.
        small = counted(importance, chunk=chunk // 4)
        assert small[512].forward == pytest.approx(small[256].forward, abs=0.1 * chunk // 4)


def test_counts_are_printed_saved_and_put_into_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory_count, "WORKLOADS", {"A": SMALL_A})
    path, target = tmp_path / "memory.json", tmp_path / "page.md"
    memory_count.main(["A", "--samples", "8", "--save", "--out", str(path)])
    assert "saved 4 rows" in capsys.readouterr().out
    saved = json.loads(path.read_text())
    assert saved["conditions"]["processors"] == 132
    target.write_text("<!-- bench memory: begin -->\n<!-- bench memory: end -->\n")
    monkeypatch.setattr(cli, "MEMORY_COUNT", path)
    assert cli.main(["page", str(path), str(target)]) == 0
    written = target.read_text()
    assert "| A, all coarse | 8 | 0.00 | 0 |" in written
    assert "| A, half of the samples fine | 8 | 4.00 | 0 |" in written
    assert "Counted, not measured." in written


def test_the_committed_count_keeps_its_promise() -> None:
    rows = json.loads(memory_count.PATH.read_text())["rows"]
    assert {(r["workload"], r["samples"]) for r in rows} == {(w, s) for w in "AB" for s in SAMPLES}
    for row in rows:
        n_samples = memory_count.VIEWS * row["rays"] * row["samples"]
        assert row["kept"] // 4 in ((n_samples, n_samples + 2) if row["importance"] else (0, 2))
    full = [row for row in rows if not row["deterministic"]]
    for workload in "AB":
        of_chunks = [r["backward"] - r["fixed"] for r in full if r["workload"] == workload]
        assert max(of_chunks) < 1.02 * CHUNK_BYTES
    assert "| A, all coarse | 32 | 0.00 |" in page.memory_table(memory_count.PATH)
