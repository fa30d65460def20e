"""What a run will take, from two steps of it in memory."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from stdcli.config.distill import DistillConfig
from stdcli.distill.setup import Training
from stdcli.distill.space import checkpoint_bytes, run_bytes
from stdcli.runtime.memory import peak_bytes
from stdcli.training.loop import Loop

STEPS = 2


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        memory_bytes: highest use so far: of the GPU, or of this process.
        disk_bytes: checkpoints there at once while one is written, and the student.
        step_s: of one step, once warm.
        hours: of all steps.
    """

    memory_bytes: int
    disk_bytes: int
    step_s: float
    hours: float

    def line(self) -> str:
        """For the user."""
        return (
            f"{self.memory_bytes / 2**20:.0f} MiB of memory, {self.disk_bytes / 1e6:.0f} MB of disk, "
            f"{self.step_s:.2f} s a step, {self.hours:.2f} h in all (measured on {STEPS} steps)"
        )


def measure(config: DistillConfig, training: Training, loop: Loop) -> Estimate:
    """Take two steps and say what the whole run takes. The training is spent afterwards.

    Raises:
        NumericsError: a loss or gradient is not finite.
    """
    device = training.networks.device
    try:
        taken_s = []
        for step in range(STEPS):
            began_s = time.perf_counter()
            loop.step(step)
            training.after_step()
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
    )
