"""Training state on disk as one safetensors file: weights, averages, optimiser moments, step.

Written under a temporary name, flushed to disk and renamed, so that a reader sees the old file or the new
one; with a hash of all that it says, so that a reader notices what the disk did to it since.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stdcli.disk.opening import check_file
from stdcli.disk.removing import remove_file
from stdcli.disk.writing import open_new, replace_durably, temporary_of
from stdcli.errors import ResourceError, StdcliError

HASH = "sha256"
_DIGEST = re.compile("[0-9a-f]{64}")


class DamagedError(StdcliError):
    """A checkpoint that is not as it was written."""


def save_checkpoint(path: Path, tensors: dict[str, torch.Tensor], *, metadata: dict[str, str]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: final file name; its folder is created.
        tensors: name -> tensor; stored on the CPU, bit for bit.
        metadata: strings kept in the file's metadata, such as the step; none is called `sha256`.

    Raises:
        ResourceError: the disk is full or refuses; an earlier file of that name is as it was.
    """
    temporary = temporary_of(path)
    stored = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        open_new(temporary).close()
        save_file(stored, temporary, metadata=metadata | {HASH: digest_of(stored, metadata)})
        replace_durably(temporary, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            remove_file(temporary)
        raise ResourceError("the checkpoint cannot be written", where=path, got=error) from error


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a checkpoint back.

    Args:
        path: file written by `save_checkpoint`.

    Returns:
        Tensors and metadata.

    Raises:
        DamagedError: it is not as it was written.
        StdcliError: no such file, or a link or another thing that is no plain file.
    """
    check_file(path, StdcliError, links=False)
    try:
        with safe_open(path, framework="pt") as handle:
            tensors = {k: handle.get_tensor(k) for k in handle.keys()}
            metadata = dict(handle.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error
    written = metadata.pop(HASH, None)
    if written is None and not any(_DIGEST.fullmatch(value) for value in metadata.values()):
        return tensors, metadata  # of a version that wrote no hash; one whose name is damaged is still a hash
    if written != digest_of(tensors, metadata):
        raise _damaged(path, "another SHA-256 than was written")
    return tensors, metadata


def digest_of(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of names, shapes, types and bytes of tensors [any shape, CPU, contiguous], and of metadata."""
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _damaged(path: Path, got: object) -> DamagedError:
    hint = f"delete {path} and run the command again"
    return DamagedError("damaged checkpoint", where=str(path), got=str(got), hint=hint)


def adam_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Adam's state as named tensors: `adam.{parameter index}.{exp_avg | exp_avg_sq | step}`."""
    state = optimizer.state_dict()["state"]
    return {f"adam.{i}.{key}": value for i, entry in state.items() for key, value in entry.items()}


def restore_adam(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put tensors from `adam_tensors` back into an optimiser over the same parameters in the same order.

    Moments take the memory layout of their parameter, as Adam makes them.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, index, key = name.split(".")
            moment = value if key == "step" else torch.empty_like(parameters[int(index)]).copy_(value)
            state.setdefault(int(index), {})[key] = moment
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
