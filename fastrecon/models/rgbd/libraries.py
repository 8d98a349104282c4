"""diffusers, imported when first needed: autoencoder, denoisers and schedules are its."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

INSTALL = 'pip install "fastrecon[generate]"'


def import_diffusers() -> ModuleType:
    """The package diffusers.

    Raises:
        ImportError: it, or what it needs, is missing or broken; the message names the extra.
    """
    try:
        # diffusers imports transformers where there is one, which imports torchvision
        if importlib.util.find_spec("torchvision") is not None:
            from fastrecon.perceptual.libraries import import_torchvision

            import_torchvision()
        diffusers = importlib.import_module("diffusers")
        _ = diffusers.AutoencoderKL  # its names are imported when first used
    except (ImportError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ImportError(
            f"RGB-D generation needs diffusers: {INSTALL}; or start from a picture and its depth "
            f"(fastrecon generate --image X --depth Y), which does not ({reason})"
        ) from error
    return diffusers
