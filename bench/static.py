"""Registers, spills, shared memory and instructions of every kernel, compiled without a GPU.

    python -m bench.static [--targets sm_90 ... | --all] [--operators render ...] [--save-baseline]
    python -m bench.static --all --cases "render A"     what CI compiles for every chip

Prints one row per kernel and target and compares with `bench/results/static.json`. Exits with 1
if a kernel spills, passes the chip's shared memory, does not compile, or is worse than its baseline
(see `static_baseline.py`; under another Triton than the baseline's counts are compared but fail
nothing). These figures guard and explain; they are never reported as times. How
instructions per sample are counted is written in `sass.py`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fastrecon_kernels.common.backend import FP_FUSION

from bench import static_baseline
from bench.sass import count_issues, count_kinds, disassemble, parse
from bench.static_cases import OPERATORS, StaticCase

TARGETS = ("sm_90",)
ALL_TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "gfx942")
SHARED_LIMIT = {
    "sm_80": 166_912,
    "sm_86": 101_376,
    "sm_89": 101_376,
    "sm_90": 232_448,
    "sm_100": 232_448,
    "gfx942": 65_536,
}
"""Bytes of shared memory that one program may use."""
AMD_MATRIX = re.compile(r"^\s*v_mfma_", re.MULTILINE)
AMD_REDUCTION = re.compile(r"^\s*global_atomic_", re.MULTILINE)
COUNTED = "sm_90"
"""The target whose loops are followed to count issues per sample."""
WARP = 32


@dataclass(frozen=True)
class Report:
    """What the compiler says about one kernel on one target.

    Counts are instructions in the code; those that a loop repeats count once. Per-sample figures
    are there for sm_90, unless the loops of the code are not understood; then ``note`` says why.
    """

    case: str
    target: str
    registers: int  # per thread
    spill_bytes: int  # per thread
    shared_bytes: int  # per program
    matrix: int  # tensor core products
    special: int | None  # exponentials, reciprocals, ...
    global_loads: int | None
    shared_loads: int | None
    reductions: int  # atomics (vectors of up to four floats count once)
    instructions: int | None
    issued_per_sample: float | None  # warp instructions
    special_per_sample: float | None  # operations, 32 per warp instruction
    seconds: float  # to compile, or to read from Triton's cache
    note: str = ""

    @property
    def problem(self) -> str:
        """Why this kernel must not ship, or nothing."""
        if self.spill_bytes:
            return f"spills {self.spill_bytes} bytes per thread"
        limit = SHARED_LIMIT.get(self.target)
        if limit is not None and self.shared_bytes > limit:
            return f"needs {self.shared_bytes} bytes of shared memory, the chip has {limit}"
        return ""


def gpu_target(name: str) -> Any:
    """Triton's target for "sm_90" or "gfx942"."""
    from triton.backends.compiler import GPUTarget

    if match := re.fullmatch(r"sm_(\d+)", name):
        return GPUTarget("cuda", int(match[1]), 32)
    if name.startswith("gfx9"):
        return GPUTarget("hip", name, 64)
    raise ValueError(f"target must look like sm_90 or gfx942, got {name!r}")


def compile_case(case: StaticCase, target: str) -> Report:
    """Compile one specialisation for a target such as "sm_90" and read off its resources.

    Raises:
        ValueError: if the case leaves an argument of the kernel open or names a foreign one.
        RuntimeError: under Triton's interpreter, which replaces the kernels by Python functions.
    """
    import triton
    from triton.compiler import ASTSource

    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("unset TRITON_INTERPRET to compile: interpreted kernels have no code")
    names = case.kernel.arg_names
    given = {**case.signature, **case.constexprs}
    if set(names) != set(given):
        raise ValueError(
            f"{case.name}: no type for {sorted(set(names) - set(given))}, "
            f"no argument for {sorted(set(given) - set(names))}"
        )
    signature = {name: case.signature.get(name, "constexpr") for name in names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if signature[name].startswith("*")
    }
    source = ASTSource(case.kernel, signature, dict(case.constexprs), aligned)
    start = time.perf_counter()
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages, **FP_FUSION}
    options.update(case.options)
    compiled = triton.compile(source, target=gpu_target(target), options=options)
    seconds = time.perf_counter() - start
    shared = int(compiled.metadata.shared)
    if target.startswith("sm_"):
        return nvidia_report(case, target, compiled.asm["cubin"], shared, seconds)
    return amd_report(case, target, compiled.asm["amdgcn"], shared, seconds)


def nvidia_report(
    case: StaticCase, target: str, cubin: bytes, shared: int, seconds: float
) -> Report:
    """Read a kernel's machine code."""
    registers, spill = nvidia_resources(cubin)
    instructions, labels = parse(disassemble(cubin))
    kinds = count_kinds(instructions)
    issued = special = None
    note = ""
    if case.samples and target == COUNTED:
        try:
            issues = count_issues(instructions, labels, {**case.constexprs, **case.values})
            issued = round(issues.total * case.num_warps / case.samples, 1)
            special = round(issues.kinds["special"] * WARP * case.num_warps / case.samples, 1)
        except ValueError as error:
            note = f"issues not counted: {error}"
    return Report(
        case=case.name,
        target=target,
        registers=registers,
        spill_bytes=spill,
        shared_bytes=shared,
        matrix=kinds["matrix"],
        special=kinds["special"],
        global_loads=kinds["global_loads"],
        shared_loads=kinds["shared_loads"],
        reductions=kinds["reductions"],
        instructions=len(instructions),
        issued_per_sample=issued,
        special_per_sample=special,
        seconds=seconds,
        note=note,
    )


def amd_report(case: StaticCase, target: str, code: str, shared: int, seconds: float) -> Report:
    """Read a kernel's assembly."""

    def value(key: str) -> int:
        found = re.search(rf"\.{key}:\s+(\d+)", code)
        if found is None:
            raise RuntimeError(f"the AMD code names no {key}")
        return int(found[1])

    return Report(
        case=case.name,
        target=target,
        registers=value("vgpr_count"),
        spill_bytes=value("private_segment_fixed_size"),
        shared_bytes=shared,
        matrix=len(AMD_MATRIX.findall(code)),
        special=None,
        global_loads=None,
        shared_loads=None,
        reductions=len(AMD_REDUCTION.findall(code)),
        instructions=None,
        issued_per_sample=None,
        special_per_sample=None,
        seconds=seconds,
    )


def nvidia_resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack (these kernels use it for spills alone) per thread."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump reported no registers: {usage!r}")
    return int(found[1]), int(found[2])


def compile_task(task: tuple[str, int, str]) -> Report | str:
    """One case, by operator, position and target; the error in words if it does not compile."""
    operator, index, target = task
    case = OPERATORS[operator]()[index]
    try:
        return compile_case(case, target)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"{case.name} {target} failed: {reason}"


def compile_all(tasks: Sequence[tuple[str, int, str]], jobs: int) -> Iterator[Report | str]:
    """Results in the order of the tasks, compiled in ``jobs`` processes."""
    if jobs <= 1 or len(tasks) <= 1:
        yield from map(compile_task, tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(compile_task, tasks)


def list_tasks(
    operators: Iterable[str], targets: Sequence[str], words: Sequence[str] = ("",)
) -> list[tuple[str, int, str]]:
    """Every case of the operators with one of the words in it, and the targets it is made for."""
    return [
        (operator, index, target)
        for operator in operators
        for index, case in enumerate(OPERATORS[operator]())
        for target in targets
        if not case.targets or target in case.targets
        if any(word in case.name for word in words)
    ]


HEADER = (
    f"{'kernel':50s} {'target':7s} regs spill  shared matrix special  loads   lds  red   code "
    f"  issued  special\n{'':59s}    bytes   bytes{'':41s} /sample  /sample"
)


def format_row(report: Report) -> str:
    """One line of the table."""

    def show(value: float | None, width: int) -> str:
        return f"{'-' if value is None else value:>{width}}"

    return (
        f"{report.case:50s} {report.target:7s} {report.registers:4d} {report.spill_bytes:5d} "
        f"{report.shared_bytes:7d} {report.matrix:6d} {show(report.special, 7)} "
        f"{show(report.global_loads, 6)} {show(report.shared_loads, 5)} {report.reductions:4d} "
        f"{show(report.instructions, 6)} {show(report.issued_per_sample, 8)} "
        f"{show(report.special_per_sample, 8)}  {report.problem or report.note}"
    ).rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if any kernel must not ship or has become worse."""
    parser = argparse.ArgumentParser(prog="python -m bench.static", description=__doc__)
    parser.add_argument("--targets", nargs="+", default=TARGETS, help="such as sm_90 or gfx942")
    parser.add_argument("--all", action="store_true", help=f"targets {' '.join(ALL_TARGETS)}")
    parser.add_argument("--operators", nargs="+", default=list(OPERATORS), choices=list(OPERATORS))
    parser.add_argument("--cases", nargs="+", default=[""], metavar="WORDS", help="with these")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--baseline", type=Path, default=static_baseline.PATH)
    parser.add_argument("--save-baseline", action="store_true", help="make these figures the rule")
    options = parser.parse_args(arguments)
    targets = ALL_TARGETS if options.all else tuple(options.targets)
    for target in targets:
        gpu_target(target)
    tasks = list_tasks(options.operators, targets, options.cases)
    if not tasks:
        parser.error("no such case for these targets; without --cases all are listed")
    print(HEADER, flush=True)
    reports: list[Report] = []
    failures: list[str] = []
    for result in compile_all(tasks, options.jobs):
        if isinstance(result, str):
            failures.append(result)
            print(result, flush=True)
        else:
            reports.append(result)
            print(format_row(result), flush=True)
            if result.problem:
                failures.append(f"{result.case} {result.target}: {result.problem}")
    for line in static_baseline.goals(reports):
        print(line)
    if options.save_baseline:
        if failures:
            print("not saved: a baseline must compile, fit and spill nothing")
            return 1
        static_baseline.save(options.baseline, reports)
        print(f"saved {len(reports)} rows to {options.baseline}")
        return 0
    losses, remarks = static_baseline.compare(options.baseline, reports)
    for line in [*remarks, *losses]:
        print(line)
    return 1 if failures or losses else 0


if __name__ == "__main__":
    sys.exit(main())
