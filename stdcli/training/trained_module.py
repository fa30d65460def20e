"""One of the networks that a run trains: weights, optimiser, learning rate, clipping, loss scaling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stdcli.training.checkpoint import adam_tensors, restore_adam

LrSchedule = Callable[[int], float]
"""Step, counted from 0 -> learning rate."""


def make_lr_schedule(peak: float, *, steps: int, warmup_steps: int, schedule: str) -> LrSchedule:
    """Learning rate of every step: a linear rise to `peak`, then "constant", or "cosine" down to 0.

    Args:
        peak: highest rate, > 0.
        steps: of the run.
        warmup_steps: of the rise, < steps.
        schedule: "cosine" or "constant".
    Source: Loshchilov 2017 (SGDR) eq. 5, one period.
    """

    def lr_schedule(step: int) -> float:
        if step < warmup_steps:
            return peak * (step + 1) / warmup_steps
        if schedule == "constant":
            return peak
        return peak * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps))) / 2

    return lr_schedule


@dataclass
class TrainedModule:
    """Weights and all that changes them.

    Attributes:
        name: in metrics and checkpoints.
        parameters: name -> what is trained.
        optimizer: Adam over `parameters`, in their order.
        lr_schedule: of each step.
        max_grad_norm: gradients are scaled down to it.
        buffers: name -> further tensors that are part of the state.
        scaler: of the loss, for float16.
        after_update: called after every step taken: averages, power iterations.
    """

    name: str
    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    lr_schedule: LrSchedule
    max_grad_norm: float
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler(enabled=False))
    after_update: Sequence[Callable[[], object]] = ()

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients."""
        self.scaler.scale(loss).backward()

    def clip(self) -> float:
        """Scale gradients down to `max_grad_norm`; the norm they had."""
        self.scaler.unscale_(self.optimizer)
        return float(nn.utils.clip_grad_norm_(list(self.parameters.values()), self.max_grad_norm))

    def update(self, step: int) -> float:
        """Take the step, forget the gradients; the learning rate that was used."""
        lr = self.lr_schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.forget_gradients()
        for call in self.after_update:
            call()
        return lr

    def forget_gradients(self) -> None:
        """Drop what losses left here, those of other modules too."""
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Everything that resuming needs, as named tensors."""
        state: dict[str, Tensor] = {f"weights.{k}": v for k, v in self.parameters.items()}
        state |= {f"buffers.{k}": v for k, v in self.buffers.items()}
        state |= adam_tensors(self.optimizer)
        if self.scaler.is_enabled():
            scaler_state = self.scaler.state_dict()
            state["scaler"] = torch.tensor(
                [scaler_state["scale"], scaler_state["_growth_tracker"]], dtype=torch.float64
            )
        return {f"{self.name}.{k}": v for k, v in state.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state()` of an earlier run over the same parameters."""
        module_state = {
            k.removeprefix(f"{self.name}."): v for k, v in state.items() if k.startswith(f"{self.name}.")
        }
        for kind, tensors in (("weights", self.parameters), ("buffers", self.buffers)):
            for name, tensor in tensors.items():
                tensor.copy_(module_state[f"{kind}.{name}"])
        restore_adam(self.optimizer, module_state)
        if self.scaler.is_enabled():
            scale, growth = module_state["scaler"].tolist()
            self.scaler.load_state_dict(
                {**self.scaler.state_dict(), "scale": scale, "_growth_tracker": int(growth)}
            )
