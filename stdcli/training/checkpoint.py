"""Training state on disk as one safetensors file: weights, averages, optimiser moments, step.

Written under a temporary name, flushed to disk and renamed, so that a reader sees the old file or the new
one.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stdcli.disk.opening import check_file
from stdcli.disk.removing import remove_file
from stdcli.disk.writing import open_new, replace_durably, temporary_of
from stdcli.errors import ResourceError, StdcliError


def save_checkpoint(path: Path, tensors: dict[str, torch.Tensor], *, facts: dict[str, str]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: final file name; its folder is created.
        tensors: name -> tensor; stored on the CPU, bit for bit.
        facts: strings kept in the file's metadata, such as the step.

    Raises:
        ResourceError: the disk is full or refuses; an earlier file of that name is as it was.
    """
    temporary = temporary_of(path)
    stored = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        open_new(temporary).close()
        save_file(stored, temporary, metadata=facts)
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
        Tensors and facts.

    Raises:
        StdcliError: the file is damaged, or a link.
    """
    check_file(path, StdcliError, links=False)
    try:
        with safe_open(path, framework="pt") as handle:
            return {k: handle.get_tensor(k) for k in handle.keys()}, dict(handle.metadata() or {})
    except SafetensorError as error:
        raise StdcliError(
            "damaged checkpoint",
            where=str(path),
            got=str(error),
            hint=f"delete {path} and run the command again",
        ) from error


def adam_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Adam's state as named tensors: `adam.{parameter index}.{exp_avg | exp_avg_sq | step}`."""
    state = optimiser.state_dict()["state"]
    return {f"adam.{i}.{key}": value for i, entry in state.items() for key, value in entry.items()}


def restore_adam(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put tensors from `adam_tensors` back into an optimiser over the same parameters in the same order.

    Moments take the memory layout of their parameter, as Adam makes them.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, index, key = name.split(".")
            moment = value if key == "step" else torch.empty_like(parameters[int(index)]).copy_(value)
            state.setdefault(int(index), {})[key] = moment
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
