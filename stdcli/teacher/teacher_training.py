"""What the trainer trains where a teacher is trained: steps, state in checkpoints, sheets of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from stdcli.config.teacher import TrainSection
from stdcli.media.image import Picture, write_image
from stdcli.teacher.networks import StylizerNetworks
from stdcli.training.checkpoint import adam_tensors, restore_adam
from stdcli.training.ema import Ema
from stdcli.training.train_step import Loss, TrainStep
from stdcli.training.trained_module import LrSchedule, TrainedModule

TOTAL = "total"
"""What all losses of a teacher are of."""
MAX_GRAD_NORM = 1.0
Render = Callable[[StylizerNetworks], np.ndarray]
REPORTED = {f"grad/{TOTAL}_norm": "grad/norm", f"lr/{TOTAL}": "lr"}


class TeacherTask(Protocol):
    """A way of teaching the networks to paint.

    Attributes:
        networks: of the teacher.
        modules: by name, what learns: the networks' parts and whatever helps.
        helpers: names of those that are needed in training alone, so that no average of them is kept.
    """

    networks: StylizerNetworks
    modules: Mapping[str, torch.nn.Module]
    helpers: frozenset[str]

    def losses(self, number: int) -> Iterator[Loss]:
        """The loss of step `number`, of `TOTAL`; see `training.train_step.Losses`."""


@dataclass
class TeacherTraining:
    """A `training.trainer.Trainable`.

    Attributes:
        task: yields losses.
        module: all modules of the task.
        trained: what of them is trained.
        step: takes the steps.
        ema: average of what the teacher is made of.
        render: draws a sheet with the networks, uint8 [H, W, 3].
    """

    task: TeacherTask
    module: torch.nn.ModuleDict
    trained: TrainedModule
    step: TrainStep
    ema: Ema
    render: Render

    def train_step(self, number: int) -> dict[str, float]:
        """One step; metrics of the task, `loss/total`, `grad/norm` before clipping, `lr`."""
        metrics = self.step.take(number)
        return {REPORTED.get(name, name): value for name, value in metrics.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Weights, averages, moments of the optimizer, steps taken."""
        state = {f"live.{k}": v for k, v in self.module.state_dict().items()}
        state |= {f"ema.{k}": v for k, v in self.ema.average.items()}
        state |= adam_tensors(self.trained.optimizer)
        return state | {"counters": torch.tensor([self.ema.updates, self.ema.updates])}, {}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Go on where `state` was taken."""
        for name, tensor in self.module.state_dict().items():
            tensor.copy_(state[f"live.{name}"])
        for name, tensor in self.ema.average.items():
            tensor.copy_(state[f"ema.{name}"])
        restore_adam(self.trained.optimizer, dict(state))
        _, self.ema.updates = state["counters"].tolist()

    def draw(self, path: Path) -> None:
        """Write the sheet, by the averaged weights."""
        with self.ema.applied():
            write_image(path, Picture(self.render(self.task.networks)), overwrite=True)


def make_training(
    task: TeacherTask, train: TrainSection, accelerator: Accelerator, render: Render
) -> TeacherTraining:
    """A training before its first step.

    Args:
        task: what is to be learned; its networks are on their device.
        train: learning rate, its plan, decay of the average.
        accelerator: of this process.
        render: draws a sheet with the networks, uint8 [H, W, 3].
    """
    module = torch.nn.ModuleDict(task.modules)
    parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
    averaged = {k: v for k, v in module.state_dict().items() if k.partition(".")[0] not in task.helpers}
    ema = Ema(averaged, decay=train.ema_decay)
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=train.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
    )
    schedule, after_update = lr_schedule(train), [ema.update]
    trained = TrainedModule(TOTAL, parameters, optimizer, schedule, MAX_GRAD_NORM, after_update=after_update)
    trained.forget_gradients()  # that fitting the codec left in its refinement
    step = TrainStep(accelerator, [trained], task.losses, accumulation=1, describe=str)
    return TeacherTraining(task, module, trained, step, ema, render)


def lr_schedule(train: TrainSection) -> LrSchedule:
    """A linear rise, the learning rate itself, a linear fall to 0 at the end."""

    def lr(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, train.warmup_steps))
        cool = min(1.0, (train.steps - step) / max(1, train.cooldown_steps))
        return train.learning_rate * warm * cool

    return lr
