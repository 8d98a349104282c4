"""What Triton 3.6 lets pass and later ones do not, refused under all of them."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def boolean_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that is no boolean fails: the interpreter of Triton 3.9 stops there.

    It makes int32 of a scalar condition that meets a tensor of them; the compiler does not.
    """
    try:
        from triton.runtime.interpreter import InterpreterBuilder
    except ImportError:
        return
    for name, position in (
        ("create_masked_load", 1),
        ("create_masked_store", 2),
        ("create_atomic_rmw", 3),
    ):
        original = getattr(InterpreterBuilder, name)

        def checked(builder, *args, _original=original, _position=position):
            dtype = args[_position].data.dtype
            assert dtype.kind == "b", f"a mask is {dtype}: put the scalar condition into the number"
            return _original(builder, *args)

        monkeypatch.setattr(InterpreterBuilder, name, checked)
