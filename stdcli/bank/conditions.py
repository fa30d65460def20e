"""Conditions of a shard's paths, each tensor stored once however many paths share it.

Knows only named rows; what they mean to a network is the caller's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

EXACT = ("time_ids",)  # pixel counts, which half precision would round


def pack_conditions(
    rows: Sequence[Mapping[str, Tensor]], dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Find equal rows.

    Args:
        rows: per path, name -> tensor of any shape, the same names for all; names ending in one of `EXACT`
            keep their dtype.
        dtype: of all others, as stored.

    Returns:
        (name -> [M, ...], the different rows in the order they are first met; name -> int64 [len(rows)],
        which of them belongs to each path).

    Raises:
        ValueError: paths have conditions of other names or shapes.
    """
    names = {frozenset(row) for row in rows}
    if len(names) != 1:
        raise ValueError(f"conditions of different kinds: {sorted(map(sorted, names))}")
    tensors, indices = {}, {}
    for name in sorted(rows[0]):
        found: dict[str, int] = {}
        unique: list[Tensor] = []
        index: list[int] = []
        for row in rows:
            value = row[name].detach().cpu().contiguous()
            value = value if name.endswith(EXACT) else value.to(dtype)
            key = content_hash(value)
            if key not in found:
                found[key] = len(unique)
                unique.append(value)
            index.append(found[key])
        shapes = {value.shape for value in unique}
        if len(shapes) > 1:
            raise ValueError(f"condition {name} has several shapes: {sorted(map(list, shapes))}")
        tensors[name], indices[name] = torch.stack(unique), torch.tensor(index)
    return tensors, indices


def content_hash(value: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes."""
    head = f"{value.dtype} {list(value.shape)}".encode()
    return hashlib.sha256(head + value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
