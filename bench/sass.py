"""Machine instructions of a compiled kernel: counts by kind, and issues per sample.

How "issued warp instructions per sample" is found, without a GPU:

1. `nvdisasm` prints the machine code with the source line of every instruction.
2. Branches give the control flow graph; a branch back to an instruction that dominates it closes a
   loop, whose body is what reaches the branch without passing that instruction.
3. The closing branch, or one of the few instructions before it, bears the line of the `for` or
   `while` that it comes from. A `for` over a `range` of compile-time arguments makes as many trips
   as that range has numbers; a `while` is the loop over tiles of a persistent kernel. A short loop
   on no such line is a wait for an asynchronous copy or product: one trip. Others are refused.
4. An instruction is issued once per trip of all loops around it. With a loop over tiles only what
   lies in it counts, for one tile (what comes before is shared by all tiles of a program).
5. The sum times the warps of a program, over the samples of a tile, is the figure.

It is an estimate from above where branches skip code: both sides of an `if` count, and predicated
instructions count whether or not a thread is masked. What is called
counts once (traps, the rare slow path of a division). A loop that the compiler unrolled in
part would be counted too often, one that it unrolled entirely is counted right. The figure knows
nothing of stalls and is no time.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import fastrecon_kernels

PACKAGE = Path(fastrecon_kernels.__file__).parent
KINDS = {
    "matrix": re.compile(r"(HGMMA|HMMA|QGMMA|IMMA|UTC[A-Z]*MMA)\b"),
    "special": re.compile(r"MUFU\b"),
    "global_loads": re.compile(r"(LDG|LDGSTS|UTMALDG|LD)\b"),
    "global_stores": re.compile(r"(STG|UTMASTG|ST)\b"),
    "shared_loads": re.compile(r"(LDS|LDSM)\b"),
    "shared_stores": re.compile(r"(STS|STSM)\b"),
    "reductions": re.compile(r"(RED|REDG|ATOM|ATOMG|ATOMS)\b"),
}
SPIN_LIMIT = 24
"""Longest loop, in instructions, that may be a wait."""
CLOSING = 8
"""Instructions at a loop's end that may bear its line."""

_LINE = re.compile(r'//## File "(?P<file>[^"]+)", line (?P<line>\d+)')
_INSTRUCTION = re.compile(r"/\*(?P<address>[0-9a-f]{4,})\*/\s+(?P<text>[^;]*)")
_LABEL = re.compile(r"^(?P<label>\.L_\w+):")
_PARTS = re.compile(r"(?P<guard>@!?U?P\w+\s+)?(?P<opcode>[A-Z][A-Z0-9_.]*)")
_TARGET = re.compile(r"`\((?P<label>\.L_\w+)\)")


@dataclass(frozen=True)
class Instruction:
    """One machine instruction and the source line it was made for."""

    opcode: str
    conditional: bool
    target: str | None  # label that it may branch to
    file: str
    line: int


@dataclass(frozen=True)
class Loop:
    """Indices of a loop's instructions; the last of them by address closes it."""

    body: frozenset[int]
    closing: int


@dataclass(frozen=True)
class Issues:
    """Instructions issued by one warp for one tile: all, and by kind."""

    total: int
    kinds: Counter[str]


def disassemble(cubin: bytes) -> str:
    """The machine code of a kernel with source lines, as nvdisasm prints it."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [knobs.nvidia.nvdisasm.path, "-c", "-g", str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def parse(text: str) -> tuple[list[Instruction], dict[str, int]]:
    """Instructions in the order of their addresses, and the index that each label points to."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    file, line = "", 0
    for row in text.splitlines():
        if found := _LABEL.match(row):
            labels[found["label"]] = len(instructions)
        elif found := _LINE.search(row):
            file, line = found["file"], int(found["line"])
        elif found := _INSTRUCTION.search(row):
            parts = _PARTS.match(found["text"].strip())
            if parts is None:
                raise ValueError(f"not an instruction: {row!r}")
            target = _TARGET.search(found["text"])
            instructions.append(
                Instruction(
                    parts["opcode"],
                    parts["guard"] is not None,
                    target["label"] if target else None,
                    file,
                    line,
                )
            )
    return instructions, labels


def kind_of(opcode: str) -> str | None:
    """The kind in `KINDS` that an opcode belongs to."""
    return next((kind for kind, pattern in KINDS.items() if pattern.match(opcode)), None)


def count_kinds(instructions: list[Instruction]) -> Counter[str]:
    """Instructions in the code by kind."""
    kinds = (kind_of(instruction.opcode) for instruction in instructions)
    return Counter(kind for kind in kinds if kind is not None)


def successors(instructions: list[Instruction], labels: Mapping[str, int]) -> list[list[int]]:
    """Where control may go after each instruction.

    Raises:
        ValueError: for computed branches, which the estimate does not follow.
    """
    result = []
    for i, instruction in enumerate(instructions):
        name = instruction.opcode.split(".")[0]
        after = [i + 1] if i + 1 < len(instructions) else []
        if name in {"BRX", "JMX", "JMP"}:
            raise ValueError(f"{instruction.opcode} at line {instruction.line} is not followed")
        if name == "BRA":
            if instruction.target is None:
                raise ValueError(f"a branch at line {instruction.line} names no label")
            after = [labels[instruction.target], *(after if instruction.conditional else [])]
        elif name == "CALL" and instruction.target is not None and instruction.target in labels:
            after = [labels[instruction.target], *after]
        elif name in {"EXIT", "RET"} and not instruction.conditional:
            after = []
        result.append(after)
    return result


def find_loops(after: list[list[int]]) -> list[Loop]:
    """Natural loops, one for every branch back; what the entry cannot reach is left out."""
    reached = _reach(0, after)
    before: list[list[int]] = [[] for _ in after]
    for i in reached:
        for j in after[i]:
            before[j].append(i)
    loops = []
    for closing in sorted(reached):
        for start in after[closing]:
            if start <= closing:
                body = _reach(closing, before, stop=start)
                # The entry lies among them if there is a way in that does not pass the start.
                if start == 0 or 0 not in body:
                    loops.append(Loop(frozenset(body), closing))
    return loops


def _reach(first: int, edges: list[list[int]], stop: int | None = None) -> set[int]:
    """Nodes on paths from ``first``, which end at ``stop``; both belong to them."""
    seen, pending = {first}, [first]
    while pending:
        node = pending.pop()
        if node != stop:
            fresh = [other for other in edges[node] if other not in seen]
            seen.update(fresh)
            pending.extend(fresh)
    return seen


@functools.cache
def source_loops(file: str) -> dict[int, ast.For | ast.While]:
    """The `for` and `while` statements of a Python file by line."""
    path = Path(file)
    if PACKAGE.name in path.parts:  # Triton's cache may know this file from another checkout
        depth = path.parts[::-1].index(PACKAGE.name)
        path = PACKAGE.joinpath(*path.parts[len(path.parts) - depth :])
    tree = ast.parse(path.read_text())
    return {node.lineno: node for node in ast.walk(tree) if isinstance(node, ast.For | ast.While)}


def count_trips(statement: ast.For, values: Mapping[str, object]) -> int:
    """Numbers in the ``range`` of a `for`, whose arguments are found in ``values``.

    Raises:
        ValueError: if an argument is not there.
    """
    call = statement.iter
    if not isinstance(call, ast.Call):
        raise ValueError(f"line {statement.lineno}: a loop over something else than a range")
    try:
        arguments = [
            eval(compile(ast.Expression(argument), "range", "eval"), {"__builtins__": {}}, values)
            for argument in call.args
        ]
    except NameError as error:
        raise ValueError(
            f"line {statement.lineno}: {error}; give it in StaticCase.values"
        ) from error
    return len(range(*arguments))


def statement_of(loop: Loop, instructions: list[Instruction]) -> ast.For | ast.While | None:
    """The statement that a loop comes from, if its last instructions name one."""
    for i in range(loop.closing, loop.closing - CLOSING, -1):
        if i in loop.body and instructions[i].file:
            statement = source_loops(instructions[i].file).get(instructions[i].line)
            if statement is not None:
                return statement
    return None


def count_issues(
    instructions: list[Instruction], labels: Mapping[str, int], values: Mapping[str, object]
) -> Issues:
    """Issues of one warp for one tile (see the top of this file).

    Args:
        instructions, labels: from `parse`.
        values: what the ranges of the kernel's loops are made of: compile-time arguments, and
            run-time ones at the workload's size.
    """
    after = successors(instructions, labels)
    trips = [0] * len(instructions)
    for i in _reach(0, after):
        trips[i] = 1
    tiles: list[Loop] = []
    for loop in find_loops(after):
        statement = statement_of(loop, instructions)
        if isinstance(statement, ast.While):
            tiles.append(loop)
        elif statement is not None:
            times = count_trips(statement, values)
            for i in loop.body:
                trips[i] *= times
        elif len(loop.body) > SPIN_LIMIT:
            closing = instructions[loop.closing]
            raise ValueError(
                f"a loop of {len(loop.body)} instructions closes at {closing.file}, line "
                f"{closing.line}, where there is no loop"
            )
    inside = set(range(len(trips)))
    if tiles:
        inside = set().union(*(loop.body for loop in tiles))
        reached = {i for i, n in enumerate(trips) if n > 0}
        products = {i for i in reached if kind_of(instructions[i].opcode) == "matrix"}
        if not products <= inside:
            raise ValueError("a matrix product lies outside the loop over tiles")
        # Sums that are kept over the tiles can make what is around a loop longer than it is.
        if not products and 2 * len(inside) < len(reached):
            raise ValueError(
                f"the loop over tiles has {len(inside)} of {len(reached)} instructions"
            )
    kinds: Counter[str] = Counter()
    for i in inside:
        if kind := kind_of(instructions[i].opcode):
            kinds[kind] += trips[i]
    return Issues(sum(trips[i] for i in inside), kinds)
