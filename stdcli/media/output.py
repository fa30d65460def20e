"""Putting a finished file in its place: checked before, complete or absent after.

A result is written under a hidden temporary name in its own folder and renamed once it is whole. A killed
process can leave such a `.stdcli-*.part` behind, never a half result. Knows nothing of formats.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stdcli.config.pasting import pasted
from stdcli.disk.removing import remove_file
from stdcli.disk.writing import open_new, sync_file, sync_folder
from stdcli.errors import MediaError, ResourceError


def check_output(path: Path, *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output that would lose data or cannot be written.

    Args:
        path: the file to be.
        overwrite: whether an existing file may be replaced.
        inputs: files that may not be replaced even so, whatever name leads to them.

    Raises:
        MediaError: the output is an input, a folder, a device, exists already, or has no folder to be in, or
            none that can be written to.
        ResourceError: the disk is full.
    """
    check_length(path)
    check_name(path, overwrite=overwrite, taken=identities(inputs))
    try_folder(path.parent)


def check_length(path: Path) -> None:
    """Refuse a name that the file system does not take, also below folders that are still to be made.

    Raises:
        MediaError: it is too long, or a folder on the way may not be entered.
    """
    folder = existing_folder(path)
    try:
        for name in {path, *(folder / part for part in path.relative_to(folder).parts)}:
            with suppress(FileNotFoundError, NotADirectoryError):
                os.lstat(name)
    except OSError as error:
        hint = "name a shorter one with -o" if error.errno == errno.ENAMETOOLONG else None
        raise MediaError(f"no file can have this name: {error.strerror}", where=path, hint=hint) from error


def existing_folder(path: Path) -> Path:
    """The innermost folder around `path` that is there."""
    folder = path.parent
    while folder != folder.parent and not os.path.lexists(folder):
        folder = folder.parent
    return folder


def identities(paths: Iterable[Path]) -> frozenset[tuple[int, int]]:
    """(device, inode) of the files that are there: the same whatever name or link leads to one."""
    found = set()
    for path in paths:
        with suppress(OSError, ValueError):
            status = path.stat()
            found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def try_folder(folder: Path) -> None:
    """Make and remove an empty file, for permissions do not tell all.

    Raises:
        MediaError: it cannot be written to.
        ResourceError: the disk is full.
    """
    trial = temporary_path(folder / "trial")
    with write_errors(folder, what="the output's folder"):
        open_new(trial).close()
        remove_file(trial)


def check_name(path: Path, *, overwrite: bool, taken: Container[tuple[int, int]] = ()) -> None:
    """The part of `check_output` that writes nothing; `taken` are `identities` that may not be replaced.

    Raises:
        MediaError: see `check_output`.
    """
    if not path.parent.is_dir():
        if path.parent.exists():
            raise MediaError("the output's folder is a file", where=path.parent, hint="choose another folder")
        hint = f"mkdir -p {pasted(path.parent)}"
        raise MediaError("the output's folder does not exist", where=path.parent, hint=hint)
    if not os.path.lexists(path):
        return
    if path.is_dir():
        raise MediaError("the output is a folder", where=path, expected="a file name")
    if any(identity in taken for identity in identities([path])):
        raise MediaError("the output is the input itself", where=path, hint="choose another name")
    if path.exists() and not path.is_file():
        raise MediaError("the output is a device, not a file", where=path, hint="choose another name")
    if not overwrite:
        hint = "add --overwrite, or choose another name"
        raise MediaError("the output exists already", where=path, hint=hint)


def temporary_path(path: Path) -> Path:
    """A name of its own in the folder of `path`."""
    return path.with_name(f".stdcli-{uuid.uuid4().hex}.part")


def publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give a finished file its name, for good: fsync, rename, fsync of the folder.

    Raises:
        MediaError: `path` has come to exist meanwhile and may not be replaced.
        OSError: the disk refuses.
    """
    sync_file(temporary)
    check_name(path, overwrite=overwrite)
    temporary.replace(path)
    sync_folder(path.parent)


@contextmanager
def write_errors(path: Path, *, what: str | None = None) -> Iterator[None]:
    """Say in the user's words why the disk refused `path`.

    Args:
        path: file or folder.
        what: what `path` is, to begin the message with.

    Raises:
        ResourceError: the disk is full.
        MediaError: any other OSError.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        message = f"{what} cannot be written to" if what else "cannot be written"
        hint = "free some space, or choose another folder" if full else "choose another folder"
        kind = ResourceError if full else MediaError
        raise kind(f"{message}: {error.strerror or error}", where=path, hint=hint) from error
