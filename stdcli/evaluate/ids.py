"""Short names that are unique in a report and fit for file names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

LENGTH = 56
"""Letters, of up to four bytes each, in the 255 bytes that file systems take."""


def make_ids(names: Iterable[str]) -> list[str]:
    """One id per name: lower case letters, digits, dots and dashes; one that comes again gets a number.

    Names of files are made of them: none is longer than `LENGTH` and its number.
    """
    ids: dict[str, None] = {}
    turns: Counter[str] = Counter()
    for name in names:
        plain = re.sub(r"[^\w.]+", "-", name.lower())[:LENGTH].strip("-.") or "unnamed"
        turns[plain] += 1
        chosen = plain if turns[plain] == 1 else f"{plain}-{turns[plain]}"
        while chosen in ids:
            turns[plain] += 1
            chosen = f"{plain}-{turns[plain]}"
        ids[chosen] = None
    return list(ids)
