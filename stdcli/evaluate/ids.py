"""Short names that are unique in a report and fit for file names."""

from __future__ import annotations

import re
from collections.abc import Iterable


def make_ids(names: Iterable[str]) -> list[str]:
    """One id per name: lower case letters, digits, dots and dashes; one that comes again gets a number."""
    ids: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w.]+", "-", name.lower()).strip("-.") or "unnamed"
        chosen, turn = plain, 2
        while chosen in ids:
            chosen, turn = f"{plain}-{turn}", turn + 1
        ids.append(chosen)
    return ids
