"""What a run takes of the disk, and what training full weights takes of memory: told before it begins."""

from __future__ import annotations

import torch

from stdcli.config.distill import DistillConfig
from stdcli.config.distill_methods import find_method
from stdcli.disk.space import check_space
from stdcli.distill.setup import Training
from stdcli.errors import ResourceError
from stdcli.runtime.free_memory import measure_room
from stdcli.training.run_folder import KEPT_CHECKPOINTS, RunFolder

MOMENTS = 2  # of Adam, per value
STORED = 2  # bytes of a value of a student's file, float16
HINT = "--student lora takes a hundredth; or choose an --out on a larger disk"


def checkpoint_bytes(training: Training) -> int:
    """Of a checkpoint once the optimisers have taken a step: all its tensors."""
    total = sum(value.nbytes for value in training.task.source.state().values())
    for trained in training.trained_modules:
        total += sum((1 + MOMENTS) * value.nbytes + 4 for value in trained.parameters.values())
        total += sum(value.nbytes for value in trained.buffers.values())
        total += 16 * trained.scaler.is_enabled()
    averages = (value for ema in training.ema.values() for value in ema.average.values())
    return total + sum(value.nbytes for value in averages)


def run_bytes(checkpoint: int, values: int) -> int:
    """What a run keeps at once: while a checkpoint is written, those that are kept and it; and the student.

    Args:
        checkpoint: bytes of one.
        values: of the student.
    """
    return (KEPT_CHECKPOINTS + 1) * checkpoint + STORED * values


def check_disk(folder: RunFolder, training: Training) -> None:
    """Refuse a run that the disk cannot hold, beside what it holds of it already.

    Raises:
        ResourceError: it is too small.
    """
    values = sum(value.numel() for value in training.exported().values())
    _check_disk(folder, run_bytes(checkpoint_bytes(training), values))


def check_full(config: DistillConfig, folder: RunFolder | None, *, values: int, device: torch.device) -> str:
    """Refuse full weights that will not fit, before they are loaded.

    Args:
        config: of the run.
        folder: of the run; None where nothing will be written.
        values: of the network that is trained.
        device: where it will be.

    Returns:
        What the user should know: what training takes.

    Raises:
        ResourceError: not enough memory for the states, or a disk too small for the checkpoints.
    """
    averages = (config.train.average_decay > 0) + (config.std.target_weights == "average")
    method = find_method(config.method)
    averages += method.keeps_stage_weights
    trained = 1 + len(method.further_roles)
    # weights, gradients, moments, averages: float32
    states = 4 * values * ((2 + MOMENTS) * trained + averages)
    disk = run_bytes(4 * values * ((1 + MOMENTS) * trained + averages), values)
    takes = f"{states / 1e9:.1f} GB of states in memory, {disk / 1e9:.1f} GB of disk"
    room = measure_room()
    free = room.free_bytes + room.swap_bytes
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    if states > free:
        raise ResourceError(
            "not enough memory to train full weights",
            where=device,
            got=f"{free / 1e9:.1f} GB free",
            expected=f"{takes}: weights, gradients, moments, averages",
            hint="--student lora",
        )
    if folder is not None:
        _check_disk(folder, disk)
    return f"full weights: {takes}"


def _check_disk(folder: RunFolder, needed: int) -> None:
    written = sum(path.stat().st_size for _, path in folder.checkpoints() if path.is_file())
    check_space(folder.root, needed - written, what="the disk is too small for the run", hint=HINT)
