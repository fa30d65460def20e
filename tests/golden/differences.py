"""What differs between two folders of results: bytes of files, values of JSON; times are left out."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TIMES = frozenset(("created", "pace", "seconds", "sealed_sha256", "time/data_wait_ms", "time/step_ms"))
"""Keys of JSON, at any depth, whose values are of a clock, or a hash over such."""
SPEEDS = frozenset(("encode-ms", "denoise-ms", "decode-ms", "fps", "peak-mib"))
"""Metrics of a report whose values are of a clock or of the machine's memory."""
LEFT_OUT = (".html", ".lock")
"""Suffixes of files that are not compared: pages show times, locks are left behind empty."""


def differences(before: Path, latest: Path) -> Iterator[str]:
    """One sentence for each file of two folders that is not the same, with the first place where it differs.

    Each folder's own path reads the same; the folders' names should be of one length.
    """
    first, second = _files(before), _files(latest)
    for name in sorted(first | second):
        if name not in second:
            yield f"{name}: gone"
        elif name not in first:
            yield f"{name}: new"
        elif where := _difference(before / name, latest / name, (before, latest)):
            yield f"{name}: {where}"


def _files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in LEFT_OUT
    }


def _difference(first: Path, second: Path, roots: tuple[Path, Path]) -> str | None:
    """Where two files differ; None where they are the same."""
    old, new = (
        path.read_bytes().replace(os.fsencode(root), b"/" * len(os.fsencode(root)))
        for path, root in zip((first, second), roots, strict=True)
    )
    if old == new:
        return None
    if first.suffix == ".json":
        return _first_change(json.loads(old), json.loads(new))
    if first.suffix == ".jsonl":
        return _first_change(*([json.loads(line) for line in data.splitlines()] for data in (old, new)))
    if first.suffix == ".safetensors":
        return _tensor_change(old, new)
    if first.suffix in (".png", ".jpg", ".webp"):
        return _picture_change(first, second)
    return f"{len(old)} and {len(new)} bytes, of which other ones" if len(old) != len(new) else "other bytes"


def _first_change(old: Any, new: Any, path: str = "") -> str | None:
    """The first key whose value differs, times left out."""
    if isinstance(old, dict) and isinstance(new, dict):
        timed = TIMES | old.keys() - {"metric"} if old.get("metric") in SPEEDS else TIMES
        for key in [*old, *(key for key in new if key not in old)]:
            place = f"{path}.{key}" if path else key
            if key not in new or key not in old:
                return f"{place} {'gone' if key in old else 'new'}"
            if key not in timed and (found := _first_change(old[key], new[key], place)):
                return found
        return None
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return f"{path} has {len(old)} and {len(new)} items"
        found = (_first_change(*pair, f"{path}[{n}]") for n, pair in enumerate(zip(old, new, strict=True)))
        return next(filter(None, found), None)
    return None if old == new else f"{path} {old!r} and {new!r}"


def _tensor_change(old: bytes, new: bytes) -> str | None:
    """The first tensor or metadata key of two safetensors files that differs."""
    (tensors, metadata), (others, other_metadata) = _tensors(old), _tensors(new)
    for name in [*tensors, *(name for name in others if name not in tensors)]:
        if tensors.get(name) != others.get(name):
            kind = "gone" if name not in others else "new" if name not in tensors else "differs"
            return f"tensor {name} {kind}"
    if list(tensors) != list(others):
        return "the same tensors in another order"
    return _first_change(metadata, other_metadata, "metadata")


def _tensors(data: bytes) -> tuple[dict[str, tuple[str, bytes]], dict[str, Any]]:
    """Dtype with shape and bytes by name, and the metadata, JSON in it read."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    metadata = {key: _loaded(text) for key, text in header.pop("__metadata__", {}).items()}
    body = data[8 + size :]
    return {
        name: (f"{entry['dtype']} {entry['shape']}", body[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }, metadata


def _loaded(text: Any) -> Any:
    """JSON in a text as data; anything else as it is."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text


def _picture_change(first: Path, second: Path) -> str | None:
    """How far the pixels of two pictures are apart, or else the first text in them that differs."""
    with Image.open(first) as old, Image.open(second) as new:
        if (old.mode, old.size) != (new.mode, new.size):
            return f"{old.mode} {old.size} and {new.mode} {new.size}"
        pixels, others = (np.asarray(picture).astype(int) for picture in (old, new))
        if (apart := np.abs(pixels - others)).any():
            return f"{(apart > 0).mean():.1%} of the values differ, by up to {apart.max()}"
        texts = ({key: _loaded(text) for key, text in picture.info.items()} for picture in (old, new))
        return _first_change(*texts, "text")
