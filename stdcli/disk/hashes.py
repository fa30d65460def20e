"""SHA-256 of weights, kept between runs: a model of gigabytes is not read again only to be named.

Kept in `$XDG_CACHE_HOME/stdcli/hashes.json`, else `~/.cache/stdcli/hashes.json`; deleting it costs only time.
A hash counts while the file's size, times (of content and of any change) and inode are those it was taken at.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from stdcli.disk.opening import check_file
from stdcli.disk.reading import read_object
from stdcli.disk.writing import write_durably
from stdcli.errors import ModelError, StdcliError

KEPT_FROM_BYTES = 2**26
"""Smaller files are hashed sooner than looked up."""
SETTLED_NS = 2 * 10**9
"""A file that changed less than this ago may change again and look the same: clocks of disks are coarse."""
KEPT_FILES = 1000

_SHA256 = re.compile(r"[0-9a-f]{64}")
_here: dict[tuple[str, tuple[int, ...]], str] = {}


def hash_file(path: Path) -> str:
    """SHA-256 of a file; one that did not change is read once.

    Raises:
        ModelError: a pipe or a device.
        OSError: it cannot be read.
    """
    path = path.resolve()
    if path.exists():
        check_file(path, ModelError)
    with path.open("rb") as file:
        mark = _mark(file.fileno())
        known = _here.get((str(path), mark)) or _recall(path, mark)
        if known is None:
            began_ns = time.time_ns()
            known = hashlib.file_digest(file, "sha256").hexdigest()
            if _mark(file.fileno()) == mark and max(mark[1:3]) < began_ns - SETTLED_NS:
                _here[str(path), mark] = known
                _keep(path, mark, known)
    return known


def is_known(path: Path) -> bool:
    """Whether `hash_file` would answer without reading all of a big file."""
    path = path.resolve()
    with path.open("rb") as file:
        mark = _mark(file.fileno())
    return mark[0] < KEPT_FROM_BYTES or (str(path), mark) in _here or _recall(path, mark) is not None


def cache_path() -> Path:
    """Where hashes are kept."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "stdcli" / "hashes.json"


def _mark(handle: int) -> tuple[int, ...]:
    stat = os.fstat(handle)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _recall(path: Path, mark: tuple[int, ...]) -> str | None:
    if mark[0] < KEPT_FROM_BYTES:
        return None
    entry = _read().get(str(path))
    if not isinstance(entry, dict) or entry.get("mark") != list(mark):
        return None
    digest = entry.get("sha256")
    return digest if isinstance(digest, str) and _SHA256.fullmatch(digest) else None


def _keep(path: Path, mark: tuple[int, ...], digest: str) -> None:
    if mark[0] < KEPT_FROM_BYTES:
        return
    entries = _read()
    entries.pop(str(path), None)
    entries[str(path)] = {"mark": mark, "sha256": digest}
    newest = dict(list(entries.items())[-KEPT_FILES:])
    # a home that is not there or cannot be written to; names that are not UTF-8
    with suppress(OSError, RuntimeError, UnicodeEncodeError):
        write_durably(cache_path(), json.dumps(newest, indent=1).encode())


def _read() -> dict[str, object]:
    """What is kept; nothing where there is no such file or it is damaged."""
    try:
        return read_object(cache_path(), StdcliError)
    except (StdcliError, OSError, RuntimeError):  # the last: nobody's home
        return {}
