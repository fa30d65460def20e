"""What a distillation learns from a micro-batch: its source's states, under its method's losses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from stdcli.distill.batch import Batch
from stdcli.distill.batch_sources import BatchSource
from stdcli.distill.loss_terms import LossTerms
from stdcli.distill.method import Method
from stdcli.distill.roles import Roles
from stdcli.training.train_step import Loss


@dataclass
class DistillTask:
    """Losses of a run.

    Attributes:
        method: what is learned.
        source: where micro-batches come from.
        roles: what evaluates.
        terms: the losses that the settings give.
        accumulation: micro-batches per step.
        current: the micro-batch at hand, for messages.
    """

    method: Method
    source: BatchSource
    roles: Roles
    terms: LossTerms
    accumulation: int = 1
    current: Batch | None = field(default=None, init=False)

    def losses(self, number: int) -> Iterator[Loss]:
        """See `training.train_step.Losses`."""
        batch = self.current = self.source.batch(number)
        yield from self.method.losses(self.roles, self.terms, batch, number // self.accumulation)

    def describe(self) -> str:
        """What is being trained on."""
        ids = [] if self.current is None else self.current.sample_ids.tolist()
        return f"samples {', '.join(map(str, ids))}"
