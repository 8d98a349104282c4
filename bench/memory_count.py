"""Memory of training against samples per ray, counted on tensors without data.

    python -m bench.memory_count [A B] [--samples 32 64 ...] [--save]

The Triton path's own host code runs on the "meta" device, with the launch choices of an H200 but
without its launches, and every storage is followed from the operator that makes it until it is
freed. Inputs, results and gradients of both are subtracted. What PyTorch takes inside an operator
(sorting) and how an allocator rounds is not seen: this is arithmetic on sizes, no measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from bench.conditions import ROOT, commit, version_of
from bench.report import write_result
from bench.workloads import VIEWS, WORKLOADS, Workload

PATH = ROOT / "bench" / "results" / "memory.json"
SAMPLES = (32, 64, 128, 256, 512)
PROCESSORS, CAPABILITY = 132, (9, 0)
"""Of an H200; every program of the backward kernels has its own sums of weight gradients."""
PRECISION = "bf16"


@dataclass(frozen=True)
class Row:
    """What a call takes, in bytes; the peaks are beyond inputs, results, gradients and ``kept``."""

    workload: str
    samples: int  # per ray, coarse and fine
    importance: bool  # half of them fine
    deterministic: bool
    rays: int  # per object
    kept: int  # between the passes
    forward: int  # peak
    backward: int  # peak
    gradients: int  # of planes and decoder
    chunks: int  # of the backward pass
    fixed: int  # of the backward pass when its first chunk begins
    in_flight: float  # most per sample of its largest chunk
    formula: int  # what `split_rays` expects that to be


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operators make while it is in force."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        self.follow(results)
        return results

    def follow(self, tensors: Any) -> None:
        """Count the tensors' storages that are not known yet, until they are freed."""
        for tensor in tree_leaves(tensors):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage not in self.known:
                self.known[storage] = None
                weakref.finalize(storage, self._free, storage.nbytes())
                self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)

    def _free(self, size: int) -> None:
        self.live -= size


@dataclass
class Chunks:
    """What one pass over the chunks of a call was seen to do."""

    count: int
    samples: int  # of the largest
    formula: int
    before: int  # live bytes
    peak: int = 0


@contextlib.contextmanager
def without_launches(memory: LiveBytes, chunk_bytes: int) -> Iterator[list[Chunks]]:
    """Host code as on an H200, without its launches; yields the passes over chunks so far.

    The dispatcher would answer for the "meta" device with the results' shapes, so what lies behind
    the operators is called in its place.
    """
    from fastrecon_kernels.render import operators, triton_path
    from fastrecon_kernels.render.tuning import n_programs, row_of, tuning_of
    from triton.runtime.jit import KernelInterface

    passes: list[Chunks] = []
    split = triton_path.split_rays

    def split_rays(
        n_rays: int, n_samples: int, call: Any, field: Any, backward: bool, width: int = 0
    ) -> Any:
        parts = split(n_rays, n_samples, call, field, backward, width)
        largest = max(part.stop - part.start for part in parts)
        formula = field.sample_bytes(backward) + triton_path.PLACED_BYTES
        passes.append(Chunks(len(parts), largest * n_samples, formula, memory.live))
        return parts

    def watched(loop: Any) -> Any:
        def watch(*arguments: Any) -> Any:
            before, memory.peak = memory.peak, memory.live
            results = loop(*arguments)
            passes[-1].peak = memory.peak
            memory.peak = max(before, memory.peak)
            return results

        return watch

    def render(*arguments: Any) -> Any:
        outside = torch.is_grad_enabled()  # it is off in an autograd function's forward pass
        return (operators._render_differentiate if outside else operators._render)(*arguments)

    gpu = SimpleNamespace(multi_processor_count=PROCESSORS)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ))
        os.environ.pop("TRITON_INTERPRET", None)
        os.environ["FASTRECON_TUNE"] = "0"
        for owner, name, stand_in in (
            (torch, "autocast", lambda *_, **__: contextlib.nullcontext()),  # knows no "meta"
            (torch.cuda, "get_device_properties", lambda _: gpu),
            (torch.cuda, "get_device_capability", lambda _: CAPABILITY),
            (KernelInterface, "__getitem__", lambda *_: lambda *_, **__: None),
            (operators, "render", render),
            (operators, "render_backward", operators._render_backward),
            (operators, "render_chunks", watched(operators.render_chunks)),
            (operators, "differentiate_chunks", watched(operators.differentiate_chunks)),
            (triton_path, "split_rays", split_rays),
            (triton_path, "CHUNK_BYTES", chunk_bytes),
        ):
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        for cached in (n_programs, row_of, tuning_of):  # they ask for the device's properties
            cached.cache_clear()
            stack.callback(cached.cache_clear)
        yield passes


def count(
    workload: Workload,
    samples: int,
    *,
    importance: bool,
    deterministic: bool = False,
    views: int = VIEWS,
    rays: int | None = None,
    chunk_bytes: int | None = None,
) -> Row:
    """Count one call with ``samples`` per ray, coarse and fine, and its backward pass.

    Args:
        importance: half of the samples are fine ones; without, all are coarse.
        rays: of each object; None: the workload's pictures.
        chunk_bytes: bound on a chunk; None: the package's own.
    """
    from fastrecon_kernels.render.operators import render_rays_triton
    from fastrecon_kernels.render.triton_path import CHUNK_BYTES

    settings = replace(workload.settings, n_samples=samples, n_importance=0)
    if importance:  # merged samples have no bins
        settings = replace(settings, quadrature="midpoint", interval="distance")
        settings = replace(settings, n_samples=samples // 2, n_importance=samples - samples // 2)
    inputs = workload.inputs(views, "meta")
    rays_o, rays_d = inputs.rays_o[:, :rays], inputs.rays_d[:, :rays]
    leaves = [leaf.detach().requires_grad_() for leaf in inputs.levels]
    levels, decoder = tuple(leaves), inputs.decoder
    leaves += [parameter.requires_grad_() for parameter in decoder.parameters]
    memory = LiveBytes()

    def render(n_rays: int) -> list[Tensor]:
        found = render_rays_triton(
            levels,
            decoder,
            rays_o[:, :n_rays],
            rays_d[:, :n_rays],
            settings,
            seed=0,
            precision=PRECISION,
            deterministic=deterministic,
            picture_width=workload.image_side,
        )
        return [found.rgb, found.opacity, found.depth]

    with without_launches(memory, chunk_bytes or CHUNK_BYTES) as passes, memory:
        memory.follow([*leaves, rays_o, rays_d])
        render(1)  # small tables stay in caches
        given = memory.peak = memory.live
        results = render(rays_o.shape[1])
        given += sum(x.nbytes for x in results)
        forward, kept = memory.peak - given, memory.live - given
        d_results = [torch.empty_like(x) for x in results]
        given = memory.peak = memory.live
        gradients = torch.autograd.grad(results, leaves, d_results)
        added = sum(x.nbytes for x in gradients)
        chunks = passes[-1]
        return Row(
            workload=workload.name,
            samples=samples,
            importance=importance,
            deterministic=deterministic,
            rays=rays_o.shape[1],
            kept=kept,
            forward=forward - kept,
            backward=memory.peak - given - added,
            gradients=added,
            chunks=chunks.count,
            fixed=chunks.before - given - added,
            in_flight=round((chunks.peak - chunks.before) / chunks.samples, 1),
            formula=chunks.formula,
        )


def count_all(workloads: Sequence[str], samples: Sequence[int]) -> Iterator[Row]:
    """Every number of samples, with and without importance sampling and determinism."""
    for name in workloads:
        for importance in (False, True):
            for deterministic in (False, True):
                for number in samples:
                    yield count(
                        WORKLOADS[name],
                        number,
                        importance=importance,
                        deterministic=deterministic,
                    )


def found_under() -> dict[str, Any]:
    """The conditions of a count."""
    from fastrecon_kernels.render.triton_path import CHUNK_BYTES

    return {
        "commit": commit(),
        "torch": torch.__version__,
        "triton": version_of("triton"),
        "objects": VIEWS,
        "inputs": "float32",
        "precision": PRECISION,
        "gradients": "planes and decoder",
        "processors": PROCESSORS,
        "capability": list(CAPABILITY),
        "chunk_bytes": CHUNK_BYTES,
    }


HEADER = (
    "  samples importance determ.   rays      kept    kept  forward backward  fixed chunks "
    "in flight formula\n"
    "  per ray                    /object  B/sample     MB       MB       MB     MB        "
    "        B/sample"
)


def format_row(row: Row) -> str:
    """One line of the printed table."""
    n_samples = VIEWS * row.rays * row.samples
    kept, forward, backward, fixed = (
        size / 1e6 for size in (row.kept, row.forward, row.backward, row.fixed)
    )
    return (
        f"{row.workload} {row.samples:7d} {'yes' if row.importance else 'no':>10s} "
        f"{'yes' if row.deterministic else 'no':>7s} {row.rays:8,d} {row.kept / n_samples:9.2f} "
        f"{kept:7.1f} {forward:8.1f} {backward:8.1f} {fixed:6.1f} {row.chunks:6d} "
        f"{row.in_flight:9.1f} {row.formula:7d}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.memory_count",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workloads", nargs="*", default=["A", "B"], metavar="WORKLOAD")
    parser.add_argument("--samples", nargs="+", type=int, default=SAMPLES, help="per ray")
    parser.add_argument("--save", action="store_true", help=f"write {PATH.relative_to(ROOT)}")
    parser.add_argument("--out", type=Path, default=PATH, help="what --save writes instead")
    options = parser.parse_args(arguments)
    print(HEADER, flush=True)
    rows = []
    for row in count_all(options.workloads, options.samples):
        rows.append(asdict(row))
        print(format_row(row), flush=True)
    if options.save:
        write_result(options.out, {"conditions": found_under(), "rows": rows})
        print(f"saved {len(rows)} rows to {options.out}")


if __name__ == "__main__":
    main()
