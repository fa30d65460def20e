"""The online bank over a real teacher and real pictures: the paper's way, for those without disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from stdcli.bank.online import OnlineBank, Start
from stdcli.diffusion.levels import Level
from stdcli.diffusion.solvers import jump
from stdcli.models.bundle import Condition
from stdcli.rollout.samples import Pictures, Sample
from stdcli.rollout.teacher import Teacher, rows_of


def make_online_bank(
    teacher: Teacher,
    pictures: Pictures,
    sample_of: Callable[[int], Sample],
    *,
    num_slots: int,
    rank: int = 0,
    num_ranks: int = 1,
    rate: float = 1.0,
) -> OnlineBank:
    """An online bank whose paths are those that `bank build` would store for the same samples.

    Args:
        teacher: walks the paths; its levels are the bank's.
        pictures: of the samples.
        sample_of: number -> sample; the same number always gives the same.
        num_slots: paths under way at once.
        rank, num_ranks: of this process.
        rate: the paper's rho: how often an item comes from the bank, else from a fresh path.

    Raises:
        ValueError: a number out of range.
    """

    def draw(number: int) -> Start:
        sample = sample_of(number)
        begun = teacher.begin([sample], pictures.load([sample]))
        rows = rows_of(begun.conditions[0])
        return Start(begun.x0[0], begun.state[0], rows, float(begun.guidance[0]))

    @torch.no_grad()
    def step(
        states: Tensor, level: Level, next_level: Level, conditions: Mapping[str, Tensor], guidance: Tensor
    ) -> Tensor:
        cond, uncond = (_side(conditions, side) for side in ("cond.", "uncond."))
        denoised = teacher.denoise(states, level, cond, uncond, guidance)
        return jump(states, denoised, from_level=level, to_level=next_level)

    return OnlineBank(
        draw,
        step,
        plan=teacher.plan,
        num_slots=num_slots,
        seed=teacher.seed,
        rank=rank,
        num_ranks=num_ranks,
        rate=rate,
        device=teacher.bundle.device,
    )


def _side(conditions: Mapping[str, Tensor], side: str) -> Condition:
    """The condition, or the unconditional, among a bank's tensors."""
    named = {name.removeprefix(side): value for name, value in conditions.items() if name.startswith(side)}
    return Condition.from_tensors(named)
