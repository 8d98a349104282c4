"""Registers, spills and shared memory of every kernel, compiled without a GPU.

    python -m bench.static [--targets sm_80 sm_90 gfx942] [--operators render ...]

Prints one row per kernel and target; exits with 1 if a kernel spills, passes the chip's shared
memory or does not compile. These figures guard and explain; they are never reported as times.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.static_cases import OPERATORS, StaticCase

TARGETS = ("sm_80", "sm_90", "gfx942")
SHARED_LIMIT = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448, "gfx942": 65_536}
"""Bytes of shared memory that one program may use."""
MATRIX = re.compile(r"^\s*(wgmma\.mma_async|mma\.sync|tcgen05\.mma|v_mfma_)", re.MULTILINE)
ATOMIC = re.compile(r"^\s*(@\S+\s+)?(red\.|atom\.|global_atomic_)", re.MULTILINE)


@dataclass(frozen=True)
class Report:
    """What the compiler says about one kernel on one target; per thread, program or kernel."""

    case: str
    target: str
    registers: int  # per thread
    spill_bytes: int  # per thread
    shared_bytes: int  # per program
    matrix: int  # tensor core instructions in the code
    atomics: int  # atomic instructions in the code (vectors of up to four floats count once)
    seconds: float  # to compile, or to read from Triton's cache

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
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    compiled = triton.compile(source, target=gpu_target(target), options=options)
    seconds = time.perf_counter() - start
    if target.startswith("sm_"):
        registers, spill = nvidia_resources(compiled.asm["cubin"])
        code = compiled.asm["ptx"]
    else:
        code = compiled.asm["amdgcn"]
        registers, spill = amd_resources(code)
    return Report(
        case.name,
        target,
        registers,
        spill,
        int(compiled.metadata.shared),
        len(MATRIX.findall(code)),
        len(ATOMIC.findall(code)),
        seconds,
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


def amd_resources(code: str) -> tuple[int, int]:
    """Vector registers and bytes of scratch memory per thread, from the code's metadata."""

    def value(key: str) -> int:
        found = re.search(rf"\.{key}:\s+(\d+)", code)
        if found is None:
            raise RuntimeError(f"the AMD code names no {key}")
        return int(found[1])

    return value("vgpr_count"), value("private_segment_fixed_size")


def format_row(report: Report) -> str:
    """One line of the table."""
    return (
        f"{report.case:44s} {report.target:8s} {report.registers:5d} {report.spill_bytes:6d} "
        f"{report.shared_bytes:8d} {report.matrix:7d} {report.atomics:8d} {report.seconds:7.1f}  "
        f"{report.problem}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if any kernel must not ship."""
    parser = argparse.ArgumentParser(description="Static figures of the Triton kernels.")
    parser.add_argument("--targets", nargs="+", default=TARGETS, help="such as sm_90 or gfx942")
    parser.add_argument("--operators", nargs="+", default=list(OPERATORS), choices=list(OPERATORS))
    options = parser.parse_args(arguments)
    print(
        f"{'kernel':44s} {'target':8s} {'regs':>5s} {'spill':>6s} {'shared':>8s} {'matrix':>7s} "
        f"{'atomics':>8s} {'seconds':>7s}"
    )
    failed = 0
    for operator in options.operators:
        for case in OPERATORS[operator]():
            for target in options.targets:
                if case.targets and target not in case.targets:
                    continue
                try:
                    report = compile_case(case, target)
                except Exception as error:
                    failed += 1
                    print(f"{case.name:44s} {target:8s} failed: {error}", flush=True)
                    continue
                failed += bool(report.problem)
                print(format_row(report), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
