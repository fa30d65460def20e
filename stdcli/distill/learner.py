"""What a run trains, by role, and what a student says of a batch. Read before torch is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stdcli.diffusion.predictions import Denoised

STUDENT, EMA_STUDENT, STAGE_STUDENT, FAKE_SCORE = "student", "ema_student", "stage_student", "fake_score"
"""Roles: sets of weights on one base, which is itself the teacher."""


@dataclass(frozen=True)
class Prediction:
    """What the student says of a batch.

    Attributes:
        state: [B, C, *space], its point at s (a clean latent, for methods that predict one), with gradients.
        denoised: its x0 and eps at j.
    """

    state: Tensor
    denoised: Denoised


@dataclass(frozen=True)
class Learner:
    """Weights that a run trains.

    Attributes:
        name: of the role; of its losses, metrics and tensors in checkpoints.
        parameters: name -> what is trained.
        learning_rate: the highest; None is `train.learning_rate`.
        buffers: name -> further tensors that are part of the state.
        after_update: called after every step taken.
    """

    name: str
    parameters: Mapping[str, nn.Parameter]
    learning_rate: float | None = None
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    after_update: Sequence[Callable[[], object]] = ()
