"""Near misses: what a misspelt name was probably meant to be. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A question that names the nearest known words, or the one that is a slip away; None when none is near."""
    known = list(known)
    slip = difflib.get_close_matches(word, known, n=1, cutoff=0.85)
    close = slip or difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else None


def near_misses(word: str, known: Iterable[str]) -> str:
    """The same, or else a list of all known words; "there are none" when it would be empty."""
    known = list(known)
    listed = f"valid: {', '.join(known)}" if known else "there are none"
    return did_you_mean(word, known) or listed
