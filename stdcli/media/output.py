"""Putting a finished file in its place: checked before, complete or absent after.

A result is written under a hidden temporary name in its own folder and renamed once it is whole. A killed
process can leave such a `.stdcli-*.part` behind, never a half result. Knows nothing of formats.
"""

from __future__ import annotations

import errno
import os
import shlex
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stdcli.errors import MediaError, ResourceError


def check_output(path: Path, *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output that would lose data or cannot be written.

    Args:
        path: the file to be.
        overwrite: whether an existing file may be replaced.
        inputs: files that may not be replaced even so, whatever name leads to them.

    Raises:
        MediaError: the output is an input, a folder, exists already, or has no folder to be in.
    """
    if path.is_dir():
        raise MediaError("the output is a folder", where=path, expected="a file name")
    if not path.parent.is_dir():
        hint = f"mkdir -p {shlex.quote(str(path.parent))}"
        raise MediaError("the output's folder does not exist", where=path.parent, hint=hint)
    if not os.path.lexists(path):
        return
    if any(path.exists() and source.exists() and path.samefile(source) for source in inputs):
        raise MediaError("the output is the input itself", where=path, hint="choose another name")
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
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    check_output(path, overwrite=overwrite)
    temporary.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Say in the user's words why the disk refused `path`.

    Raises:
        ResourceError: the disk is full.
        MediaError: any other OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(f"cannot be written: {reason}", where=path) from error
        raise MediaError(f"cannot be written: {reason}", where=path) from error
