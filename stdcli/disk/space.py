"""Free space, looked at before work that will need it."""

from __future__ import annotations

import shutil
from pathlib import Path

from stdcli.errors import ResourceError


def check_space(folder: Path, needed_bytes: int, *, what: str, hint: str) -> None:
    """Refuse what the disk cannot hold.

    Args:
        folder: where to; it, or the nearest folder above that exists, is looked at.
        needed_bytes: that will be written and kept at once.
        what: one sentence: that the disk is too small, and for what.
        hint: what takes less.

    Raises:
        ResourceError: less is free.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        got, expected = f"{free / 1e9:.2f} GB free", f"{needed_bytes / 1e9:.2f} GB"
        raise ResourceError(what, where=folder, got=got, expected=expected, hint=hint)
