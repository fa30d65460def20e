"""What methods of the consistency family share: the student jumps from noised data, and agrees with itself.

    L = E d( J(x_j, j -> s; student), target ),  x_j = alpha_j x0 + sigma_j eps
    target = x_{j-1} where s = j - 1, else J(x_{j-1}, j-1 -> s; target network)
    x_{j-1} one step of the guided teacher from x_j

Its methods differ in which s they draw. J is the identity from a level to itself, so no boundary scalings are
needed. The target network is the student without gradient, or its average (`std.target_weights`).

Source: Kim 2024 (CTM) eq. 8, restricted to the probability-flow jump as in Zheng 2024 (TCD). Changed: levels
above the start of the bank's paths are left out, since no job visits them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from stdcli.distill.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from stdcli.config.distill import DistillSettings
    from stdcli.diffusion.levels import Level
    from stdcli.distill.batch import Batch
    from stdcli.distill.learner import Prediction
    from stdcli.distill.loss_terms import LossTerms
    from stdcli.distill.roles import Roles
    from stdcli.distill.target_sampler import TargetSampler
    from stdcli.training.train_step import Loss


@dataclass(frozen=True)
class Consistency(Method):
    """A method that holds the student's jump from j against its own from the teacher's state at j - 1.

    Attributes:
        table: all levels by id.
        target_sampler: draws s.
        ema_decay: of the average of the student that the target network is; None is the student itself.
    """

    table: Sequence[Level]
    target_sampler: TargetSampler
    ema_decay: float | None = None

    borrows: ClassVar[frozenset[str]] = frozenset({"std.target_weights", "std.target_decay"})
    states: ClassVar[Literal["data"]] = "data"
    sampling: ClassVar[Mapping[str, Any]] = MappingProxyType({"sampler": "jump", "final": "level0"})
    needs: ClassVar[frozenset[str]] = frozenset({"next", "teacher"})

    def losses(self, roles: Roles, terms: LossTerms, batch: Batch, step: int) -> Iterator[Loss]:
        """See the head of the file."""
        yield from terms.losses(self.predict(roles, batch), self.target(roles, batch), batch, step=step)

    def predict(self, roles: Roles, batch: Batch) -> Prediction:
        """J(x_j, j -> s; student), with gradients."""
        from stdcli.distill.jumps import student_jump

        return student_jump(roles, batch, self.table)

    def target(self, roles: Roles, batch: Batch) -> Tensor:
        """J(x_{j-1}, j-1 -> s; target network), [B, C, *space], no gradients."""
        from stdcli.distill.jumps import target_jump

        return target_jump(roles, batch, self.table)


def target_decay(config: DistillSettings) -> float | None:
    """Decay of the target network's average; None where it is the student itself."""
    return config.std.target_decay if config.std.target_weights == "average" else None
