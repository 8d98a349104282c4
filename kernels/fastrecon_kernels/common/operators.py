"""How the Triton paths become operators of PyTorch: `torch.ops.fastrecon_kernels`.

An operator is a schema, the launches that serve it, the shapes of its results for fake tensors,
and an autograd function. torch.compile, torch.export and FakeTensorMode see one opaque call. The
autograd function sits at the dispatcher's Autograd key itself: `torch.library.register_autograd`
does the same behind several layers of Python that cost more than a small launch (bench/NOTES.md).

Only the kernels are operators. The references stay ordinary PyTorch, so that they can be
differentiated twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("fastrecon_kernels", "FRAGMENT")
_DEVICES = ("CUDA", "CPU")
"""CPU tensors are those of Triton's interpreter; `common.backend` refuses them otherwise."""


def register(
    schema: str,
    launch: Callable[..., Any],
    fake: Callable[..., Any],
    differentiate: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Define one operator.

    Args:
        schema: ``name(arguments) -> results``; results alias neither arguments nor each other.
        launch: computes the results; runs without autograd.
        fake: the results' shapes, dtypes and strides, for tensors without data.
        differentiate: called with the operator's arguments in place of ``launch`` where autograd
            may record; calls the operator again `below_autograd`. None: the results carry no
            graph, as fits the operators that are another's backward pass.

    Returns:
        The operator.
    """
    name = schema[: schema.index("(")]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for device in _DEVICES:
        _LIBRARY.impl(name, launch, device)
    torch.library.register_fake(f"fastrecon_kernels::{name}", fake, lib=_LIBRARY)
    _LIBRARY.impl(name, differentiate or torch.library.fallthrough_kernel, "Autograd")
    return getattr(torch.ops.fastrecon_kernels, name).default


def below_autograd() -> Any:
    """Context in which an operator's call goes on to what lies behind autograd."""
    return torch._C._AutoDispatchBelowAutograd()


def separate(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, of which parts of a larger buffer get memory of their own, as results must."""
    return [x if x.untyped_storage().nbytes() == x.nbytes else x.clone() for x in tensors]
