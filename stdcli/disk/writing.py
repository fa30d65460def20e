"""Files that are whole or absent, whatever happens: temporary name, fsync, rename, fsync of the folder.

Nothing is ever written through a link: a temporary file is always a new one, made where nothing was.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from stdcli.disk.opening import NO_LINK, kind_of_mode
from stdcli.disk.removing import remove_file

SUFFIX = ".part"
NAME_BYTES = 255
"""What file systems take as a name."""
UNSYNCABLE = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What file systems answer that cannot make anything more durable than it is: network shares, FUSE."""
_FLAGS = os.O_WRONLY | os.O_CREAT | NO_LINK | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def open_new(path: Path) -> BinaryIO:
    """Make a file that nobody had and open it for writing; its mode is what the umask leaves.

    Args:
        path: a file there that is ours by its name, left by a killed process, is replaced.

    Raises:
        OSError: `ELOOP` and the like: a link, a folder or a pipe has this name; or the disk refuses.
    """
    remove_file(path)
    return os.fdopen(os.open(path, _FLAGS | os.O_EXCL, 0o666), "wb")


def open_append(path: Path) -> BinaryIO:
    """Open a plain file to write at its end, making it if there is none.

    Raises:
        OSError: a link, a folder or a pipe has this name; or the disk refuses.
    """
    handle = os.open(path, _FLAGS | os.O_APPEND | getattr(os, "O_NONBLOCK", 0), 0o666)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(errno.EINVAL, f"{kind_of_mode(mode)}, not a plain file", str(path))
    return os.fdopen(handle, "ab")


def hidden_beside(path: Path, end: str) -> Path:
    """`.NAME` and `end` beside a file or folder; a hash for a name that would become too long so."""
    name = f".{path.name}{end}"
    if len(os.fsencode(name)) > NAME_BYTES:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}{end}"
    return path.with_name(name)


def temporary_of(path: Path) -> Path:
    """`.NAME.part` beside a file: the same each time, so that the next writer replaces what one left."""
    return hidden_beside(path, SUFFIX)


def write_durably(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Replace a file; a reader sees the old content or the new one, also after a power cut.

    Args:
        path: its folder is created. See `temporary_of` for the temporary name.
        data: the content, whole or in pieces.

    Raises:
        OSError: the disk is full or refuses, or a link has the temporary name; a file of that name is as it
            was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    file = open_new(temporary)
    try:
        with file:
            for piece in (data,) if isinstance(data, bytes) else data:
                file.write(piece)
            file.flush()
            sync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            remove_file(temporary)
        raise
    sync_folder(path.parent)


def replace_durably(temporary: Path, path: Path) -> None:
    """Give a finished file its name, for good: fsync, rename, fsync of the folder.

    Raises:
        OSError: the disk refuses.
    """
    sync_file(temporary)
    temporary.replace(path)
    sync_folder(path.parent)


_PRIVATE = 0o600


def sync_file(path: Path) -> None:
    """Make a file's content durable, where the system can, and a private one's mode what the umask leaves.

    Libraries write weights under temporary names of their own, which nobody else may read (0600).

    Raises:
        OSError: a link, or the disk refuses.
    """
    handle = os.open(path, os.O_RDWR | NO_LINK | getattr(os, "O_BINARY", 0))
    try:
        mode, usual = stat.S_IMODE(os.fstat(handle).st_mode), _usual_mode()
        if mode == _PRIVATE != usual:
            with suppress(OSError):  # shares that have modes of their own
                path.chmod(usual)
        sync(handle)
    finally:
        os.close(handle)


def _usual_mode() -> int:
    """Mode of a new file."""
    mask = os.umask(0o077)  # there is no other way to ask; a file made meanwhile is too private, not too open
    os.umask(mask)
    return 0o666 & ~mask


def sync(handle: int) -> None:
    """Make the content of an open file durable, where the system can. Raises OSError: the disk refuses."""
    _sync(handle, UNSYNCABLE)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can.

    Raises:
        OSError: the disk fails (`EIO`, `ENOSPC`); a system that cannot do it, or lets nobody open the folder
            for it, is no error: the names are there.
    """
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written to but not listed
        return
    try:
        _sync(handle, UNSYNCABLE | {errno.EBADF})  # EBADF: shares that want folders opened for writing
    finally:
        os.close(handle)


def _sync(handle: int, harmless: set[int]) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in harmless:
            raise
