"""Damage to files, from seeds: what a fuzz test feeds to a reader."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import numpy as np

HEADER_BYTES = 64


def mutate(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to three wounds: bytes set or bits flipped, cut short, a piece doubled, spliced in, or inserted.

    Args:
        data: a valid file.
        other: another one, for splicing.
        rng: decides everything.
    """
    wounded = bytearray(data)
    for kind in rng.integers(0, 6, rng.integers(1, 4)):
        if not wounded:
            break
        start, end = sorted(int(place) for place in rng.integers(0, len(wounded) + 1, 2))
        if kind == 0:
            for place in rng.integers(0, len(wounded), rng.integers(1, 9)):
                wounded[place] = rng.integers(0, 256)
        elif kind == 1:
            for place in rng.integers(0, min(HEADER_BYTES, len(wounded)), rng.integers(1, 4)):
                wounded[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            del wounded[end:]
        elif kind == 3:
            wounded[start:start] = wounded[start:end]
        elif kind == 4:
            wounded[start:end] = other[start:end]
        else:
            wounded[start:start] = rng.bytes(int(rng.integers(1, 40)))
    return bytes(wounded)


class TooLong(BaseException):
    """A reader did not come to an end. No Exception, lest the code under test take it for a bad file."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `TooLong` inside a block that takes longer."""

    def stop(*_: object) -> None:
        raise TooLong(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
