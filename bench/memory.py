"""Peak resident memory of this process, read from Linux's own high-water mark."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")


def _status(field: str) -> int:
    """A size of ``/proc/self/status`` in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"{STATUS} has no {field}")


def peak_growth(step: Callable[[], object]) -> int:
    """Bytes by which resident memory rose above its present size while ``step`` ran.

    What the allocator already holds is counted as present, so measure in a fresh process, after a
    small warm-up. (``ru_maxrss`` will not do: it begins at the size of the process that forked.)

    Raises:
        RuntimeError: on systems without ``/proc``.
    """
    if not sys.platform.startswith("linux"):
        raise RuntimeError(f"peak memory is read from {STATUS}, which {sys.platform} lacks")
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    step()
    return _status("VmHWM") - before
