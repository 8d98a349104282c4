"""The optional libraries behind the networks, imported when first needed."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

INSTALL = 'pip install "fastrecon[perceptual]"'
_SCHEMAS: list[torch.library.Library] = []
"""What `import_torchvision` defined: it lasts as long as the object that defined it."""


def import_lpips() -> ModuleType:
    """The package lpips.

    Raises:
        ImportError: it, or torchvision, is missing or broken; the message names the extra.
    """
    return _import(
        "lpips", f"LPIPS needs lpips: {INSTALL}; or take --networks.perceptual ssim, which does not"
    )


def import_open_clip() -> ModuleType:
    """The package open_clip.

    Raises:
        ImportError: it, or torchvision, is missing or broken; the message names the extra.
    """
    return _import(
        "open_clip",
        f"CLIP needs open_clip: {INSTALL}; or train without it, --self-training.semantic 0",
    )


def import_torchvision() -> ModuleType:
    """The package torchvision, also where its compiled half does not fit torch.

    The package index has builds for CUDA only. Against a CPU torch their operators cannot be
    loaded, and the import stops at the first operator it wants to describe. Nothing here uses
    those operators, so declaring them is enough. A healthy torchvision never gets that far.

    Raises:
        ImportError: torchvision is missing or broken in another way.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        _forget("torchvision")
        if "operator torchvision::" not in str(error):
            raise _unusable(error) from error
    if not _SCHEMAS:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _SCHEMAS.append(library)
    try:
        return importlib.import_module("torchvision")
    except Exception as error:
        _forget("torchvision")
        raise _unusable(error) from error


def _import(name: str, note: str) -> ModuleType:
    try:
        import_torchvision()
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{note} ({error})") from error


def _unusable(error: Exception) -> ImportError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ImportError(
        f"torchvision cannot be imported beside torch {torch.__version__}: {reason}; install the "
        "torchvision made for this torch"
    )


def _forget(package: str) -> None:
    """Drop a half-imported package, so that the next import starts afresh."""
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        del sys.modules[name]
