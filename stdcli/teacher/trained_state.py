"""What a teacher's training must keep to go on as if it had not been stopped."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stdcli.errors import StdcliError
from stdcli.training.checkpoint import adam_tensors, restore_adam
from stdcli.training.ema import Ema


def state_of(
    live: Mapping[str, Tensor], ema: Ema, optimizer: torch.optim.Optimizer, *, step: int
) -> dict[str, Tensor]:
    """Everything that resuming needs, as named tensors.

    Args:
        live: the weights under training, by name.
        ema: their average.
        optimizer: Adam's.
        step: steps that are taken.
    """
    state = {f"live.{k}": v for k, v in live.items()}
    state |= {f"ema.{k}": v for k, v in ema.average.items()}
    state |= adam_tensors(optimizer)
    return state | {"counters": torch.tensor([step, ema.updates])}


@torch.no_grad()
def restore_state(
    state: Mapping[str, Tensor], live: Mapping[str, Tensor], ema: Ema, optimizer: torch.optim.Optimizer
) -> int:
    """Put what `state_of` gave back in its place.

    Returns:
        The steps that are taken.

    Raises:
        StdcliError: it is of another run, or of another version of this program.
    """
    try:
        for name, tensor in live.items():
            tensor.copy_(state[f"live.{name}"])
        for name, tensor in ema.average.items():
            tensor.copy_(state[f"ema.{name}"])
        restore_adam(optimizer, dict(state))
        step, ema.updates = state["counters"].tolist()
    except (KeyError, ValueError, RuntimeError) as error:
        hint = "--overwrite begins anew"
        raise StdcliError("this checkpoint is not of such a run", got=error, hint=hint) from error
    return step
