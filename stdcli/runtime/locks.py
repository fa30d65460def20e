"""Holding a file as a lock: the system's own on an open file, so that a killed process holds none."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from filelock import FileLock


def hold_file(path: Path, *, timeout_s: float = 0) -> FileLock:
    """Hold a lock until it is released.

    Args:
        path: its file, made if there is none; its folder exists. What is in it is lost.
        timeout_s: how long to wait for whoever holds it.

    Returns:
        The lock, held; `release()` lets it go.

    Raises:
        filelock.Timeout: somebody holds it.
        OSError: a link or another thing that is no plain file has its name; or the disk refuses.
    """
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.ELOOP, "not a plain file, as a lock is", str(path))
    lock = FileLock(path, timeout=timeout_s)
    lock.acquire()
    return lock
