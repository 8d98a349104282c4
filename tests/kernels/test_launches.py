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


FLOATS = {
    "radius",
    "rgb_padding",
    "shift",
    "scale",
    "stop",
    "low",
    "high",
    "depth_eps",
    "early_stop",
}
FLOATS |= {"s1", "s2", "c_min", "c_max"}
"""Run-time arguments that are no pointers and no whole numbers."""
FIXED = {"composite": {"n_samples"}, "render": {"weights_stride", "biases_stride"}}
"""By folder: what settings or a decoder fix, and what aligned loads may rely on."""


def kernels() -> Iterator[tuple[str, list[str], set[str]]]:
    """Kernels that are launched: place, run-time numbers, those that are not specialised."""
    launched = {ast.unparse(call.func.value) for _, call in launches()}  # type: ignore[attr-defined]
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name in launched:
                numbers = [
                    argument.arg
                    for argument in node.args.args
                    if argument.annotation is None and not argument.arg.endswith("_ptr")
                ]
                words = [
                    word for call in node.decorator_list for word in getattr(call, "keywords", [])
                ]
                general = {name for word in words for name in ast.literal_eval(word.value)}
                yield f"{path.relative_to(PACKAGE)}:{node.name}", numbers, general


def test_no_whole_number_is_specialised() -> None:
    """A 1 would be a constant, on which methods of tensors fail, and each kind compiles anew."""
    found = list(kernels())
    assert len(found) >= 14
    for place, numbers, general in found:
        open_ones = set(numbers) - FLOATS - FIXED.get(place.split("/")[0], set()) - general
        assert not open_ones, f"{place}: name {open_ones} in do_not_specialize"


@pytest.mark.parametrize("word", ["can_reorder", "tl.view"])
def test_words_that_triton_gives_up_are_not_used(word: str) -> None:
    for path in PACKAGE.rglob("*.py"):
        assert word not in path.read_text(), f"{path}: {word} is gone with triton 3.10"
