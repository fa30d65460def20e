"""Folders that are whole or absent, whatever happens: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import Timeout

from stdcli.disk.removing import remove_file, remove_folder
from stdcli.disk.writing import hidden_beside, sync_file, sync_folder, temporary_of
from stdcli.errors import MediaError
from stdcli.runtime.locks import hold_file

OLD = ".old"
LOCK = ".lock"


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
        OSError: the disk is full or refuses, or a link has one of the temporary names.
    """
    folder = folder.resolve()
    fresh, old = temporary_of(folder), hidden_beside(folder, OLD)
    with _alone(folder):
        if old.exists() and not folder.exists():  # a power cut, see above
            old.replace(folder)
        for left in (fresh, old):
            remove_folder(left)
        fresh.mkdir()
        try:
            yield fresh
            for path in sorted(fresh.rglob("*"), reverse=True):
                sync_folder(path) if path.is_dir() else sync_file(path)
            sync_folder(fresh)
            check()
            if folder.exists():
                folder.replace(old)
            fresh.replace(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.replace(folder)
            with suppress(OSError):
                remove_folder(fresh)
            raise
        sync_folder(folder.parent)
        with suppress(OSError):
            remove_folder(old)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock beside a folder, which is the system's own, so that a killed process holds none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = hidden_beside(folder, LOCK)
    try:
        lock = hold_file(path)
    except Timeout as error:
        hint = "wait for it, or choose another -o"
        raise MediaError("another run is making this output", where=folder, hint=hint) from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows deletes no file that is open; there the lock does it
            remove_file(path)
        lock.release()


def list_files(folder: Path) -> list[str]:
    """Names of all files and links below a folder, sorted: what replacing it would lose."""
    found = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return [path.relative_to(folder).as_posix() for path in found]
