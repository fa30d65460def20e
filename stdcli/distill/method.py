"""The seam between a run and a method of distillation.

A method is one file in `methods/` with a `METHOD`: its name, its own section of settings, what a batch must
have, what it trains, its losses, and how its students are sampled. The run knows nothing else of it. The
settings read these classes before torch is there, so files of methods import it inside functions alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from stdcli.distill.learner import STUDENT, Learner

if TYPE_CHECKING:
    from stdcli.config.distill import DistillSettings
    from stdcli.config.schema import Section
    from stdcli.diffusion.levels import Level
    from stdcli.distill.batch import Batch
    from stdcli.distill.loss_terms import LossTerms
    from stdcli.distill.roles import Roles
    from stdcli.distill.stages import StagedSampler, Stages
    from stdcli.distill.target_sampler import TargetSampler
    from stdcli.distill.teacher_paths import TeacherPaths
    from stdcli.training.train_step import Loss


class Method(ABC):
    """One method of distillation.

    Attributes:
        name, title, citation, section, borrows, states, sees_target, further_roles: see
            `config.distill_methods.MethodSettings`.
        sampling: recipe fields that its students need: sampler, final.
        needs: which of "next" (teacher state below j), "target" (teacher state at s) a batch must have, and
            whether the "teacher" must be in memory.
        ema_decay: of the role `ema_student`, an average of the student; None keeps none.
        own_share: how often an item of noised data is the student's own, see `renoised.py`.
        target_sampler: draws s; one per stage where a run has several.
        predicts_x0: whether `Prediction.state` is a clean latent, and no state at s.
        judges_transitions: whether its adversary tells its own targets from the student's states at s, and is
            shown the states at j beside them; else it is the one of `adversary.levels`.
        keeps_stage_weights: whether there is a role `stage_student`: the student as the stage before left it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    citation: ClassVar[str]
    section: ClassVar[type[Section] | None] = None
    borrows: ClassVar[frozenset[str]] = frozenset()
    states: ClassVar[Literal["path", "data", "own"]] = "path"
    sees_target: ClassVar[bool] = False
    sampling: ClassVar[Mapping[str, Any]]
    needs: frozenset[str] = frozenset()
    ema_decay: float | None = None
    own_share: float = 0.0
    target_sampler: TargetSampler | StagedSampler
    predicts_x0: ClassVar[bool] = False
    judges_transitions: ClassVar[bool] = False
    further_roles: ClassVar[tuple[str, ...]] = ()
    keeps_stage_weights: ClassVar[bool] = False

    @property
    def stages(self) -> Stages | None:
        """Of the run; None is a single one."""
        return getattr(self.target_sampler, "stages", None)

    @classmethod
    def conflicts(cls, config: DistillSettings) -> Iterator[tuple[str, str]]:
        """(dotted key, reason) of settings that this method contradicts."""
        yield from ()

    @classmethod
    def supported_steps(cls, config: DistillSettings) -> tuple[int, ...]:
        """Numbers of steps that its students are for."""
        return config.step_counts

    @classmethod
    @abstractmethod
    def from_settings(cls, config: DistillSettings, *, paths: TeacherPaths, table: Sequence[Level]) -> Method:
        """The method of a run.

        Args:
            config: all settings.
            paths: what is learned from.
            table: all levels by id.

        Raises:
            LevelError: a number of steps has no path among these levels.
        """

    def learners(self, roles: Roles) -> list[Learner]:
        """What is trained, in the order of the steps; the student alone unless a method trains more."""
        return [Learner(STUDENT, roles.module.trainable())]

    @abstractmethod
    def losses(self, roles: Roles, terms: LossTerms, batch: Batch, step: int) -> Iterator[Loss]:
        """The losses of one micro-batch, each differentiated before the next is asked for.

        Learners without a loss rest in this step; all micro-batches of a step must have the same ones.

        Args:
            roles: what evaluates.
            terms: the losses that the run's settings give.
            batch: B states.
            step: of the run, from 0.
        """
