"""Which files in a run's folder are the run's own, told by their names: nothing else is ever deleted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import Timeout

from stdcli.disk.litter import is_litter
from stdcli.disk.opening import own_path
from stdcli.disk.removing import remove_file, remove_folder
from stdcli.errors import ConfigError, ResourceError
from stdcli.runtime.durable import list_files
from stdcli.runtime.locks import hold_file
from stdcli.training.run_folder import RunFolder

LOCK = ".lock"
LEFTOVERS = (
    r"checkpoints/step-\d+\.tmp",
    r"checkpoints/\.step-\d+\.safetensors\.part",
    r"checkpoints/\.tmp\w{6}",  # of the safetensors library
    r"samples/\.stdcli-[0-9a-f]{32}\.part",
)
"""What killed writers leave."""
RUN = (r"run\.json", r"metrics\.jsonl", r"checkpoints/step-\d+\.safetensors", r"samples/step-\d+\.png")
"""What every run has in its folder."""


@contextmanager
def hold_run(run: RunFolder) -> Iterator[None]:
    """Be the only one who trains in a folder; it is made for that, and removed if it stays empty.

    Raises:
        ConfigError: another process trains there, or a link has the lock's name.
        ResourceError: the disk refuses.
    """
    path, is_new = run.root / LOCK, not run.root.exists()
    try:
        run.root.mkdir(parents=True, exist_ok=True)
        lock = hold_file(path)
    except Timeout as error:
        hint = "wait for it, or choose another --out"
        raise ConfigError("another process is training this run", where=run.root, hint=hint) from error
    except OSError as error:
        raise ResourceError("the run cannot be locked", where=path, got=error.strerror or error) from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows deletes no file that is open
            remove_file(path)
        lock.release()
        if is_new and not any(run.root.iterdir()):
            with suppress(OSError):
                remove_folder(run.root)


def strays(root: Path, patterns: tuple[str, ...]) -> list[str]:
    """Files in the run's own folders that no run writes, links among them; the rest is not looked at.

    Args:
        root: the run's folder.
        patterns: patterns of names below it, with `/`; their first parts name the run's own folders.

    Raises:
        ConfigError: one of the folders is a link.
    """
    folders = sorted({pattern.split("/")[0] for pattern in patterns if "/" in pattern})
    roots = {folder: own_path(root, folder, ConfigError) for folder in folders}
    found = [f"{folder}/{name}" for folder, folder_path in roots.items() for name in list_files(folder_path)]
    foreign = [name for name in found if not is_run_file(name, patterns) or (root / name).is_symlink()]
    return [name for name in foreign if not is_litter(name.rpartition("/")[2])]


def check_strays(root: Path, patterns: tuple[str, ...]) -> None:
    """Refuse to replace folders that hold what no run wrote.

    Raises:
        ConfigError: names what it is; or as `strays`.
    """
    if found := strays(root, patterns):
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        raise ConfigError(
            "the run's folders hold files that are not the run's, which are never deleted",
            where=root,
            got=", ".join(found[:4]) + more,
            hint="move them elsewhere, or choose another --out",
        )


def clear(root: Path, patterns: tuple[str, ...]) -> None:
    """Delete a run's files, run.json last, and its folders, as far as they are then empty.

    Raises:
        ConfigError: one of the folders is a link.
        ResourceError: the disk refuses.
    """
    try:
        tops = {pattern.split("/")[0].replace("\\", "") for pattern in patterns}
        for top in sorted(tops, key=lambda top: (top == "run.json", top)):
            path = own_path(root, top, ConfigError)
            if path.is_dir():
                remove_folder(path, is_ours=lambda name, top=top: _is_below(f"{top}/{name}", patterns))
            else:
                remove_file(path)
    except OSError as error:
        raise ResourceError("a file of the run cannot be deleted", where=root, got=error) from error


def is_run_file(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name below the run's folder is one that a run writes."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _is_below(name: str, patterns: tuple[str, ...]) -> bool:
    """The same, or that of a folder on the way to such a file."""
    return is_run_file(name, patterns) or any(pattern.startswith(f"{name}/") for pattern in patterns)
