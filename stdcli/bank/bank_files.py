"""Where the files of a bank are: the one place that reads and writes them.

Names are relative, with `/`. Another kind of storage (the Hub, an object store) is another class with these
methods; the format does not change. Knows nothing of what is in the files.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from stdcli.disk.opening import check_file, open_file, own_path
from stdcli.disk.reading import iter_objects, read_object
from stdcli.disk.removing import remove_file
from stdcli.disk.writing import SUFFIX, write_durably
from stdcli.errors import BankCorruptError, BankError, ResourceError, StdcliError

_PIECE_BYTES = 2**22


class Tensors(Protocol):
    """An open file of tensors, of which single rows can be read."""

    def keys(self) -> list[str]: ...

    def get_tensor(self, name: str) -> torch.Tensor: ...

    def get_slice(self, name: str) -> Any: ...

    def metadata(self) -> dict[str, str] | None: ...


class BankFiles:
    """The files of a bank in a local folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, name: str) -> Path:
        """Where a file is or will be.

        Raises:
            BankCorruptError: it, or the folder it is in, is a link: a bank has none.
        """
        return own_path(self.root, name, BankCorruptError)

    def names(self, folder: str) -> list[str]:
        """Names of the finished files in a folder, `folder/file`, sorted.

        Raises:
            BankCorruptError: the folder is a link.
        """
        directory = self.path(folder)
        found = directory.glob("*") if directory.is_dir() else ()
        return sorted(f"{folder}/{path.name}" for path in found if not path.name.startswith("."))

    def leftovers(self) -> list[str]:
        """Names of what killed writers left behind, links left out."""
        folders = [self.path(name) for name in ("shards", "conditions")]
        found = (path for folder in (self.root, *folders) for path in folder.glob(f".*{SUFFIX}"))
        plain = (path for path in found if path.is_file() and not path.is_symlink())
        return sorted(path.relative_to(self.root).as_posix() for path in plain)

    def exists(self, name: str) -> bool:
        """Whether there is such a file. Raises as `path`."""
        return self.path(name).is_file()

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none. Raises as `path`."""
        path = self.path(name)
        return path.stat().st_size if path.is_file() else None

    def sha256(self, name: str) -> str:
        """Hash of a file's content.

        Raises:
            BankCorruptError: it cannot be read.
        """
        digest = hashlib.sha256()
        try:
            with open_file(self.path(name), BankCorruptError, links=False) as file:
                while piece := file.read(_PIECE_BYTES):
                    digest.update(piece)
        except OSError as error:
            raise BankCorruptError(f"cannot be read: {error.strerror}", where=self.root / name) from error
        return digest.hexdigest()

    def read_json(self, name: str) -> dict[str, Any]:
        """A file's JSON object.

        Raises:
            BankCorruptError: no such file, or not a JSON object.
        """
        return read_object(self.path(name), BankCorruptError, links=False)

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """The JSON objects of a file that has one per line.

        Raises:
            BankCorruptError: no such file, or a line is no JSON object.
        """
        return [row for _, row in iter_objects(self.path(name), BankCorruptError, links=False)]

    @contextmanager
    def open_tensors(self, name: str) -> Iterator[Tensors]:
        """A file of tensors, mapped into memory.

        Raises:
            BankCorruptError: no such file, or damaged.
        """
        try:
            with self.map_tensors(name) as tensors:
                yield tensors
        except SafetensorError as error:
            raise BankCorruptError("not as a bank has it", where=self.root / name, got=error) from error

    def map_tensors(self, name: str) -> Any:
        """As `open_tensors`, open until it is forgotten.

        Raises:
            BankCorruptError: no such file, or damaged.
        """
        path = self.path(name)
        check_file(path, BankCorruptError, links=False)
        try:
            return safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise BankCorruptError("damaged or missing", where=path, got=error) from error

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Replace a file by a JSON object. Raises as `write_tensors`."""
        self._write(name, (json.dumps(data, indent=1) + "\n").encode())

    def write_lines(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Replace a file by one JSON object per line. Raises as `write_tensors`."""
        self._write(name, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def write_tensors(self, name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Replace a file of tensors.

        Returns:
            `{"sha256": ..., "bytes": ...}` of the file.

        Raises:
            ResourceError: the disk is full.
            BankError: it refuses otherwise.
        """
        data = save({key: value.contiguous() for key, value in tensors.items()})
        self._write(name, data)
        return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    def remove(self, name: str) -> None:
        """Delete a file, if there is one.

        Raises:
            BankCorruptError: see `path`.
            BankError: the disk refuses.
        """
        path = self.path(name)
        try:
            remove_file(path)
        except OSError as error:
            raise BankError(f"cannot be deleted: {error.strerror or error}", where=path) from error

    def _write(self, name: str, data: bytes) -> None:
        view = memoryview(data)
        path = self.path(name)
        try:
            write_durably(
                path,
                (view[start : start + _PIECE_BYTES] for start in range(0, len(view), _PIECE_BYTES)),
            )
        except OSError as error:
            raise refusal(error, path) from error


def refusal(error: OSError, where: Path) -> StdcliError:
    """What to tell of a disk that refuses to be written to: a `ResourceError` if it is full."""
    what = f"cannot be written: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space; the same command goes on with what is done"
        return ResourceError(what, where=where, hint=hint)
    return BankError(what, where=where)
