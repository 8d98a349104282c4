"""Which picture a process is at, so that the one that kills it is known.

Processes die of memory or of a file that crashes a decoder, and take the note of their work with
them. A journal is a small file that says what has been begun. Whoever does the same pictures next,
here or on another machine that sees the folder, leaves out what was fatal before.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import IO

DEATHS = 2
"""So many processes may die at a picture; one may be the system's fault or a neighbour's."""
ATTEMPTS = 20
"""So often pictures that are done together are begun; more than that is not one picture's fault."""
BEGUN = "# begun by "
DIED = (
    "the process that worked on it died, also when it was tried again: out of memory, or a file "
    "that crashes a decoder"
)


class Journal:
    """Notes of one run about pictures that are done together. A context manager.

    The file goes when the block ends, also with an exception, which is no death.

    Args:
        run: deaths in other runs do not count, as those may have been stopped.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self.run = run
        self._deaths = Counter(_last(path, run))
        self._file: IO[str] | None = None

    def __enter__(self) -> Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8", errors="surrogateescape")
        self.begin(BEGUN + self.run)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._file:
            self._file.close()
        self.path.unlink(missing_ok=True)

    def fatal(self, name: str) -> bool:
        """Whether this picture has killed its processes."""
        return self._deaths[_line(name)] >= DEATHS

    def fatal_start(self) -> bool:
        """Whether processes have died before the first picture."""
        return self._deaths[BEGUN + self.run] >= DEATHS

    def begin(self, name: str) -> None:
        """Note what is next; it outlives the process, though not a power cut."""
        assert self._file is not None
        self._file.write(_line(name) + "\n")
        self._file.flush()


def _line(name: str) -> str:
    return name.replace("\n", " ")


def _last(path: Path, run: str) -> list[str]:
    """What every attempt of the run had begun last."""
    try:
        lines = path.read_text("utf-8", "surrogateescape").split("\n")[:-1]
    except OSError:
        return []
    places = [k for k, line in enumerate(lines) if line.startswith(BEGUN)]
    return [
        lines[end - 1]
        for start, end in zip(places, [*places[1:], len(lines)], strict=True)
        if lines[start] == BEGUN + run
    ]
