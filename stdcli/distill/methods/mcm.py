"""Motion consistency models: latent consistency with a learned head, on data and on the student's own.

    L = E d( h(f(x_j; student)), h'(f(x_{j-1}; target network)) ),  f as in `lcm.py`, times x 4
    x_j  noised data, or with probability `mcm.own` the student's own clean latent, noised afresh
    x_{j-1} one step of the guided teacher from x_j
    h    x + a small network of it, zero at first (`distill/spatial_head.py`); h' its average

With an adversary it tells the student's clean latents from real ones, neither passed through the head.

Source: Zhai 2024 (MCM, arXiv 2406.06890), the learned head and mixed trajectories. Changed: the head looks at
single frames, since pictures have no motion; own latents take one evaluation; levels above the start of the
bank's paths are left out, since no job visits them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from stdcli.config.schema import Section, Share
from stdcli.distill.consistency import target_decay
from stdcli.distill.learner import STUDENT, Learner
from stdcli.distill.methods.lcm import Lcm

if TYPE_CHECKING:
    from stdcli.config.distill import DistillSettings
    from stdcli.diffusion.levels import Level
    from stdcli.distill.batch import Batch
    from stdcli.distill.loss_terms import LossTerms
    from stdcli.distill.roles import Roles
    from stdcli.distill.spatial_head import HeadPair
    from stdcli.distill.teacher_paths import TeacherPaths
    from stdcli.training.train_step import Loss

HEAD = "spatial_head."


class McmSection(Section):
    """Motion consistency models."""

    own: Share = 0.5
    """How often a state is the student's own clean latent noised afresh, and not noised data."""
    spatial_head: bool = True
    """Whether both sides are compared through a small head that is learned."""


@dataclass(frozen=True)
class Mcm(Lcm):
    """The method of a run; further attributes as in `Lcm`.

    Attributes:
        own_share: how often a state is the student's own.
        heads: what both sides pass; None compares them as they are.
    """

    own_share: float = 0.5
    heads: HeadPair | None = None

    name: ClassVar[str] = "mcm"
    title: ClassVar[str] = "Motion Consistency Model"
    citation: ClassVar[str] = "motion consistency models ([MCM](https://arxiv.org/abs/2406.06890))"
    section: ClassVar[type[Section]] = McmSection
    timestep_scaling: ClassVar[float] = 4.0

    @classmethod
    def from_settings(cls, config: DistillSettings, *, paths: TeacherPaths, table: Sequence[Level]) -> Mcm:
        """See `Method`."""
        from stdcli.distill.spatial_head import HeadPair, SpatialHead

        section, channels = config.section_of(cls), paths.manifest.latent_shape[0]
        heads = HeadPair(SpatialHead(channels, seed=config.seed)) if section.spatial_head else None
        decay = target_decay(config)
        return cls(table, paths.start_id, ema_decay=decay, own_share=section.own, heads=heads)

    def learners(self, roles: Roles) -> list[Learner]:
        """The student, and the head with it."""
        trained = roles.module.trainable()
        if self.heads is None:
            return [Learner(STUDENT, trained)]
        self.heads.to(roles.device)
        head = {f"{HEAD}{name}": value for name, value in self.heads.head.named_parameters()}
        average = {f"{HEAD}{name}": value for name, value in self.heads.average.items()}
        return [Learner(STUDENT, trained | head, buffers=average, after_update=[self.heads.update])]

    def losses(self, roles: Roles, terms: LossTerms, batch: Batch, step: int) -> Iterator[Loss]:
        """See the head of the file."""
        prediction, target = self.predict(roles, batch), self.target(roles, batch)
        if self.heads is not None:
            prediction = replace(prediction, state=self.heads.head(prediction.state))
            target = self.heads.averaged(target)
        yield from terms.losses(prediction, target, batch, step=step)


METHOD = Mcm
