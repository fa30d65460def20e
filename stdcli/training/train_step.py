"""One step of training, whatever is trained: micro-batches, several modules, processes, mixed precision.

It knows no method. A task yields losses, each for one of them; gradients are added at once, exchanged
between processes after the last micro-batch. Those that got a loss then take a step; the others rest.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from stdcli.errors import ConfigError, NumericsError
from stdcli.runtime.devices import DeviceChoice
from stdcli.training.exchange import average_gradients
from stdcli.training.trained_module import TrainedModule

PRECISION = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
SUPPORTED = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
)


@dataclass(frozen=True)
class Loss:
    """A loss of one micro-batch.

    Attributes:
        learner: name of the trained module whose gradients it makes.
        value: scalar.
        metrics: name -> values [n] to report the mean of.
    """

    learner: str
    value: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


Losses = Callable[[int], Iterator[Loss]]
"""Number of a micro-batch -> its losses; each is differentiated before the next is asked for."""


def make_accelerator(choice: DeviceChoice) -> Accelerator:
    """Accelerate's view of this process.

    Raises:
        ConfigError: started for a kind of parallelism that is not supported.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true"):
        raise _unsupported("FSDP")
    if choice.device.type == "cuda" and "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(choice.device)
    accelerator = Accelerator(mixed_precision=PRECISION[choice.dtype], cpu=choice.device.type == "cpu")
    if accelerator.distributed_type not in SUPPORTED:
        raise _unsupported(str(accelerator.distributed_type.value))
    return accelerator


def _unsupported(kind: str) -> ConfigError:
    return ConfigError(
        f"{kind} is not supported yet",
        hint="accelerate launch --multi_gpu, or one device",
    )


@dataclass
class TrainStep:
    """Takes steps.

    Attributes:
        accelerator: of this process.
        trained_modules: in the order of their steps.
        losses: the task.
        accumulation: micro-batches per step.
        describe: what was being trained on, for messages.
    """

    accelerator: Accelerator
    trained_modules: Sequence[TrainedModule]
    losses: Losses
    accumulation: int
    describe: Callable[[], str]

    def take(self, number: int) -> dict[str, float]:
        """Take one step with every trained module that gets a loss in it; the others keep every bit.

        Args:
            number: of the step, from 0; its micro-batches are `number * accumulation` and following.

        Returns:
            Means over all micro-batches and processes of what was reported, gradient norms, learning rates.

        Raises:
            NumericsError: a loss or gradient is not finite; the weights are as before the step.
        """
        sums = self._backward(number)
        learning = [trained for trained in self.trained_modules if f"loss/{trained.name}" in sums]
        metrics = self._means(sums)
        for trained in learning:
            self._check(f"loss/{trained.name}", metrics[f"loss/{trained.name}"])
        for trained in learning:
            average_gradients(list(trained.parameters.values()), self.accelerator)
            norm = trained.clip()
            if not trained.scaler.is_enabled():  # with it, steps of infinite gradients are left out
                self._check(f"grad/{trained.name}_norm", norm)
            metrics[f"grad/{trained.name}_norm"] = norm
        for trained in learning:
            metrics[f"lr/{trained.name}"] = trained.update(number)
        for trained in self.trained_modules:
            trained.forget_gradients()  # of those that rest, what another's loss left in them
        return metrics

    def _backward(self, number: int) -> dict[str, Tensor]:
        """Add the gradients of a step; (sum, count) of what its losses report, by name."""
        named = {trained.name: trained for trained in self.trained_modules}
        sums: dict[str, Tensor] = {}
        for k in range(self.accumulation):
            for loss in self.losses(number * self.accumulation + k):
                named[loss.learner].backward(loss.value / self.accumulation)
                _add(sums, {f"loss/{loss.learner}": loss.value.detach().reshape(1), **loss.metrics})
        return sums

    def _means(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Means over processes; NaN where nothing was reported. Every process reports the same names."""
        table = torch.stack([sums[name] for name in sorted(sums)])
        total = self.accelerator.reduce(table, reduction="sum").tolist()
        pairs = zip(sorted(sums), total, strict=True)
        return {name: value / count if count else math.nan for name, (value, count) in pairs}

    def _check(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise NumericsError(f"{name} is not finite", where=self.describe(), got=value)


def _add(sums: dict[str, Tensor], metrics: Mapping[str, Tensor]) -> None:
    """Add values to (sum, count) of each name."""
    for name, values in metrics.items():
        new = torch.stack([values.float().sum(), values.new_tensor(values.numel(), dtype=torch.float32)])
        sums[name] = sums[name] + new if name in sums else new
