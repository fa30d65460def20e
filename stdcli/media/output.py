"""Putting a finished file in its place: checked before, complete or absent after.

A result is written under a hidden temporary name in its own folder and renamed once it is whole. A killed
process can leave such a `.stdcli-*.part` behind, never a half result. Knows nothing of formats.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stdcli.config.pasting import pasted
from stdcli.disk.removing import remove_file
from stdcli.disk.writing import open_new, sync_file, sync_folder
from stdcli.errors import MediaError, ResourceError


def check_output(path: Path, *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output that would lose data or cannot be written.

    Its folder is tried by making and removing an empty file, for permissions do not tell all.

    Args:
        path: the file to be.
        overwrite: whether an existing file may be replaced.
        inputs: files that may not be replaced even so, whatever name leads to them.

    Raises:
        MediaError: the output is an input, a folder, a device, exists already, or has no folder to be in, or
            none that can be written to.
        ResourceError: the disk is full.
    """
    try:
        _check_name(path, overwrite=overwrite, inputs=inputs)
    except OSError as error:  # a name too long, or a folder that may not be entered
        raise MediaError(f"no file can have this name: {error.strerror}", where=path) from error
    trial = temporary_path(path)
    with write_errors(path.parent, what="the output's folder"):
        open_new(trial).close()
        remove_file(trial)


def _check_name(path: Path, *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    if path.is_dir():
        raise MediaError("the output is a folder", where=path, expected="a file name")
    if path.parent.exists() and not path.parent.is_dir():
        raise MediaError("the output's folder is a file", where=path.parent, hint="choose another folder")
    if not path.parent.is_dir():
        hint = f"mkdir -p {pasted(path.parent)}"
        raise MediaError("the output's folder does not exist", where=path.parent, hint=hint)
    if not os.path.lexists(path):
        return
    if any(path.exists() and source.exists() and path.samefile(source) for source in inputs):
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
    _check_name(path, overwrite=overwrite)
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
        told = f"{what} cannot be written to" if what else "cannot be written"
        hint = "free some space, or choose another folder" if full else "choose another folder"
        kind = ResourceError if full else MediaError
        raise kind(f"{told}: {error.strerror or error}", where=path, hint=hint) from error
