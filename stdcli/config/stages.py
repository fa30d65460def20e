"""Settings of methods that train in stages: how many parts, and how long each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import BeforeValidator, Field

from stdcli.config.schema import Positive, Section, Steps, split_numbers

SUM_ERROR = 1e-6
"""How far shares may add up beside 1, as thirds of three digits do not."""

StageCounts = Annotated[tuple[Steps, ...], Field(min_length=1), BeforeValidator(split_numbers)]
StageShares = Annotated[tuple[Positive, ...], Field(min_length=1), BeforeValidator(split_numbers)]


class StagedSection(Section):
    """Base of sections of methods that train in stages; a subclass has the numbers that tell those apart."""

    shares: StageShares | None = None
    """Of the steps that each stage takes, adding to 1; else all alike."""

    def stage_counts(self) -> tuple[str, Sequence[int]]:
        """The field that has a number per stage, and those numbers."""
        raise NotImplementedError

    def stage_shares(self) -> tuple[float, ...]:
        """One per stage, adding to 1."""
        _, counts = self.stage_counts()
        return tuple(1 / len(counts) for _ in counts) if self.shares is None else self.shares

    def conflicts(self) -> Iterator[tuple[str, str]]:
        name, counts = self.stage_counts()
        if any(later >= earlier for earlier, later in pairwise(counts)):
            yield name, f"{list(counts)} must fall from stage to stage"
        if self.shares is None:
            return
        if len(self.shares) != len(counts):
            yield "shares", f"{len(self.shares)} of them for {len(counts)} stages ({name})"
        elif abs(math.fsum(self.shares) - 1) > SUM_ERROR:
            yield "shares", f"{list(self.shares)} add up to {math.fsum(self.shares):g}, not to 1"
