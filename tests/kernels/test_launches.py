"""What every launch of a kernel has to say, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import fastrecon_kernels
import pytest

PACKAGE = Path(fastrecon_kernels.__file__).parent


def launches() -> Iterator[tuple[str, ast.Call]]:
    """Calls of the form ``any_kernel[grid](...)`` or ``lookup_...[grid](...)``."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
                name = ast.unparse(node.func.value)
                if name.endswith("_kernel") or name.startswith("lookup_"):
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node


def test_every_launch_fuses_products_and_sums() -> None:
    found = dict(launches())
    assert len(found) >= 14
    for place, call in found.items():
        spread = [ast.unparse(word.value) for word in call.keywords if word.arg is None]
        assert "FP_FUSION" in spread, f"{place}: launch with **FP_FUSION (common/backend.py)"


@pytest.mark.parametrize("word", ["can_reorder", "tl.view"])
def test_words_that_triton_gives_up_are_not_used(word: str) -> None:
    for path in PACKAGE.rglob("*.py"):
        assert word not in path.read_text(), f"{path}: {word} is gone with triton 3.10"
