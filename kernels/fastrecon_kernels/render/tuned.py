"""Which launch choices a field runs with: the kept ones where some were measured, or the defaults.

`FASTRECON_TUNE` says how: unset, kept choices are used; "0", the file is not even read; "1", a
field that nobody has measured on this device is measured when it is first met (`autotune.py`).
A field is looked up once per process; after that its choice is a dictionary's entry.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..common.backend import interpreting
from .kept import Parts, cache_file, checked, combine, read_choices, warn, write_parts
from .pack import DecoderShape
from .tuning import Tuning, tuning_of

LOGGER = logging.getLogger("fastrecon_kernels")
MODES = ("", "0", "1")
"""Values of `FASTRECON_TUNE`."""


class FieldKey(NamedTuple):
    """What a choice is made for; neither the rays nor their number, nor the size of the planes."""

    shape: DecoderShape
    n_levels: int
    reduction: str
    activation: str
    precision: str

    def __str__(self) -> str:
        widths = "-".join(map(str, self.shape.widths))
        levels = f"{self.n_levels} level{'s' if self.n_levels > 1 else ''}"
        features = f"{self.shape.channels} channels, {levels}, {self.reduction}"
        return f"{features}, {widths} {self.activation}, {self.precision}"


_lock = threading.RLock()
_chosen: dict[tuple[torch.device, FieldKey, bool], Tuning] = {}
_table: dict[str, dict[str, Any]] | None = None  # the file, once it was read
_use_kept = True


def forget() -> None:
    """Look everything up again, the file included."""
    global _table, _use_kept
    with _lock:
        _chosen.clear()
        _table, _use_kept = None, True


def tuning_for(
    device: torch.device, key: FieldKey, sides: tuple[int, ...], backward: bool
) -> Tuning:
    """The choice for a field.

    Args:
        sides: of the planes of each level; a field that is measured now is measured with those.
        backward: whether the kernels of the backward pass will run.
    """
    found = _chosen.get((device, key, backward))
    return _choose(device, key, sides, backward) if found is None else found


def _choose(device: torch.device, key: FieldKey, sides: tuple[int, ...], backward: bool) -> Tuning:
    default = tuning_of(device, key.precision)
    with _lock:
        if (device, key, backward) in _chosen:  # by another thread meanwhile
            return _chosen[device, key, backward]
        current = mode()
        if interpreting() or current == "0" or not _use_kept:
            return _chosen.setdefault((device, key, backward), default)
        parts = kept_parts(device, key, default)
        wanted = ("forward", "backward") if backward else ("forward",)
        missing = tuple(part for part in wanted if part not in parts)
        if current == "1" and missing:
            if torch.cuda.is_current_stream_capturing():
                return combine(default, parts)  # measured by the next call that is not captured
            parts |= _measure(device, key, sides, missing, parts)
        return _chosen.setdefault((device, key, backward), combine(default, parts))


def mode() -> str:
    """What `FASTRECON_TUNE` says."""
    found = os.environ.get("FASTRECON_TUNE", "")
    if found not in MODES:
        warn(f"FASTRECON_TUNE must be 0 or 1 or unset, got {found!r}; it is taken as unset")
        return ""
    return found


def kept_parts(device: torch.device, key: FieldKey, default: Tuning) -> Parts:
    """What the file holds for a field; nothing, with a warning, if that makes no sense."""
    table = _read_once()
    fields = table.get(place_of(device), {}) if table else {}
    if str(key) not in fields:
        return {}
    try:
        return checked(fields[str(key)], default)
    except ValueError as error:
        del fields[str(key)]  # one warning is enough
        warn(
            f"the launch choices kept for {key} are not used: {error}; measure them again with "
            f"python -m fastrecon_kernels.tune, or delete {cache_file()}"
        )
        return {}


def keep(device: torch.device, key: FieldKey, parts: Parts) -> Path:
    """Write measured parts to the file, for later processes.

    Raises:
        OSError: it cannot be written.
    """
    path, default = cache_file(), tuning_of(device, key.precision)
    write_parts(path, place_of(device), str(key), parts, default)
    return path


def state(device: torch.device) -> str:
    """Whether calls on a device run with defaults or with kept choices, in words."""
    if interpreting() or mode() == "0":
        return "defaults"
    count = len(_read_once().get(place_of(device), {}))
    kept = f"kept for {count} field{'' if count == 1 else 's'}" if count else "defaults"
    return f"{kept}, others measured when met" if mode() == "1" else kept


def _read_once() -> dict[str, dict[str, Any]]:
    """The file's table, read when it is first needed."""
    global _table
    with _lock:
        if _table is None:
            path = cache_file()
            try:
                _table = read_choices(path)
            except (OSError, ValueError) as error:
                _table = {}
                warn(f"{path} is not used, launch choices are the defaults: {error}; delete it")
        return _table


def _measure(
    device: torch.device,
    key: FieldKey,
    sides: tuple[int, ...],
    missing: tuple[str, ...],
    has: Parts,
) -> Parts:
    """The missing parts, measured now and kept; none if that fails."""
    from .autotune import measure_field

    LOGGER.warning("measuring launch choices for %s; takes minutes, once", key)
    try:
        parts = measure_field(device, key, sides, missing, combine_with=has).parts
    except Exception as error:
        warn(f"launch choices for {key} could not be measured, defaults are used: {error!r}")
        return {}
    _read_once().setdefault(place_of(device), {})[str(key)] = {**has, **parts}
    try:
        path = keep(device, key, parts)
        LOGGER.warning("launch choices for %s written to %s", key, path)
    except OSError as error:
        warn(f"measured launch choices cannot be kept, they serve this process alone: {error}")
    return parts


# --- what a choice is valid for ----------------------------------------------------------------


@functools.cache
def place_of(device: torch.device) -> str:
    """Device, Triton and this package, as the file names them."""
    import triton

    properties = torch.cuda.get_device_properties(device)
    chip = f"sm_{properties.major}{properties.minor}"
    if torch.version.hip is not None:
        chip = properties.gcnArchName
    return f"{properties.name}, {chip}, triton {triton.__version__}, {package_version()}"


@functools.cache
def package_version() -> str:
    """The package's version and a digest of its kernels, which change within a version too."""
    try:
        version = importlib.metadata.version("fastrecon")
    except importlib.metadata.PackageNotFoundError:
        version = "source"
    digest = hashlib.sha256()
    folder = Path(__file__).parents[1]
    for path in sorted((*folder.glob("common/*.py"), *folder.glob("render/*.py"))):
        digest.update(path.read_bytes())
    return f"fastrecon {version} {digest.hexdigest()[:8]}"


# --- choices that do not launch after all ------------------------------------------------------


def or_with_defaults(launch: Callable[..., Any]) -> Callable[..., Any]:
    """``launch``, which runs once more with the defaults if a kept choice cannot be launched.

    Choices are measured on a typical call. Another one may need a little more of the processor.
    """

    @functools.wraps(launch)
    def run(*arguments: Any) -> Any:
        try:
            return launch(*arguments)
        except Exception as error:
            if not _drop_kept(error):
                raise
        return launch(*arguments)

    return run


def _drop_kept(error: Exception) -> bool:
    """Go back to the defaults after an error of Triton's; false if they were in use already."""
    global _use_kept
    from triton.errors import TritonError

    with _lock:
        if not isinstance(error, TritonError):
            return False
        usual = (tuning_of(device, key.precision) == t for (device, key, _), t in _chosen.items())
        if all(usual):
            return False
        _chosen.clear()
        _use_kept = False
    lines = str(error).strip().splitlines()
    warn(f"a kept launch choice cannot run here, the defaults are used: {(lines or [''])[0]}")
    return True
