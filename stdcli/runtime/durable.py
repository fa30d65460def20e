"""Files that are whole or absent, whatever happens: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

SUFFIX = ".part"


def write_durably(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Replace a file; a reader sees the old content or the new one, also after a power cut.

    Args:
        path: its folder is created. The temporary name is `path` with a dot before and `.part` behind, so
            that whoever writes the file next also replaces what a killed writer left.
        data: the content, whole or in pieces.

    Raises:
        OSError: the disk is full or refuses; a file of that name is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{SUFFIX}")
    try:
        with temporary.open("wb") as file:
            for piece in (data,) if isinstance(data, bytes) else data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
