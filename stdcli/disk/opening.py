"""Opening what lies on disk: plain files only, and no links in folders of ours.

A named pipe would wait for ever, a device may do anything; neither is ever opened. Inputs may be reached by
links; in a bank, a run or a job, whose files stdcli alone writes, a link is somebody else's and refused.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from stdcli.errors import StdcliError

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def check_file(path: Path, error: type[StdcliError], *, links: bool = True) -> os.stat_result:
    """Refuse what is no plain file, without opening it: for libraries that open by name.

    Args:
        path: the file.
        error: the class to raise.
        links: whether links may lead to it.

    Returns:
        Its size, times and mode.

    Raises:
        StdcliError: of the class given: no such file, none that can be looked at, a link where none may be,
            or a folder, pipe, socket or device.
    """
    try:
        found = Path(path).stat(follow_symlinks=links)
    except (OSError, ValueError) as problem:
        raise unreadable(path, problem, error) from problem
    if not stat.S_ISREG(found.st_mode):
        raise error("not a plain file", where=path, got=kind_of_mode(found.st_mode))
    return found


def open_file(path: Path, error: type[StdcliError], *, links: bool = True) -> BinaryIO:
    """Open a plain file for reading; see `check_file`."""
    check_file(path, error, links=links)
    try:
        handle = os.open(path, os.O_RDONLY | _NO_WAIT | _BINARY | (0 if links else NO_LINK))
    except (OSError, ValueError) as problem:
        raise unreadable(path, problem, error) from problem
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):  # put there since it was looked at
        os.close(handle)
        raise error("not a plain file", where=path, got=kind_of_mode(mode))
    return os.fdopen(handle, "rb")


def unreadable(path: Path, problem: Exception, error: type[StdcliError]) -> StdcliError:
    """What to tell of a file that the system does not let one read."""
    if isinstance(problem, FileNotFoundError | NotADirectoryError):
        return error("cannot be read: no such file", where=path)
    if isinstance(problem, OSError) and problem.errno == errno.ELOOP:
        return error("not a plain file", where=path, got="a link")
    what = problem.strerror if isinstance(problem, OSError) and problem.strerror else problem
    return error(f"cannot be read: {what}", where=repr(str(path)) if "\0" in str(path) else path)


def kind_of_mode(mode: int) -> str:
    """What a file's mode says it is, for people."""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "a device")


def own_path(root: Path, name: str, error: type[StdcliError]) -> Path:
    """Where a file of a bank, a run or a job is; whether it is there is not asked.

    Args:
        root: the folder, as the user named it; it may itself be a link.
        name: below it, with `/`.
        error: the class to raise.

    Raises:
        StdcliError: of the class given: the name leads out of the folder, or it or a folder on the way is a
            link.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or os.sep in part or "\0" in part for part in parts):
        raise error("a name that leads out of its folder", where=root, got=repr(name))
    path = Path(root)
    for part in parts:
        path = path / part
        if path.is_symlink():
            hint = "put the real file or folder in its place; links are not followed here"
            raise error("a link, where stdcli keeps only files of its own", where=path, hint=hint)
    return path
