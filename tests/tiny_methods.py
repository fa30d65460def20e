"""A network with a known answer, and banks of the paths that it walks: the truth in plain numbers.

For data N(m, std^2) the noise in a state is known exactly; m is the mean of the condition's tokens. Nothing
here uses the toolkit's arithmetic: tests hold what the toolkit makes against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import finished, write_manifest
from stdcli.bank.reader import Bank
from stdcli.bank.shard import StoredPaths, write_shard
from stdcli.diffusion.predictions import PredictionType
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.distill.learner import EMA_STUDENT
from stdcli.distill.roles import Roles
from stdcli.models.condition import Condition
from tests.tiny_banks import changed

SD = NoiseSchedule.scaled_linear(0.00085, 0.012, 1000)
ABAR = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0).tolist()
STD, TEACHER_STD, AVERAGE_STD = 0.4, 0.7, 0.9
NUM_PATHS, START, SHAPE = 5, 37, (2, 3, 3)


def time_of(level_id: int) -> int:
    """Model time of a level of 50."""
    return 20 * level_id - 1 if level_id else 0


def scales(t: int) -> tuple[float, float]:
    """alpha and sigma."""
    return ABAR[t] ** 0.5, (1 - ABAR[t]) ** 0.5


def noise_in(x: Tensor, t: int, *, mean: float, std: float | Tensor) -> Tensor:
    """The noise in one state at time t, of data N(mean, std^2)."""
    alpha, sigma = scales(t)
    return sigma * (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)


def moved(x: Tensor, eps: Tensor, t: int, target_time: int) -> Tensor:
    """One state moved from time t to another along the noise in it."""
    (alpha, sigma), (to_alpha, to_sigma) = scales(t), scales(target_time)
    return to_alpha * (x - sigma * eps) / alpha + to_sigma * eps


def taught(x: Tensor, t: int, *, mean: float, unmean: float, guidance: float) -> Tensor:
    """The noise that the guided teacher sees."""
    cond, uncond = (noise_in(x, t, mean=m, std=TEACHER_STD) for m in (mean, unmean))
    return uncond + guidance * (cond - uncond)


class Known(nn.Module):
    """Stands where a student does; predicts noise. Its teacher has the data's other `std`."""

    kind, has_target_time, teacher = "lora", True, None

    def __init__(self) -> None:
        super().__init__()
        self.std = nn.Parameter(torch.tensor(STD, dtype=torch.float64))
        self.asked: list[tuple[list[int], list[int] | None, int]] = []
        self._std: float | Tensor | None = None

    def trainable(self) -> dict[str, nn.Parameter]:
        return {"std": self.std}

    def forward(
        self, x: Tensor, t: Tensor | float, condition: Condition, *, target_time: Tensor | float | None = None
    ) -> Tensor:
        times = torch.as_tensor(t).expand(len(x)).tolist()
        targets = None if target_time is None else torch.as_tensor(target_time).expand(len(x)).tolist()
        self.asked.append((times, targets, len(x)))
        means = condition.expand(len(x)).encoder_hidden_states.double().mean((1, 2)).tolist()
        std = self.std if self._std is None else self._std
        rows = [noise_in(x[k].double(), times[k], mean=means[k], std=std) for k in range(len(x))]
        return torch.stack(rows)

    @contextmanager
    def as_teacher(self) -> Iterator[None]:
        with self._with(TEACHER_STD):
            yield

    @contextmanager
    def using(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        with self._with(weights["std"]):
            yield

    @contextmanager
    def _with(self, std: float | Tensor) -> Iterator[None]:
        before, self._std = self._std, std
        try:
            yield
        finally:
            self._std = before


def roles_of(student: nn.Module | None = None, *, ema: float | None = None) -> Roles:
    """The networks of a run around `Known`."""
    student = student or Known()
    weights = {} if ema is None else {EMA_STUDENT: {"std": torch.tensor(ema, dtype=torch.float64)}}
    kind = PredictionType.EPSILON
    return Roles(student, kind, SD, torch.device("cpu"), autocast=nullcontext, weights=weights)


def mean_of(path: int) -> float:
    """Mean of the data that a path's condition speaks of."""
    return 0.3 + 0.2 * path


def unmean_of(path: int) -> float:
    """The same of its unconditional one."""
    return -0.1 * path - 0.05


def guidance_of(path: int) -> float:
    return 1.0 + path


def condition_of(means: Sequence[float]) -> Condition:
    """Conditions that speak of these means."""
    tokens = torch.tensor(means, dtype=torch.float64)[:, None, None].expand(-1, 2, 3)
    return Condition(tokens + torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))


def start_of(x0: Tensor) -> Tensor:
    """What these banks do to samples before the noise."""
    return 1.2 * x0 + 0.3


def draw(path: int, *, what: int = 0) -> Tensor:
    """float32 of SHAPE."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(7919 * what + path))


def x0_of(path: int) -> Tensor:
    return 0.5 * draw(path, what=1)


def path_of(path: int) -> dict[int, Tensor]:
    """All states of a path, float64, by level."""
    alpha, sigma = scales(time_of(START))
    states = {START: alpha * start_of(x0_of(path).double()) + sigma * draw(path).double()}
    told = {"mean": mean_of(path), "unmean": unmean_of(path), "guidance": guidance_of(path)}
    for level in range(START, 0, -1):
        t, x = time_of(level), states[level]
        states[level - 1] = moved(x, taught(x, t, **told), t, time_of(level - 1))
    return states


def write_known_bank(
    root: Path, *, kept: Sequence[int] = range(START, -1, -1), transform: str = "colours", **fields: object
) -> Bank:
    """A finished bank of the teacher's paths.

    Args:
        root: its folder.
        kept: levels that are stored.
        transform: what its manifest calls `start_of`.
        fields: others of the manifest; a `latent_shape` has as many values as SHAPE.
    """
    levels = []
    for level in kept:
        alpha, sigma = scales(time_of(level))
        levels.append({"id": level, "t": time_of(level), "alpha": alpha, "sigma": sigma})
    known = {"strength": 0.75, "num_solver_steps": 50, "latent_shape": SHAPE, "store_dtype": "float32"}
    known |= {"num_paths": NUM_PATHS, "shard_size": 2, "start": {"transform": transform}}
    manifest = changed(levels=tuple(levels), **(known | fields))
    files = BankFiles(root)
    write_manifest(files, manifest)
    for index in range(manifest.num_shards):
        numbers = manifest.paths_of(index)
        write_shard(files, manifest, index, _stored(numbers, kept, manifest.latent_shape))
    write_manifest(files, finished(manifest))
    return Bank(root)


def _stored(numbers: Sequence[int], kept: Sequence[int], shape: Sequence[int]) -> StoredPaths:
    walks = [path_of(k) for k in numbers]
    return StoredPaths(
        states=torch.stack([torch.stack([walk[j].reshape(shape) for j in kept]) for walk in walks]).float(),
        x0=torch.stack([x0_of(k).reshape(shape) for k in numbers]),
        guidance=torch.tensor([guidance_of(k) for k in numbers], dtype=torch.float32),
        noise_seed=torch.tensor(list(numbers)),
        sample_id=torch.tensor([100 + k for k in numbers]),
        conditions=[
            {
                "cond.encoder_hidden_states": condition_of([mean_of(k)]).encoder_hidden_states[0],
                "uncond.encoder_hidden_states": condition_of([unmean_of(k)]).encoder_hidden_states[0],
            }
            for k in numbers
        ],
        sources=[{"sample_id": 100 + k, "source": f"{k}.png"} for k in numbers],
    )


def gradient(value: Callable[[Tensor], Tensor], at: float) -> float:
    """Derivative of a scalar function, by autograd of plain torch."""
    point = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    return float(torch.autograd.grad(value(point), point)[0])
