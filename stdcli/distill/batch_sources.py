"""Where micro-batches come from: stored paths, noised data with a live teacher, or the online bank.

Each yields `Batch` for micro-batch n of a run, from n alone (the online bank: from its state), so that a
resumed run sees what an uninterrupted one does. Networks enter only as a function for the teacher's step.

Legend: B items, C latent channels, space: cells, h w of pictures and F h w of clips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from stdcli.bank.batches import BankBatch, iter_batches
from stdcli.bank.format import Manifest
from stdcli.bank.online_bank import OnlineBank
from stdcli.bank.order import PairOrder, PathLevelBatch, StagedOrder, draws_at
from stdcli.bank.reader import Bank
from stdcli.diffusion.combine import combine
from stdcli.diffusion.levels import Level, pick_levels
from stdcli.diffusion.noise import noise_from
from stdcli.diffusion.solvers import start_state
from stdcli.distill.batch import Batch
from stdcli.distill.method import Method
from stdcli.distill.own_states import OwnStates
from stdcli.distill.renoised import Renoised
from stdcli.errors import ConfigError
from stdcli.models.condition import Condition, split_conditions
from stdcli.runtime.seeding import fold

TeacherStep = Callable[[Tensor, Level, Level, Condition, Condition, Tensor], Tensor]
"""(states, their levels, lower levels, condition, unconditional, guidance float64 [B]) -> states there."""

HIDDEN = 0.1
"""Of a clean latent, that the rounding of stored states may come to where one is made of a path's start."""

RealLatents = Callable[[Tensor, Tensor], Tensor]
"""(numbers of B paths, their clean latents [B, C, *space]) -> clean latents of real pictures."""


class BatchSource(Protocol):
    """Micro-batches in order."""

    def batch(self, number: int) -> Batch:
        """Micro-batch `number` of this rank; numbers rise by one."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs beyond the number; may be empty."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken."""

    def close(self) -> None:
        """End threads."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run, and how much each takes.

    Attributes:
        batch_size: B.
        rank, num_ranks: of this process.
    """

    batch_size: int
    rank: int = 0
    num_ranks: int = 1

    @property
    def rates(self) -> dict[str, int]:
        """As `iter_batches` names them."""
        return {"batch_size": self.batch_size, "rank": self.rank, "num_ranks": self.num_ranks}


@dataclass
class BankSource:
    """States of a bank, or its samples noised afresh where the method asks for data.

    Attributes:
        bank: finished.
        method: draws s and says what to read.
        table: all levels by id.
        order: pairs of path and level.
        ranks: of this process.
        device: where batches go.
        teacher_step: for methods on data: the guided teacher.
        own_states: for methods on states of the student's own.
        renoised: for methods on data: puts the student's own among them; None leaves them.
        real_latents: for the adversary.
    """

    bank: Bank
    method: Method
    table: Sequence[Level]
    order: PairOrder | StagedOrder
    ranks: Ranks
    device: torch.device
    teacher_step: TeacherStep | None = None
    own_states: OwnStates | None = None
    renoised: Renoised | None = None
    real_latents: RealLatents | None = None
    _batches: Generator[BankBatch, None, None] | None = field(default=None, init=False)
    _next: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Refuse data that the bank does not tell.

        Raises:
            ConfigError: the method takes the styled samples, and the paths begin in noise that hides them.
        """
        if self.method.states == "data" and self._is_styled:
            _check_start(self.bank.manifest, self.table)

    def batch(self, number: int) -> Batch:
        """See `BatchSource`.

        Raises:
            BankCorruptError: a file has gone or changed.
        """
        if self._batches is None or number != self._next:
            self.close()
            self._batches = iter_batches(
                self.bank, self.order, self._choose, first_step=number, **self.ranks.rates
            )
        self._next = number + 1
        read = next(self._batches)
        cond, uncond = split_conditions(read.conditions, self.device)
        states = {name: self._to_device(value) for name, value in read.states.items()}
        ids = read.pairs.level_ids
        guidance = read.guidance.double()
        if self.method.states == "data":
            x, next_ids, following = self._noised(states, read), None, None
            if self.renoised is not None:
                x, ids = self.renoised.mix(x, ids, cond, sample_index=read.pairs.sample_index)
            if "next" in self.method.needs:
                next_ids = ids - 1
                levels = [pick_levels(self.table, which) for which in (ids, next_ids)]
                following = self.teacher_step(x, *levels, cond, uncond, guidance)
        elif self.method.states == "own":
            pairs, following, next_ids = read.pairs, None, None
            x, ids = self.own_states.make(
                states["start"], cond, draws=pairs.draws, sample_index=pairs.sample_index
            )
        else:
            x, following, next_ids = states["here"], states.get("next"), read.level_ids.get("next")
        target_ids = read.level_ids.get("target")
        if target_ids is None:
            target_ids = self._select(ids, read.pairs)
        return Batch(
            sample_ids=read.sample_ids,
            sample_index=read.pairs.sample_index,
            level_ids=ids,
            target_ids=target_ids,
            states=x,
            next_ids=next_ids,
            next_states=following,
            targets=states.get("target"),
            real_latents=None
            if self.real_latents is None
            else self.real_latents(read.pairs.paths, self._to_device(read.x0)),
            cond=cond,
            uncond=uncond,
            guidance=guidance,
        )

    def state(self) -> dict[str, Tensor]:
        """Nothing: the number says it all."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""

    def close(self) -> None:
        """End the reading thread."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def _choose(self, pairs: PathLevelBatch) -> Mapping[str, Tensor]:
        if self.method.states != "path":
            start = torch.full_like(pairs.level_ids, self.bank.level_ids[0])
            return {"start": start} if self._is_styled or self.method.states == "own" else {}
        chosen = {"here": pairs.level_ids}
        if "next" in self.method.needs:
            chosen["next"] = _next_stored(self.bank.level_ids, pairs.level_ids)
        if "target" in self.method.needs:
            chosen["target"] = self._select(pairs.level_ids, pairs)
        return chosen

    def _select(self, level_ids: Tensor, pairs: PathLevelBatch) -> Tensor:
        return self.method.target_sampler.of_stage(pairs.stage).select(level_ids, pairs.draws)

    def _to_device(self, value: Tensor) -> Tensor:
        return value.to(self.device, torch.float32)

    @property
    def _is_styled(self) -> bool:
        """Whether paths begin from something else than the samples."""
        return self.bank.manifest.start["transform"] != "none"

    def _noised(self, states: Mapping[str, Tensor], read: BankBatch) -> Tensor:
        """The samples as their paths began, T(x0), under fresh noise at their levels."""
        if self._is_styled:
            start, level = states["start"], self.table[self.bank.level_ids[0]]
            old = torch.stack([noise_from(start.shape[1:], seed) for seed in read.noise_seeds.tolist()])
            clean = combine((1 / level.alpha, start), (-level.sigma / level.alpha, old.to(self.device)))
        else:
            clean = self._to_device(read.x0)
        fresh = [fold(self.order.seed, "data noise", number) for number in read.pairs.sample_index.tolist()]
        noise = torch.stack([torch.randn(clean.shape[1:], generator=generator) for generator in fresh])
        return start_state(clean, noise, pick_levels(self.table, read.pairs.level_ids))


@dataclass
class OnlineSource:
    """States of the paper's online bank.

    Attributes:
        online: walks the teacher's paths.
        method: draws s; reads "next" only.
        ranks: of this process.
        seed: of the draws.
        device: where batches go.
        real_latents: for the adversary; is given sample numbers.
    """

    online: OnlineBank
    method: Method
    ranks: Ranks
    seed: int
    device: torch.device
    real_latents: RealLatents | None = None

    def batch(self, number: int) -> Batch:
        """See `BatchSource`.

        Raises:
            NumericsError: the teacher's states hold NaN or infinity.
        """
        made = self.online.batch(number, self.ranks.batch_size)
        first = (number * self.ranks.num_ranks + self.ranks.rank) * self.ranks.batch_size
        sample_index = torch.arange(first, first + self.ranks.batch_size)
        draws = torch.stack([draws_at(self.seed, place) for place in sample_index.tolist()])
        cond, uncond = split_conditions(made.conditions, self.device)
        x0 = made.x0.to(self.device, torch.float32)
        return Batch(
            sample_ids=made.sample_numbers,
            sample_index=sample_index,
            level_ids=made.level_ids,
            target_ids=self.method.target_sampler.select(made.level_ids, draws),
            states=made.states.to(self.device, torch.float32),
            next_ids=made.next_level_ids,
            next_states=made.next_states.to(self.device, torch.float32),
            targets=None,
            real_latents=None if self.real_latents is None else self.real_latents(made.sample_numbers, x0),
            cond=cond,
            uncond=uncond,
            guidance=made.guidance,
        )

    def state(self) -> dict[str, Tensor]:
        """Slots and counters."""
        return self.online.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        self.online.restore(state)

    def close(self) -> None:
        """There are no threads."""


def _check_start(manifest: Manifest, table: Sequence[Level]) -> None:
    """Refuse a start that holds too little of the styled sample for its rounding."""
    rounding = torch.finfo(getattr(torch, manifest.store_dtype)).eps
    if rounding <= HIDDEN * table[manifest.level_ids[0]].alpha:
        return
    lower = next(level for level in reversed(table) if rounding <= HIDDEN * level.alpha)
    is_vp = isinstance(lower.t, int)
    strength = lower.id / manifest.num_solver_steps if is_vp else math.floor(lower.sigma * 1000) / 1000
    problem = f"level {manifest.level_ids[0]} holds next to nothing of a sample moved towards its style"
    raise ConfigError(
        "these paths begin in noise that hides their samples",
        [("bank", problem)],
        hint=f"--method std, or a bank of --strength {strength:g} or less, or of --set start=none",
    )


def _next_stored(stored: Sequence[int], ids: Tensor) -> Tensor:
    """The next lower stored level of each."""
    below = dict(pairwise(stored))
    return torch.tensor([below[id_] for id_ in ids.tolist()])
