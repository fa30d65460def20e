"""The losses that a run's settings give, whatever its method: the distance to a target, and the adversary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from torch import Tensor

from stdcli.distill.adversarial_term import AdversarialTerm
from stdcli.distill.batch import Batch
from stdcli.distill.distances import distance
from stdcli.distill.learner import STUDENT, Learner, Prediction
from stdcli.distill.real_fake_pairs import RealFakeBatch
from stdcli.training.train_step import Loss

BUCKETS = 4
"""Ranges of levels whose losses are reported apart."""


@dataclass(frozen=True)
class LossTerms:
    """Terms of the losses of a run.

    Attributes:
        start_id: the noisiest level in use.
        kind: of the distance.
        huber_c: of "huber".
        adversarial: None without an adversary.
    """

    start_id: int
    kind: Literal["huber", "l2"] = "huber"
    huber_c: float = 1e-3
    adversarial: AdversarialTerm | None = None

    def learners(self) -> list[Learner]:
        """What is trained beside the method's own."""
        return [] if self.adversarial is None else [self.adversarial.learner()]

    def with_adversary_at(self, share: float) -> LossTerms:
        """The same, the adversary's part of the student's loss at a share of its weight.

        Args:
            share: in [0, 1].
        """
        if self.adversarial is None:
            return self
        adversarial = replace(self.adversarial, weight=share * self.adversarial.weight)
        return replace(self, adversarial=adversarial)

    def losses(
        self,
        prediction: Prediction,
        target: Tensor,
        batch: Batch,
        *,
        scale: Tensor | None = None,
        step: int,
        pair: RealFakeBatch | None = None,
    ) -> Iterator[Loss]:
        """The student's loss against a target, with the adversary's part where there is one, and its own.

        Args:
            prediction: with gradients.
            target: [B, C, *space], without.
            batch: what both belong to.
            scale: float64 [B] that errors are divided by before the distance.
            step: of the run, from 0.
            pair: what the adversary tells apart, where the method has states of its own for it.
        """
        errors = self._errors(prediction.state, target, scale)
        metrics = {"loss/distance": errors.detach(), **self._by_level(errors.detach(), batch.level_ids)}
        student = Loss(STUDENT, errors.mean(), metrics)
        if self.adversarial is not None and pair is None:
            pair = self.adversarial.pair(prediction, target, batch)
        yield from self.judged(student, pair, batch, step=step)

    def judged(
        self, student: Loss | None, pair: RealFakeBatch | None, batch: Batch, *, step: int
    ) -> Iterator[Loss]:
        """A loss of the student with the adversary's part where there is one, and the adversary's own.

        Args:
            student: its loss so far; None where it rests.
            pair: what the adversary tells apart; needed where there is one.
            batch: what all belong to.
            step: of the run, from 0.
        """
        if self.adversarial is not None:
            yield from self.adversarial.losses(student, pair, batch, step=step)
        elif student is not None:
            yield student

    def _errors(self, predicted: Tensor, target: Tensor, scale: Tensor | None) -> Tensor:
        """One error per item, [B]."""
        if scale is not None:
            factor = (1 / scale).float().reshape(-1, *[1] * (predicted.ndim - 1)).to(predicted.device)
            predicted, target = predicted * factor, target * factor
        return distance(predicted, target, kind=self.kind, huber_c=self.huber_c)

    def _by_level(self, errors: Tensor, level_ids: Tensor) -> dict[str, Tensor]:
        """Errors by the range of j, named after its lowest and highest level."""
        edges = [round(k * self.start_id / BUCKETS) for k in range(BUCKETS + 1)]
        found = {}
        for low, high in pairwise(edges):
            inside = ((level_ids > low) & (level_ids <= high)).to(errors.device)
            found[f"loss/level_{low + 1}_to_{high}"] = errors[inside]
        return found
