"""Stages inside a run: which one a step belongs to, and where its jumps end. Read before torch is there."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stdcli.config.stages import StagedSection
    from stdcli.distill.target_sampler import TargetSampler


@dataclass(frozen=True)
class Stages:
    """The stages of a run, counted from 0.

    Attributes:
        firsts: first step of each, rising from 0.
        steps: of the run; later steps count to the last stage.
    """

    firsts: tuple[int, ...]
    steps: int

    @classmethod
    def split(cls, shares: Sequence[float], steps: int) -> Stages:
        """Stages that take these shares of a run, ends rounded to whole steps.

        Args:
            shares: positive, adding to 1.
            steps: of the run.

        Raises:
            ValueError: a stage gets no step; names it, from 1.
        """
        ends = [math.floor(math.fsum(shares[: k + 1]) * steps + 0.5) for k in range(len(shares))]
        firsts = (0, *ends[:-1])
        for number, (first, end) in enumerate(zip(firsts, (*ends[:-1], steps), strict=True), start=1):
            if first >= end:
                raise ValueError(f"{steps} steps leave none for stage {number} of {len(shares)}")
        return cls(firsts, steps)

    def __len__(self) -> int:
        return len(self.firsts)

    def at(self, step: int) -> int:
        """The stage of a step of the run, from 0."""
        return bisect_right(self.firsts, step) - 1

    def bounds(self, stage: int) -> tuple[int, int]:
        """Its first step, and the one after its last."""
        return self.firsts[stage], (*self.firsts[1:], self.steps)[stage]

    def progress(self, step: int) -> float:
        """How much of its stage lies before a step, in [0, 1)."""
        first, end = self.bounds(self.at(step))
        return min((step - first) / (end - first), 1.0)


@dataclass(frozen=True)
class StagedSampler:
    """Draws s by the stage of the run.

    Attributes:
        stages: of the run.
        samplers: one per stage; the levels with choices are those that the stage trains at.
    """

    stages: Stages
    samplers: tuple[TargetSampler, ...]

    def of_stage(self, stage: int) -> TargetSampler:
        """What draws in a stage."""
        return self.samplers[stage]


def stages_of(section: StagedSection, steps: int) -> Stages:
    """The stages of a run of so many steps.

    Raises:
        ValueError: one gets no step.
    """
    return Stages.split(section.stage_shares(), steps)


def stage_conflicts(section: StagedSection, steps: int) -> Iterator[tuple[str, str]]:
    """A run too short for its stages, as `Method.conflicts` says it."""
    try:
        stages_of(section, steps)
    except ValueError as error:
        yield "train.steps", str(error)
