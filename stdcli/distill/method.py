"""The seam between the trainer and a method of distillation.

A method is one small file: where its states come from, how it draws s, what it predicts, what the prediction
is held against, and how its student is sampled. The trainer knows nothing else of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from stdcli.diffusion.predictions import Denoised
from stdcli.distill.batch import Batch
from stdcli.distill.roles import Roles
from stdcli.distill.target_sampler import TargetSampler


@dataclass(frozen=True)
class Prediction:
    """What the student says of a batch.

    Attributes:
        state: [B, C, *space], its point at s (for lcm the clean latent), with gradients.
        denoised: its x0 and eps at j.
    """

    state: Tensor
    denoised: Denoised


class Method(Protocol):
    """One method of distillation.

    Attributes:
        name: as in `--method`.
        target_sampler: draws s.
        states: "path" takes teacher states, "data" noises clean latents afresh and has the teacher step.
        reads: which of "next" (teacher state below j) and "target" (teacher state at s) a batch must have.
        uses_ema: whether `target` uses averaged weights.
        sampling: recipe fields that its students need: sampler, final.
    """

    name: str
    target_sampler: TargetSampler
    states: Literal["path", "data"]
    reads: frozenset[str]
    uses_ema: bool
    sampling: Mapping[str, Any]

    def predict(self, roles: Roles, batch: Batch) -> Prediction:
        """The student's point, with gradients."""

    def target(self, roles: Roles, batch: Batch) -> Tensor:
        """What it is held against, [B, C, *space], without gradients."""

    def scale(self, batch: Batch) -> Tensor | None:
        """float64 [B] that errors are divided by before the distance, or None."""
