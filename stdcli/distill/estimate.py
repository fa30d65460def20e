"""What a run will take, from two steps of it in memory."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from stdcli.config.distill import DistillConfig
from stdcli.distill.distillation import Distillation
from stdcli.distill.requirements import checkpoint_bytes, run_bytes
from stdcli.distill.saved_activations import count_saved
from stdcli.distill.setup import Training
from stdcli.runtime.peak_memory import peak_bytes

STEPS = 2
PASSING = 0.2
"""What comes and goes within an operation, as a share of the activations."""
LIBRARIES_BYTES = 2**30
"""What CUDA and its libraries take of a GPU for themselves."""
GPU_BYTES = 24 * 2**30


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        memory_bytes: highest use so far: of the GPU, or of this process.
        disk_bytes: checkpoints there at once while one is written, and the student.
        step_s: of one step, once warm.
        hours: of all steps.
        weight_bytes: of all networks but what is trained.
        state_bytes: of what is trained: weights, gradients, the optimisers' moments, averages.
        activation_bytes: what autograd keeps for the backward pass, at this batch, resolution and dtype.
    """

    memory_bytes: int
    disk_bytes: int
    step_s: float
    hours: float
    weight_bytes: int
    state_bytes: int
    activation_bytes: int

    @property
    def gpu_bytes(self) -> int:
        """What a GPU must have: weights, states, activations and a fifth more, 1 GiB for its libraries."""
        activations = int((1 + PASSING) * self.activation_bytes)
        return self.weight_bytes + self.state_bytes + activations + LIBRARIES_BYTES

    @property
    def fits_24gb(self) -> bool:
        """Whether a GPU of 24 GB has room."""
        return self.gpu_bytes <= GPU_BYTES

    def elsewhere(self) -> str:
        """What it takes on other hardware, for the user."""
        weights, states, saved, total = (
            f"{count / 2**30:.2f}"
            for count in (self.weight_bytes, self.state_bytes, self.activation_bytes, self.gpu_bytes)
        )
        return (
            f"on a GPU: {total} GiB (weights {weights}, states {states}, activations {saved} and a fifth, "
            f"1 for its libraries): a GPU of 24 GB {'has room' if self.fits_24gb else 'is too small'}"
        )

    def line(self) -> str:
        """For the user."""
        return (
            f"{self.memory_bytes / 2**20:.0f} MiB of memory, {self.disk_bytes / 1e6:.0f} MB of disk, "
            f"{self.step_s:.2f} s a step, {self.hours:.2f} h in all (measured on {STEPS} steps)"
        )


def measure(config: DistillConfig, distillation: Distillation) -> Estimate:
    """Take two steps and say what the whole run takes. The training is spent afterwards.

    Raises:
        NumericsError: a loss or gradient is not finite.
    """
    training = distillation.training
    device = training.roles.device
    weights = _weights(training)
    try:
        taken_s = []
        with count_saved(weights) as saved:
            for step in range(STEPS):
                began_s = time.perf_counter()
                distillation.train_step(step)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                taken_s.append(time.perf_counter() - began_s)
    finally:
        training.task.source.close()
    values = sum(value.numel() for value in training.exported().values())
    return Estimate(
        memory_bytes=peak_bytes(device),
        disk_bytes=run_bytes(checkpoint_bytes(training), values),
        step_s=taken_s[-1],
        hours=(taken_s[0] + (config.train.steps - 1) * taken_s[-1]) / 3600,
        weight_bytes=_frozen_bytes(training, weights),
        state_bytes=checkpoint_bytes(training) + sum(value.nbytes for value in _trained(training)),
        activation_bytes=saved.peak_bytes,
    )


def _trained(training: Training) -> list[Tensor]:
    return [value for trained in training.trained_modules for value in trained.parameters.values()]


def _weights(training: Training) -> list[Tensor]:
    """Of every network of a run, trained or not; of a rollout's codec and encoders see `_frozen_bytes`."""
    modules = [training.roles.module]
    adversarial = training.task.terms.adversarial
    if adversarial is not None:
        parts = vars(adversarial.adversary.features).values()
        modules += [getattr(part, "vae", part) for part in parts]  # DINOv2, and the codec before it
    modules = [module for module in modules if isinstance(module, torch.nn.Module)]
    values = [value for module in modules for value in (*module.parameters(), *module.buffers())]
    values += [value for trained in training.trained_modules for value in trained.buffers.values()]
    values += _trained(training)
    return [*{id(value): value for value in values}.values()]


def _frozen_bytes(training: Training, weights: list[Tensor]) -> int:
    trained = {id(value) for value in _trained(training)}
    frozen = sum(value.nbytes for value in weights if id(value) not in trained)
    rollout = training.paths.rollout
    if rollout is None:
        return frozen
    network = rollout.bundle.network
    parts = network.need
    return frozen + parts.weight_bytes - parts.parts[network.family.part] * parts.choice.dtype.itemsize
