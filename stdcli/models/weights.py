"""Look at weight files without loading them: shapes, completeness, damage, and their hash.

Shapes are read from safetensors headers alone, so checking a 10 GB model takes milliseconds. Knows no model
classes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

from stdcli.errors import ModelError


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a safetensors file.

    Raises:
        ModelError: the file is missing, cut short or not safetensors.
    """
    with _opened(path) as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}


def read_metadata(path: Path) -> dict[str, str]:
    """The `__metadata__` of a safetensors file, empty if it has none.

    Raises:
        ModelError: as for `read_shapes`.
    """
    with _opened(path) as file:
        return file.metadata() or {}


def count_values(paths: Iterable[Path]) -> int:
    """Number of values stored in some safetensors files.

    Raises:
        ModelError: as for `read_shapes`.
    """
    return sum(math.prod(shape) for path in paths for shape in read_shapes(path).values())


def hash_file(path: Path) -> str:
    """SHA-256 of a file; a file that did not change is read once.

    Raises:
        OSError: it cannot be read.
    """
    stat = path.stat()
    return _hash_file(path, stat.st_size, stat.st_mtime_ns)


@cache
def _hash_file(path: Path, size_bytes: int, changed_ns: int) -> str:
    """Size and time of change are there so that a changed file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _opened(path: Path):
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as e:
        raise ModelError(
            "cannot read this weights file: damaged, cut short or not safetensors",
            where=path,
            got=next(iter(str(e).splitlines()), type(e).__name__),
            hint="download it again; compare its size with the original",
        ) from e
