"""One shard: some paths with their conditions, written whole or not at all.

Legend: n paths, L stored levels, C latent channels, space: cells, h w of pictures and F h w of clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stdcli.bank.bank_files import BankFiles, Tensors
from stdcli.bank.conditions import pack_conditions
from stdcli.bank.format import Manifest, conditions_name, shard_name, sidecar_name
from stdcli.errors import BankCorruptError

CONDITIONS = ("cond.", "uncond.")
"""What the names of conditions begin with: of their indices in a shard, of their rows in its other file."""


@dataclass(frozen=True)
class StoredPaths:
    """Paths as they are built, read, copied and merged.

    Attributes:
        states: [n, L, C, *space], from the start level down.
        x0: [n, C, *space], the clean latents, untransformed.
        guidance: float32 [n].
        noise_seed: int64 [n].
        sample_id: int64 [n].
        conditions: per path, name -> tensor; names begin with one of `CONDITIONS`.
        sources: per path, what it was made from: JSON-ready.
    """

    states: Tensor
    x0: Tensor
    guidance: Tensor
    noise_seed: Tensor
    sample_id: Tensor
    conditions: Sequence[Mapping[str, Tensor]]
    sources: Sequence[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.sample_id)

    def select(self, indices: Sequence[int]) -> StoredPaths:
        """Some of them, in the order given."""
        which = torch.tensor(list(indices), dtype=torch.int64)
        tensors = (getattr(self, name)[which] for name in COLUMNS)
        return StoredPaths(
            *tensors, [self.conditions[k] for k in indices], [self.sources[k] for k in indices]
        )


COLUMNS = ("states", "x0", "guidance", "noise_seed", "sample_id")


def join_paths(parts: Sequence[StoredPaths]) -> StoredPaths:
    """Several lots of paths as one."""
    tensors = (torch.cat([getattr(part, name) for part in parts]) for name in COLUMNS)
    conditions = [row for part in parts for row in part.conditions]
    return StoredPaths(*tensors, conditions, [row for part in parts for row in part.sources])


def write_shard(files: BankFiles, manifest: Manifest, index: int, paths: StoredPaths) -> None:
    """Write a shard; it counts from the moment its sidecar, the last of its three files, is in place.

    Raises:
        ValueError: the paths are not those of this shard, or not finite.
        ResourceError: the disk is full.
        BankError: it refuses otherwise.
    """
    expected = manifest.paths_of(index)
    if len(paths) != len(expected) or paths.states.shape[1:] != (
        len(manifest.levels),
        *manifest.latent_shape,
    ):
        raise ValueError(f"shard {index} holds {len(expected)} paths, got states {list(paths.states.shape)}")
    rows, indices = pack_conditions(paths.conditions, paths.states.dtype)
    conditions = files.write_tensors(conditions_name(index), rows)
    columns = {name: getattr(paths, name) for name in COLUMNS} | indices
    metadata = files.write_tensors(shard_name(index), columns)
    sidecar = {
        **metadata,
        "first": expected.start,
        "count": len(expected),
        "bank": manifest.fingerprint(),
        "conditions": conditions,
        "sources": [dict(source) for source in paths.sources],
    }
    files.write_json(sidecar_name(index), sidecar)


def read_shard(files: BankFiles, index: int) -> StoredPaths:
    """All of a shard.

    Raises:
        BankCorruptError: a file is missing or damaged.
    """
    sources = files.read_json(sidecar_name(index))["sources"]
    with files.open_tensors(shard_name(index)) as shard, files.open_tensors(conditions_name(index)) as rows:
        columns = [shard.get_tensor(name) for name in COLUMNS]
        conditions = [read_conditions(shard, rows, position) for position in range(len(columns[-1]))]
    return StoredPaths(*columns, conditions, sources)


def read_conditions(shard: Tensors, rows: Tensors, position: int) -> dict[str, Tensor]:
    """The conditions of one path, by name.

    Args:
        shard, rows: the shard's two open files.
        position: of the path in the shard.
    """
    names = [name for name in shard.keys() if name.startswith(CONDITIONS)]
    found = {name: int(shard.get_slice(name)[position]) for name in names}
    return {name: rows.get_slice(name)[row] for name, row in found.items()}


def shard_problem(files: BankFiles, manifest: Manifest, index: int, *, deep: bool) -> str | None:
    """What is wrong with a shard that should be there; None if nothing is.

    Args:
        deep: read all of it, compare hashes and look for NaN; else only names, sizes and sidecar.
    """
    try:
        if not files.exists(sidecar_name(index)):
            return "not built"
        return _fault(files, manifest, index, files.read_json(sidecar_name(index)), deep=deep)
    except BankCorruptError as error:
        got = f" ({error.got})" if error.got else ""
        return f"{error.what}: {error.where}{got}"
    except (KeyError, TypeError) as error:
        return f"{sidecar_name(index)} is incomplete: {error}"


def _fault(
    files: BankFiles, manifest: Manifest, index: int, sidecar: Mapping[str, Any], *, deep: bool
) -> str | None:
    expected = manifest.paths_of(index)
    if sidecar["bank"] != manifest.fingerprint():
        return "belongs to another bank"
    if (sidecar["first"], sidecar["count"]) != (expected.start, len(expected)):
        held = f"paths {sidecar['first']} to {sidecar['first'] + sidecar['count'] - 1}"
        return f"holds {held}, not {expected.start} to {expected.stop - 1}"
    sources = sidecar["sources"]
    if not isinstance(sources, list) or len(sources) != len(expected):
        return f"{sidecar_name(index)} lists other paths than it holds"
    if not all(isinstance(row, dict) and isinstance(row["sample_id"], int) for row in sources):
        return f"{sidecar_name(index)} lists what are no paths"
    for name, metadata in ((shard_name(index), sidecar), (conditions_name(index), sidecar["conditions"])):
        size = files.size(name)
        if size is None:
            return f"{name} is missing"
        if size != metadata["bytes"]:
            return f"{name} has {size} bytes, not {metadata['bytes']}"
        if deep and files.sha256(name) != metadata["sha256"]:
            return f"{name} has changed: its SHA-256 is another"
    return _content_fault(files, manifest, index, sidecar["sources"]) if deep else None


def _content_fault(
    files: BankFiles, manifest: Manifest, index: int, sources: Sequence[Mapping[str, Any]]
) -> str | None:
    paths = read_shard(files, index)
    shape = (len(manifest.paths_of(index)), len(manifest.levels), *manifest.latent_shape)
    if paths.states.shape != shape:
        return f"states are {list(paths.states.shape)}, not {list(shape)}"
    if not bool(paths.states.isfinite().all() and paths.x0.isfinite().all()):
        return "a state is NaN or infinite"
    if paths.sample_id.tolist() != [source["sample_id"] for source in sources]:
        return "its samples are not those of its sidecar"
    return None
