"""Which member of a finite set comes when: every epoch in an order of its own, all from a seed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_EPOCH, _SHARE = range(2)  # separate random streams


@lru_cache(maxsize=4)
def _permutation(seed: int, stream: int, epoch: int, size: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, stream, epoch]).permutation(size)


def drawn(seed: int, first: int, count: int, size: int) -> list[int]:
    """Members ``first`` to ``first + count`` of the endless sequence of shuffled epochs.

    Nothing comes twice before everything has come once, and the order depends on the seed alone.
    """
    if size < 1:
        raise ValueError("nothing can be drawn from an empty set")
    positions = range(first, first + count)
    return [int(_permutation(seed, _EPOCH, p // size, size)[p % size]) for p in positions]


def parted(seed: int, size: int, share: float) -> list[int]:
    """A seeded choice of ``share`` of a set, at least one; a larger share contains a smaller."""
    count = max(1, round(share * size))
    return [int(i) for i in _permutation(seed, _SHARE, 0, size)[:count]]
