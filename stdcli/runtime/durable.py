"""Files that are whole or absent, whatever happens: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from stdcli.errors import MediaError

SUFFIX = ".part"
OLD = ".old"
LOCK = ".lock"


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


@contextmanager
def new_folder(folder: Path, *, check: Callable[[], object] = lambda: None) -> Iterator[Path]:
    """Fill a folder under a temporary name; at the end it takes the place of the one that may be there.

    A reader finds the old folder or the new one, whole; only after a power cut between two renames may it
    find neither, the old one then being `.NAME.old` beside. One run at a time: it holds the lock
    `.NAME.lock`, and whoever is next removes what a killed one left.

    Args:
        folder: a link is followed.
        check: called before the folder takes its place; raises if what is there by then may not be replaced.

    Yields:
        An empty folder beside `folder`. If the block fails, it is deleted and `folder` is as it was.

    Raises:
        MediaError: another run is making this folder.
        OSError: the disk is full or refuses.
    """
    folder = folder.resolve()
    fresh, old = (folder.with_name(f".{folder.name}{end}") for end in (SUFFIX, OLD))
    with _alone(folder):
        if old.exists() and not folder.exists():  # a power cut, see above
            old.replace(folder)
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)
        fresh.mkdir()
        try:
            yield fresh
            for path in sorted(fresh.rglob("*"), reverse=True):
                sync_folder(path) if path.is_dir() else _sync_file(path)
            sync_folder(fresh)
            check()
            if folder.exists():
                folder.replace(old)
            fresh.replace(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.replace(folder)
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        sync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock beside a folder, which is the system's own, so that a killed process holds none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}{LOCK}")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        hint = "wait for it, or choose another -o"
        raise MediaError("another run is making this output", where=folder, hint=hint) from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows deletes no file that is open; there the lock does it
            path.unlink()
        lock.release()


def list_files(folder: Path) -> list[str]:
    """Names of all files and links below a folder, sorted: what replacing it would lose."""
    found = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return [path.relative_to(folder).as_posix() for path in found]


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
