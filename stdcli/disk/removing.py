"""Deleting, the only place that does: files and folders of ours, never through a link, never a link."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stdcli.disk.opening import kind_of_mode


def remove_file(path: Path) -> None:
    """Delete a plain file; none there is no error.

    Raises:
        OSError: a link, a folder, a pipe or a device has this name, which is not ours; or the disk refuses.
    """
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode):
        raise _foreign(path, mode)
    path.unlink(missing_ok=True)


def remove_folder(folder: Path, *, is_ours: Callable[[str], bool] | None = None) -> None:
    """Delete a folder of ours; none there is no error.

    Args:
        folder: it and all in it goes, links in it as links: what they lead to stays.
        is_ours: tells of a name below the folder, with `/`, whether it is that of a file or folder of
            ours. If given, only such plain files go, and only such folders, if empty then; all else stays.

    Raises:
        OSError: a link or a file has this name; or the disk refuses.
    """
    try:
        mode = os.lstat(folder).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISDIR(mode):
        raise _foreign(folder, mode)
    if is_ours is None:
        shutil.rmtree(folder)
        return
    for parent, folders, files in os.walk(folder, topdown=False):  # follows no links
        for name in files:
            path = Path(parent, name)
            if stat.S_ISREG(os.lstat(path).st_mode) and is_ours(path.relative_to(folder).as_posix()):
                path.unlink(missing_ok=True)
        for path in (Path(parent, name) for name in folders):
            if is_ours(path.relative_to(folder).as_posix()):
                _remove_empty(path)
    _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # not empty, or a link
        folder.rmdir()


def _foreign(path: Path, mode: int) -> OSError:
    code = errno.ELOOP if stat.S_ISLNK(mode) else errno.EEXIST
    return OSError(code, f"{kind_of_mode(mode)} has this name", str(path))


def remove_cached(path: Path, *, cache: Path) -> None:
    """Delete a file of the Hub's cache, which there is a link to a file beside.

    Args:
        path: in a snapshot.
        cache: the folder of its repository; what lies outside of it stays.

    Raises:
        OSError: the disk refuses.
    """
    target = path.resolve()
    if target.is_relative_to(cache.resolve()):
        target.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
