"""Look at weight files without loading them: shapes, completeness, damage, and their hash; and write them.

Shapes are read from safetensors headers alone, so checking a 10 GB model takes milliseconds. Knows no model
classes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stdcli.disk.hashes import hash_file
from stdcli.disk.opening import check_file
from stdcli.disk.reading import parse_object
from stdcli.errors import ModelError

CONTENT_HASH = "modelspec.hash_sha256"
"""Key of a file's metadata for the SHA-256 of all its tensors' bytes."""
_NO_HASH = "0x" + "0" * 64


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


def is_finite(value: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; by its extremes, which is many times faster than by
    looking at each value."""
    if not value.is_floating_point() or not value.numel():
        return True
    low, high = (value.float() if value.element_size() == 1 else value).aminmax()  # float8 has none
    return math.isfinite(low) and math.isfinite(high)


def hash_files(paths: Sequence[Path]) -> str:
    """SHA-256 of one file, or of the joined hex digests of several: the shards of one component.

    Raises:
        OSError: one cannot be read.
    """
    digests = [hash_file(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that others may read as they may any new file; the library's are private.

    Raises:
        OSError, SafetensorError: the disk is full or refuses.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, dict(metadata))
    path.chmod(mode)


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whose bytes depend on nothing but its content, with a hash of its tensors.

    Args:
        path: the file to be; not durable, see `runtime.durable`.
        tensors: contiguous.
        metadata: as it is stored; `CONTENT_HASH` is added.

    Raises:
        OSError, SafetensorError: the disk is full or refuses.
    Source: Stability-AI/ModelSpec 1.0.1 for the hash.
    """
    save_tensors(path, tensors, {**metadata, CONTENT_HASH: _NO_HASH})
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    order_metadata(path, {CONTENT_HASH: f"0x{digest}"})


def order_metadata(path: Path, replaced: Mapping[str, str] | None = None) -> None:
    """Sort a file's metadata, whose order is another each time it is written: equal runs, equal bytes.

    Args:
        path: a safetensors file; only its header is written.
        replaced: new values of the same lengths.
    """
    with path.open("rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = parse_object(file.read(size).decode(), path, ModelError)
        header["__metadata__"] = dict(sorted({**header["__metadata__"], **(replaced or {})}.items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size))


def _opened(path: Path):
    check_file(path, ModelError)
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as e:
        raise ModelError(
            "cannot read this weights file: damaged, cut short or not safetensors",
            where=path,
            got=next(iter(str(e).splitlines()), type(e).__name__),
            hint="download it again; compare its size with the original",
        ) from e
