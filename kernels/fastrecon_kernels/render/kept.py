"""The file in which measured launch choices are kept: where it lies, what of it is believed.

    {"format": 1, "choices": {DEVICE AND VERSIONS: {FIELD: {"forward": {...}, "backward": {...}}}}}

Anyone may have written it and anything may have happened to it, and its numbers go into kernel
launches: each is checked. Writing goes through a file beside it that then takes its place, under a
lock, on top of what others wrote meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .tuning import Tuning

FORMAT = 1
MAX_BYTES = 1 << 20
"""Larger files are not ours: a field takes 300 bytes."""
MAX_PLACES = 64
"""Devices and versions that the file remembers; the oldest are forgotten first."""
MAX_KEPT_BYTES = 112 << 10
LOCK_SECONDS = 2.0
"""Waiting longer than this for another process, one writes without it."""

Fields = dict[str, Any]
"""Some fields of `Tuning` and their values."""
Parts = dict[str, Fields]
"""What was measured of a field: "forward", "backward" or both."""


# --- what is believed --------------------------------------------------------------------------


def _number(value: object, least: int, most: int, *, power: bool = False) -> int:
    """An int within bounds (not a bool, not a float), perhaps a power of two."""
    if type(value) is not int or not least <= value <= most or (power and value & (value - 1)):
        kind = "a power of two" if power else "a number"
        raise ValueError(f"expected {kind} from {least} to {most}, got {_short(value)}")
    return value


def _list(value: object, length: int) -> list[Any]:
    if not isinstance(value, list | tuple) or len(value) != length:
        raise ValueError(f"expected {length} numbers, got {_short(value)}")
    return list(value)


def _tile(value: object) -> tuple[int, int]:
    samples, warps = _list(value, 2)
    return _number(samples, 16, 256, power=True), _number(warps, 1, 16, power=True)


def _window(value: object) -> tuple[int, int, int]:
    across, down, depth = (_number(side, 1, 128, power=True) for side in _list(value, 3))
    _number(across * down * depth, 16, 256)
    return across, down, depth


def _registers(value: object) -> int:
    count = _number(value, 0, 248)
    if count % 8 or 0 < count < 32:
        raise ValueError(f"expected 0 or a multiple of 8 from 32 to 248, got {count}")
    return count


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError(f"expected true or false, got {_short(value)}")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


CHECKS: dict[str, dict[str, Callable[[object], Any]]] = {
    "forward": {
        "field": _tile,
        "field_registers": _registers,
        "field_programs": lambda value: _number(value, 1, 8),
        "kept_bytes": lambda value: _number(value, 0, MAX_KEPT_BYTES),
    },
    "backward": {
        "training": lambda value: None if value is None else _tile(value),
        "pair_layers": _flag,
        "group": _tile,
        "group_programs": lambda value: _number(value, 1, 8),
        "widen": _flag,
        "taps": _tile,
        "points": _tile,
        "fold": _tile,
        "patch": _window,
        "line": _window,
        "window_warps": lambda value: _number(value, 0, 16, power=True),
    },
}
"""Fields of `Tuning` that each part sets, and what reads a value of theirs."""


def checked(parts: object, default: Tuning) -> Parts:
    """The parts that a field's entry holds.

    Raises:
        ValueError: anything is not as the tuner writes it.
    """
    if not isinstance(parts, dict):
        raise ValueError(f"expected parts of a choice, got {_short(parts)}")
    found: Parts = {}
    for part, fields in parts.items():
        checks = CHECKS.get(part)
        if checks is None or not isinstance(fields, dict):
            raise ValueError(f"unknown part {_short(part)} with {_short(fields)}")
        found[part] = {}
        for name, value in fields.items():
            if name not in checks:
                raise ValueError(f"unknown field {_short(name)}")
            try:
                found[part][name] = checks[name](value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    combined = combine(default, found)
    for across, down, depth in (combined.patch, combined.line):
        if combined.window_warps and across * down * depth % combined.taps[0]:
            raise ValueError(f"windows {combined.patch}, {combined.line} are no whole tiles")
    return found


def combine(default: Tuning, parts: Mapping[str, Fields]) -> Tuning:
    """The defaults with the measured parts in their place."""
    for fields in parts.values():
        default = default._replace(**fields)
    return default


# --- the file ----------------------------------------------------------------------------------


def cache_file() -> Path:
    """``$FASTRECON_CACHE/tuning.json``, or the same in the user's usual folder for caches."""
    own = os.environ.get("FASTRECON_CACHE")
    if own:
        return Path(os.path.expanduser(own)) / "tuning.json"
    usual = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(usual):  # relative ones count as unset
        local = os.environ.get("LOCALAPPDATA", "") if sys.platform == "win32" else ""
        mac = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
        usual = local or os.path.expanduser(mac)
    return Path(usual) / "fastrecon_kernels" / "tuning.json"


def warn(message: str) -> None:
    """A warning that is no error to anybody's training run."""
    with contextlib.suppress(Warning):  # where warnings are errors
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def read_choices(path: Path) -> dict[str, dict[str, Any]]:
    """Device and versions -> field -> parts, not checked any further; empty without a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not the tuner's.
    """
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return {}
    if not path.is_file() or size > MAX_BYTES:  # a pipe would never end
        raise ValueError(f"it is no file of at most {MAX_BYTES} bytes")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested without end") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"it does not say that its format is {FORMAT}")
    choices = found.get("choices")
    if not isinstance(choices, dict) or not all(isinstance(x, dict) for x in choices.values()):
        raise ValueError("it has no table of choices")
    return choices


def write_parts(path: Path, place: str, field: str, parts: Parts, default: Tuning) -> None:
    """Keep the measured parts of a field, beside all others that the file holds by now.

    What is not the tuner's is replaced, be it the file or the field's entry.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_suffix(".lock")):
        try:
            choices = read_choices(path)
        except ValueError:
            choices = {}
        fields = choices.pop(place, {})
        choices = {**dict(list(choices.items())[1 - MAX_PLACES :]), place: fields}
        try:
            before = checked(fields.get(field, {}), default)
        except ValueError:
            before = {}
        fields[field] = {**before, **parts}
        text = json.dumps({"format": FORMAT, "choices": choices}, indent=1) + "\n"
        fresh = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            with open(fresh, "x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Others wait meanwhile, where the system has such locks and for so long as is bearable."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "a") as file:
        end = time.monotonic() + LOCK_SECONDS
        while time.monotonic() < end:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:  # a file system without locks
                break
            else:
                break
        yield
