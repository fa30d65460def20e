"""The paper's online bank: slots that walk down the teacher's paths while the student learns from them.

A slot owns all that belongs to its path: clean latent, conditions, guidance and sample number. They change
together, when the path ends. The module does not know what the conditions mean, nor networks, pictures or
files: new samples and the teacher's step are handed in as functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from stdcli.diffusion.levels import Level, SamplingPath, pick_levels
from stdcli.errors import NumericsError
from stdcli.runtime.seeding import fold

_CONDITION = "condition."
_SLOTS = "slots."
_SPARE = "spare."
_COUNTERS = ("_drawn", "_rounds", "next_step", "stagger_steps", "teacher_steps")
_FIXED = ("queue", "counters", "identity", "path")
_RULES = 2
"""Which way slots and spare go; a bank of another way would go on otherwise. In every state since 2."""


@dataclass(frozen=True, slots=True)
class PathStart:
    """Where a path begins.

    Attributes:
        x0: [C, *space], clean latent.
        state: [C, *space] at the start level, alpha T(x0) + sigma noise.
        conditions: name -> tensor of one row, of any dtype, without a batch dimension; those of the
            unconditional branch too. Every start of a bank has the same names, shapes and dtypes.
        guidance: of the whole path, in whatever form `Step` takes.
    """

    x0: Tensor
    state: Tensor
    conditions: Mapping[str, Tensor]
    guidance: float


Draw = Callable[[int], PathStart]
"""Sample number -> its start; the same number always gives the same start."""

Step = Callable[[Tensor, Level, Level, Mapping[str, Tensor], Tensor], Tensor]
"""(states [B, C, *space], their levels, the levels one below, conditions of [B, ...], guidance float64 [B] on
the CPU) -> states one level down. Levels are of `pick_levels`. Must not write into what it is given."""


@dataclass(frozen=True, slots=True)
class TrajectoryBatch:
    """States of B different paths, each with all that belongs to its own path.

    Attributes:
        states: [B, C, *space], x_j.
        next_states: [B, C, *space], x_{j-1}: the guided teacher's step from `states`.
        level_ids: int64 [B], j in 1..start level, on the CPU.
        next_level_ids: int64 [B], j - 1.
        x0: [B, C, *space], clean latents.
        conditions: name -> [B, ...].
        guidance: float64 [B], on the CPU.
        sample_numbers: int64 [B], on the CPU.
    """

    states: Tensor
    next_states: Tensor
    level_ids: Tensor
    next_level_ids: Tensor
    x0: Tensor
    conditions: dict[str, Tensor]
    guidance: Tensor
    sample_numbers: Tensor


class OnlineBank:
    """M slots, one teacher step per item of a batch, nothing else to pay but the staggered start.

    Before the first batch slot m walks m K // M of the path's K steps, so that the levels are spread evenly
    over the path. Slots are drawn in rounds: each comes once per round, in a random order, so none starves,
    and with rate 1 every level 1..K is an input exactly as often as any other. A path that comes to level 0
    gives its slot to the next sample at once.

    With rate < 1 the other items of a batch begin new paths beside the slots, which move only when they are
    drawn. The last such path is kept as the one spare: the next slot whose path ends goes on with it, from
    one level below the start, in place of a new sample. With q the share of ended paths that find no spare,
    the start level is 1 - rate + rate q / (K - 1 + q) of all inputs, every other level rate / (K - 1 + q).

    Batches depend on the seed, the rank, the sizes of the batches before and, if rate < 1, on the step
    indices. `state` and `restore` carry a bank over an interruption bit for bit.

    Args:
        draw: makes samples. The k-th sample of a rank is number k x num_ranks + rank: ranks share none.
        step: the guided teacher's jump one level down.
        path: of `make_teacher_path`: K levels with ids K down to 1, then level 0.
        num_slots: M >= 1; 8 per item of a batch and more keep the items of a batch independent.
        seed: base seed, in 0..2^63-1.
        rank: in 0..num_ranks-1.
        num_ranks: >= 1.
        rate: the paper's rho in [0, 1]: how often an item is a slot's. Otherwise it is a new path at its
            start level. With rate 0 the start is not staggered.
        dtype: of states and x0 as kept and returned; conditions keep their own.
        device: of states, x0 and conditions.

    Attributes:
        next_step: the lowest step index that `batch` still takes.
        stagger_steps: states moved one level down by the teacher for the staggered start.
        teacher_steps: the same in all, the staggered start included.

    Raises:
        ValueError: an argument is out of range, or the path leaves levels out.
    Source: STD (trajectory bank); Song 2021 for the path.
    """

    def __init__(
        self,
        draw: Draw,
        step: Step,
        *,
        path: SamplingPath,
        num_slots: int,
        seed: int,
        rank: int = 0,
        num_ranks: int = 1,
        rate: float = 1.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        ids = [level.id for level in path.levels]
        if ids != list(range(path.evaluations, -1, -1)):
            raise ValueError(f"a bank walks every level down to 0, and this path visits {ids}")
        if num_slots < 1:
            raise ValueError(f"a bank needs at least one slot, not {num_slots}")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed {seed} is not in 0..2^63-1")
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank {rank} is not in 0..{num_ranks - 1}")
        if not 0 <= rate <= 1:
            raise ValueError(f"rate {rate} is not in [0, 1]")
        if not dtype.is_floating_point:
            raise ValueError(f"states cannot be kept in {dtype}")
        self.num_slots, self.rate = num_slots, rate
        self.next_step = self.stagger_steps = self.teacher_steps = 0
        self._draw, self._step = draw, step
        self._seed, self._rank, self._num_ranks = seed, rank, num_ranks
        self._dtype, self._device = dtype, torch.device(device)
        self._start_id = path.evaluations
        self._table = path.levels[::-1]
        self._columns: dict[str, Tensor] = {}
        self._spare: dict[str, Tensor] = {}
        self._drawn = self._rounds = 0
        self._queue = torch.empty(0, dtype=torch.int64)

    @torch.no_grad()
    def batch(self, step_index: int, batch_size: int) -> TrajectoryBatch:
        """States of different slots, or at the start of new paths, moved one level down by the teacher.

        Args:
            step_index: at least `next_step`: a bank does not go back.
            batch_size: B in 1..M; the staggered start takes the first one's for its own batches.

        Returns:
            A batch that shares no memory with the bank. When anything raises, the bank is as before.

        Raises:
            ValueError: an argument is out of range, or a start or the teacher's states do not fit the others.
            NumericsError: the teacher's states hold NaN or infinity as kept; names sample and level.
        """
        if step_index < self.next_step:
            raise ValueError(f"the bank is past step {step_index}; the next is {self.next_step}")
        if not 1 <= batch_size <= self.num_slots:
            raise ValueError(f"batches of {batch_size} are not in 1..{self.num_slots}, the bank's slots")
        if not self._columns:
            self._fill(batch_size)
        before = self._queue, self._rounds, self._drawn, self.teacher_steps
        try:
            batch = self._next_batch(step_index, batch_size)
        except BaseException:
            self._queue, self._rounds, self._drawn, self.teacher_steps = before
            raise
        self.next_step = step_index + 1
        return batch

    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint needs: CPU tensors that share no memory with the bank."""
        counters = [getattr(self, name) for name in _COUNTERS]
        state = {f"{_SLOTS}{name}": column for name, column in self._columns.items()}
        state |= {f"{_SPARE}{name}": row for name, row in self._spare.items()}
        state |= {"queue": self._queue, "counters": torch.tensor(counters), **self._identity()}
        return {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken.

        Raises:
            ValueError: it is of an older version, of a bank with another path, seed, rank, number of ranks or
                slots, or dtype, or incomplete. The bank is as before then.
        """
        if "rules" not in state or state["rules"].tolist() != [_RULES]:
            raise ValueError(
                "the online bank of this checkpoint goes by other rules than this version's, and cannot go on"
            )
        missing = set(_FIXED) - set(state)
        if missing:
            raise ValueError(f"the bank's state lacks {', '.join(sorted(missing))}")
        for name, ours in self._identity().items():
            if not torch.equal(state[name], ours):
                raise ValueError(f"another bank's state: {name} {state[name].tolist()}, not {ours.tolist()}")
        columns, spare = (_under(prefix, state) for prefix in (_SLOTS, _SPARE))
        self._check_columns(columns, spare)
        if state["counters"].shape != (len(_COUNTERS),):
            raise ValueError(f"{state['counters'].numel()} counters are not the bank's {len(_COUNTERS)}")
        self._columns, self._spare = (
            {name: column.to(self._place(name), copy=True) for name, column in rows.items()}
            for rows in (columns, spare)
        )
        self._queue = state["queue"].to("cpu", copy=True)
        for name, value in zip(_COUNTERS, state["counters"].tolist(), strict=True):
            setattr(self, name, value)

    def _next_batch(self, step_index: int, batch_size: int) -> TrajectoryBatch:
        """The batch itself. Columns and spare change last."""
        generator = fold(self._seed, "online bank", "rate", self._rank, step_index)
        is_new = torch.rand(batch_size, generator=generator, dtype=torch.float64) >= self.rate
        slots = self._choose(int((~is_new).sum()))
        slot_index = torch.zeros(batch_size, dtype=torch.int64).masked_scatter(~is_new, slots)
        rows = {name: _at(column, slot_index) for name, column in self._columns.items()}
        rows = self._with_starts(rows, is_new)
        moved = self._moved(rows)
        kept, spare = self._refilled(moved, is_new)
        _put(self._columns, slots, kept)
        self._spare = spare
        return TrajectoryBatch(
            states=rows["states"],
            next_states=moved["states"],
            level_ids=rows["level_ids"],
            next_level_ids=moved["level_ids"],
            x0=rows["x0"],
            conditions=_conditions(rows),
            guidance=rows["guidance"],
            sample_numbers=rows["sample_numbers"],
        )

    def _identity(self) -> dict[str, Tensor]:
        path = [[level.t, level.alpha, level.sigma] for level in self._table]
        return {
            "rules": torch.tensor([_RULES]),
            "identity": torch.tensor([self._seed, self._rank, self._num_ranks, self.num_slots]),
            "path": torch.tensor(path, dtype=torch.float64),
        }

    def _check_columns(self, columns: Mapping[str, Tensor], spare: Mapping[str, Tensor]) -> None:
        if spare and {name: row.shape for name, row in spare.items()} != {
            name: (1, *column.shape[1:]) for name, column in columns.items()
        }:
            raise ValueError("the spare path of the bank's state is not of the form of its slots")
        if not columns:
            return
        missing = {"states", "x0", "level_ids", "guidance", "sample_numbers"} - set(columns)
        if missing:
            raise ValueError(f"the bank's state lacks {', '.join(sorted(missing))}")
        for name, column in columns.items():
            if len(column) != self.num_slots:
                raise ValueError(f"the bank has {self.num_slots} slots, and {name} has {len(column)} rows")
        if columns["states"].dtype != self._dtype:
            raise ValueError(f"states were kept in {columns['states'].dtype}, and now it is {self._dtype}")

    def _place(self, name: str) -> torch.device:
        """Where a column is kept: what decides about the flow of work on the CPU, tensors on the device."""
        is_small = name in ("level_ids", "guidance", "sample_numbers")
        return torch.device("cpu") if is_small else self._device

    def _fill(self, batch_size: int) -> None:
        """Give every slot a path, and spread them over the levels."""
        self._drawn = self.teacher_steps = 0  # whatever an earlier attempt counted before it failed
        rows = self._starts(self.num_slots)
        depths = torch.arange(self.num_slots) * self._start_id // self.num_slots
        if self.rate == 0:
            depths.zero_()
        for depth in range(1, int(depths.max()) + 1):
            for slots in torch.nonzero(depths >= depth).flatten().split(batch_size):
                _put(rows, slots, self._moved({name: _at(column, slots) for name, column in rows.items()}))
        self.stagger_steps = self.teacher_steps
        self._columns = rows

    def _choose(self, count: int) -> Tensor:
        """`count` different slots, int64: what is left of this round, then the first of the next."""
        left = self._queue
        if len(left) < count:
            generator = fold(self._seed, "online bank", "round", self._rank, self._rounds)
            order = torch.randperm(self.num_slots, generator=generator)
            self._rounds += 1
            early = order[~torch.isin(order, left)][: count - len(left)]
            self._queue = order[~torch.isin(order, early)]
            return torch.cat([left, early])
        self._queue = left[count:]
        return left[:count]

    def _starts(self, count: int) -> dict[str, Tensor]:
        """Columns of the next `count` samples, at the start level."""
        numbers = [(self._drawn + k) * self._num_ranks + self._rank for k in range(count)]
        rows = [self._start_row(number) for number in numbers]
        wanted = {name: (column.dtype, column.shape[1:]) for name, column in self._columns.items()}
        for number, row in zip(numbers, rows, strict=True):
            form = {name: (value.dtype, value.shape) for name, value in row.items()}
            wanted = wanted or form
            if form != wanted:
                raise ValueError(
                    f"the start of sample {number} has other names, shapes or dtypes than others"
                )
        self._drawn += count
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _start_row(self, number: int) -> dict[str, Tensor]:
        """One row of every column."""
        start = self._draw(number)
        if start.state.shape != start.x0.shape:
            raise ValueError(f"sample {number}: state {tuple(start.state.shape)}, x0 {tuple(start.x0.shape)}")
        conditions = {f"{_CONDITION}{name}": row.to(self._device) for name, row in start.conditions.items()}
        return {
            "states": start.state.to(self._device, self._dtype),
            "x0": start.x0.to(self._device, self._dtype),
            "level_ids": torch.tensor(self._start_id),
            "guidance": torch.tensor(start.guidance, dtype=torch.float64),
            "sample_numbers": torch.tensor(number),
            **conditions,
        }

    def _with_starts(self, rows: dict[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
        """Rows with new samples where bool [B] `chosen` is set; rows handed out before stay as they are."""
        where = torch.nonzero(chosen).flatten()
        if not len(where):
            return rows
        starts = self._starts(len(where))
        return {name: row.index_put((where.to(row.device),), starts[name]) for name, row in rows.items()}

    def _refilled(
        self, moved: dict[str, Tensor], is_new: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The slots' rows with a path under way in each, and the spare for later; of rows just moved."""
        new, spare = torch.nonzero(is_new).flatten(), self._spare
        if len(new):
            spare = {name: _at(row, new[-1:]) for name, row in moved.items()}
        kept = {name: _at(row, torch.nonzero(~is_new).flatten()) for name, row in moved.items()}
        ended = torch.nonzero(kept["level_ids"] == 0).flatten()
        if spare and len(ended):
            _put(kept, ended[:1], spare)
            spare = {}
        return self._with_starts(kept, kept["level_ids"] == 0), spare

    def _moved(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rows after one teacher step each."""
        ids, states = rows["level_ids"], rows["states"]
        level, next_level = pick_levels(self._table, ids), pick_levels(self._table, ids - 1)
        made = self._step(states, level, next_level, _conditions(rows), rows["guidance"])
        if made.shape != states.shape:
            raise ValueError(f"the teacher made {tuple(made.shape)} of states {tuple(states.shape)}")
        # a copy: what a step returns may be its own buffer, its input, or of inference mode
        made = made.to(self._device, self._dtype, copy=True)
        is_finite = torch.isfinite(made).flatten(1).all(1).cpu()
        if not bool(is_finite.all()):
            first = int(torch.nonzero(~is_finite)[0])
            raise NumericsError(
                "the teacher's states hold NaN or infinity",
                where=f"sample {int(rows['sample_numbers'][first])}, level {int(ids[first])} to the next",
                got=f"{int((~is_finite).sum())} of {len(is_finite)} states not finite in {self._dtype}",
                expected="finite values",
                hint="keep states in float32, or use a lower guidance",
            )
        self.teacher_steps += len(ids)
        return {**rows, "states": made, "level_ids": ids - 1}


def _at(column: Tensor, slots: Tensor) -> Tensor:
    return column[slots.to(column.device)]


def _put(columns: dict[str, Tensor], slots: Tensor, rows: dict[str, Tensor]) -> None:
    for name, column in columns.items():
        column[slots.to(column.device)] = rows[name]


def _conditions(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    return _under(_CONDITION, rows)


def _under(prefix: str, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): row for name, row in rows.items() if name.startswith(prefix)}
