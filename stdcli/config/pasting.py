"""Paths in commands that users paste."""

from __future__ import annotations

import shlex
from pathlib import Path


def pasted(path: str | Path) -> str:
    """A path as one word of a shell's command line, never read as an option or (by ffmpeg) as an address."""
    text = str(path)
    is_plain = text.startswith((".", "/", "~")) or not (text.startswith("-") or ":" in text)
    return shlex.quote(text if is_plain else f"./{text}")
