"""Machine code is read right: kinds, loops, trips, and issues per tile."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from bench.sass import count_issues, count_kinds, count_trips, find_loops, parse, successors

SOURCE = '''"""A kernel of two loops in a loop over tiles."""


def kernel(N_LEVELS, C, BLOCK_C, n_samples):
    tile = 0
    while tile < n_samples:
        for level in range(N_LEVELS):
            for c in range(0, C, BLOCK_C):
                tile += c
    return level
'''

CODE = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_2:
        //## File "{file}", line 7
        /*0010*/                   MUFU.RCP R2, R3 ;
.L_x_1:
        //## File "{file}", line 8
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
.L_x_0:
        //## File "{file}", line 9
        /*0030*/                   HGMMA.64x64x16.F32.BF16 R24, R4, gdesc[UR8] ;
        /*0040*/              @!P1 BRA `(.L_x_3) ;
        /*0050*/                   LDSM.16.M88.4 R4, [R3] ;
.L_x_3:
        /*0060*/                   REDG.E.ADD.F32x4.FTZ.RN.STRONG.GPU desc[UR4][R2.64], R4 ;
        //## File "{file}", line 8
        /*0070*/               @P0 BRA `(.L_x_0) ;
        //## File "{file}", line 7
        /*0080*/              @UP1 BRA `(.L_x_1) ;
        //## File "{file}", line 6
        /*0090*/               @P2 EXIT ;
        /*00a0*/                   BRA `(.L_x_2) ;
.L_x_4:
        /*00b0*/                   BRA `(.L_x_4);
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "kernel.py"
    path.write_text(SOURCE)
    return str(path)


def test_instructions_are_parsed(source: str) -> None:
    instructions, labels = parse(CODE.format(file=source))
    assert len(instructions) == 12
    assert instructions[4].opcode == "BRA"
    assert instructions[4].conditional
    assert instructions[4].target == ".L_x_3"
    assert instructions[2].line == 8
    assert labels == {".L_x_2": 1, ".L_x_1": 2, ".L_x_0": 3, ".L_x_3": 6, ".L_x_4": 11}
    assert count_kinds(instructions) == Counter(
        special=1, global_loads=1, matrix=1, shared_loads=1, reductions=1
    )


def test_loops_are_found_and_the_trailing_one_is_unreachable(source: str) -> None:
    instructions, labels = parse(CODE.format(file=source))
    loops = find_loops(successors(instructions, labels))
    assert [(min(loop.body), loop.closing, len(loop.body)) for loop in loops] == [
        (3, 7, 5),
        (2, 8, 7),
        (1, 10, 10),
    ]


def test_a_jump_back_into_a_block_that_others_reach_too_is_no_loop() -> None:
    # 0 -> 1 -> 2 -> end; 0 -> 3 -> 1: the way back from 3 does not make 1 dominate it.
    assert find_loops([[1, 3], [2], [], [1]]) == []
    assert [loop.closing for loop in find_loops([[1], [0, 2], []])] == [1]


def test_issues_are_trips_times_bodies(source: str) -> None:
    instructions, labels = parse(CODE.format(file=source))
    values = {"N_LEVELS": 3, "C": 40, "BLOCK_C": 16}
    issues = count_issues(instructions, labels, values)
    # MUFU and the exit; LDG and its branch 3 times; 5 instructions 3 * 3 times; branch to the tile.
    assert issues.total == 3 + 3 * 2 + 9 * 5
    assert issues.kinds == Counter(
        special=1, global_loads=3, matrix=9, shared_loads=9, reductions=9
    )


def test_a_trip_count_that_is_not_known_is_asked_for(source: str) -> None:
    instructions, labels = parse(CODE.format(file=source))
    with pytest.raises(ValueError, match=r"'C' is not defined; give it in StaticCase.values"):
        count_issues(instructions, labels, {"N_LEVELS": 3})


def test_a_long_loop_on_no_line_with_a_loop_is_refused(source: str) -> None:
    body = "\n".join(f"        /*{16 * i:04x}*/  FADD R1, R1, R2 ;" for i in range(30))
    head, branch = f'.L_x_0:\n //## File "{source}", line 5\n', " /*0200*/ @P0 BRA `(.L_x_0) ;"
    with pytest.raises(ValueError, match="line 5, where there is no loop"):
        count_issues(*parse(head + body + "\n" + branch), {})
    assert count_issues(*parse(head + branch), {}).total == 1


def test_a_loop_over_tiles_holds_most_of_the_code(source: str) -> None:
    head = "\n".join(f"        /*{16 * i:04x}*/  FADD R1, R1, R2 ;" for i in range(20))
    tail = f'.L_x_0:\n //## File "{source}", line 6\n /*0200*/ @P0 BRA `(.L_x_0) ;'
    with pytest.raises(ValueError, match="the loop over tiles has 1 of 21 instructions"):
        count_issues(*parse(head + "\n" + tail), {})


def test_calls_count_once_and_computed_branches_are_refused() -> None:
    code = "/*0000*/ CALL.REL.NOINC `(.L_x_0) ;\n/*0010*/ EXIT ;\n.L_x_0:\n/*0020*/ RET.REL R1 ;"
    instructions, labels = parse(code)
    assert successors(instructions, labels) == [[2, 1], [], []]
    assert count_issues(instructions, labels, {}).total == 3
    instructions, labels = parse("/*0000*/ BRX R2 -0x40 ;")
    with pytest.raises(ValueError, match="is not followed"):
        successors(instructions, labels)


@pytest.mark.parametrize(
    ("loop", "expected"),
    [("range(3)", 3), ("tl.range(1, N)", 4), ("range(0, N, 2)", 3), ("tl.static_range(N - 1)", 4)],
)
def test_trips(loop: str, expected: int) -> None:
    statement = ast.parse(f"for i in {loop}: pass").body[0]
    assert isinstance(statement, ast.For)
    assert count_trips(statement, {"N": 5}) == expected


def test_a_product_outside_the_loop_over_tiles_is_refused(source: str) -> None:
    """Sums before and after it may be longer than the loop, if it has the products."""
    head = "\n".join(f"        /*{16 * i:04x}*/  FADD R1, R1, R2 ;" for i in range(20))
    product = "        /*01f0*/  HMMA.16816.F32.BF16 R4, R4, R8, R4 ;"
    loop = f'.L_x_0:\n //## File "{source}", line 6\n{{body}} /*0200*/ @P0 BRA `(.L_x_0) ;'
    inside = loop.format(body=product + f'\n //## File "{source}", line 6\n')
    assert count_issues(*parse(head + "\n" + inside), {}).kinds["matrix"] == 1
    with pytest.raises(ValueError, match="a matrix product lies outside"):
        count_issues(*parse(head + "\n" + product + "\n" + loop.format(body="")), {})
