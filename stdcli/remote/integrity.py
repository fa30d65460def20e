"""What a repository of the Hub announces of its files, and whether what arrived is that.

The Hub's client checks a file's size against the answer that brought the file; here names, sizes and hashes
are checked against the listing of the commit. Knows nothing of what the files mean.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import tqdm

from stdcli.disk.opening import open_file
from stdcli.disk.reading import read_bytes
from stdcli.disk.removing import remove_cached
from stdcli.errors import HubError

SLACK_BYTES = 2**20
_UNSAFE = re.compile(r"[\\:\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Announced:
    """One file of a commit.

    Attributes:
        size_bytes: of its content.
        sha256: of its content; None for files that lie in git.
        blob: git's name of it.
    """

    size_bytes: int
    sha256: str | None
    blob: str

    @classmethod
    def of(cls, entry: RepoFile) -> Announced:
        """What one entry of a listing announces.

        Raises:
            TypeError: it is not of the kinds that listings have.
        """
        sha256 = entry.lfs and entry.lfs.sha256
        if type(entry.size) is not int or not {type(sha256), type(entry.blob_id)} <= {str, type(None)}:
            raise TypeError(f"{entry.path!r} of {entry.size!r} bytes, named {entry.blob_id!r}")
        return cls(entry.size, sha256, entry.blob_id)

    def is_of(self, path: Path) -> bool:
        """Whether a local file has this very content."""
        if path.stat().st_size != self.size_bytes:
            return False
        if self.sha256:
            return file_sha256(path) == self.sha256
        return git_blob(read_bytes(path, HubError, limit=self.size_bytes)) == self.blob


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with open_file(path, HubError) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob(content: bytes) -> str:
    """What git calls a file with this content.

    Source: git's object format, SHA-1 of "blob SIZE\\0" and the content.
    """
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def check_names(names: Iterable[str], *, where: str) -> None:
    """Refuse a repository of which a file would land outside the folder it is meant for.

    Raises:
        HubError: a name is absolute, has a part `..` or `.git`, or is no plain path on every system.
    """
    for name in names:
        parts = name.split("/")
        is_odd = not PurePosixPath(name).name or "" in parts or _UNSAFE.search(name)
        if is_odd or not {".", "..", ".git"}.isdisjoint(parts):
            raise HubError(
                "a file of this repository would escape its folder; nothing is fetched",
                where=where,
                got=repr(name),
            )


def check_files(folder: Path, announced: Mapping[str, Announced], *, fresh: set[str], where: str) -> None:
    """Compare what arrived with what was announced; what differs is deleted from the cache.

    Args:
        folder: snapshot in the Hub's cache.
        announced: the files that were wanted.
        fresh: names of those whose content is compared too, not only the size.
        where: the repository, for messages.

    Raises:
        HubError: a file is missing, or of another size or content.
    """
    for name, file in announced.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else 0
        if size == file.size_bytes and (name not in fresh or file.is_of(path)):
            continue
        if path.exists():
            remove_cached(path, cache=folder.parents[1])
        what = "is larger than" if size > file.size_bytes else "is not what"
        raise HubError(
            f"a file of this repository {what} was announced",
            where=f"{where} {name}",
            got=f"{size} bytes" if size != file.size_bytes else "other content of the same size",
            expected=f"{file.size_bytes} bytes",
            hint="run the same command again; if it happens twice, tell the owner of the repository",
        )


def bounded(total_bytes: int, *, where: str) -> type[tqdm]:
    """The library's progress bar, which stops a download that goes far beyond what was announced.

    Args:
        total_bytes: announced size of all files that are wanted.
        where: the repository, for messages.
    """

    class Bounded(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._left = 2 * total_bytes + SLACK_BYTES if kwargs.get("unit") == "B" else None
            super().__init__(*args, **({"disable": None} | kwargs))  # None: on a terminal only

        def update(self, n: float | None = 1) -> bool | None:
            if self._left is not None:
                self._left -= int(n or 0)
                if self._left < 0:
                    raise HubError(
                        "a file of this repository is larger than was announced; the download was stopped",
                        where=where,
                        expected=f"{total_bytes} bytes in all",
                    )
            return super().update(n)

    return Bounded


class Silent(tqdm):
    """No bar at all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **(kwargs | {"disable": True}))
