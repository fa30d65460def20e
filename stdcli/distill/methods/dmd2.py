"""Distribution matching: the student's pictures are moved to where the teacher finds them likelier than a
network that has learned what the student makes.

    x at level j of a K-step walk, which the student itself came down (`distill/own_states.py`); x_g = x0 at x
    x_tau = alpha x_g + sigma eps, tau uniform in `dmd2.tau` of all times
    g     = (x0_fake(x_tau) - x0_real(x_tau)) / mean |x_g - x0_real(x_tau)|      per item, without gradient
    L_G   = 1/2 mean (x_g - sg(x_g - g))^2                                       every `dmd2.every` steps
    L_F   = mean (out_fake(x_tau') - out(sg(x_g), eps'))^2                       in what the network predicts

The fake score is a second set of weights on the base; the real one is the guided teacher. An adversary tells
x_g and real latents apart, both noised to one level; its weight is `adversary.weight`.

Source: Yin 2024 (DMD2) eq. 2 to 4 and section 4; Yin 2024 (DMD) eq. 7 and 8 for g and its scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from stdcli.config.schema import Count, Positive, Section, Share, split_numbers
from stdcli.distill.learner import FAKE_SCORE, STUDENT, Learner
from stdcli.distill.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from stdcli.config.distill import DistillSettings
    from stdcli.diffusion.levels import Level
    from stdcli.distill.batch import Batch
    from stdcli.distill.loss_terms import LossTerms
    from stdcli.distill.real_fake_pairs import RealFakeBatch
    from stdcli.distill.roles import Roles
    from stdcli.distill.target_sampler import TargetSampler
    from stdcli.distill.teacher_paths import TeacherPaths
    from stdcli.training.train_step import Loss

Shares = Annotated[tuple[Share, Share], BeforeValidator(split_numbers)]


class Dmd2Section(Section):
    """Distribution matching: student and fake score."""

    every: Count = 5
    """Steps from one of the student to its next; fake score and adversary learn in all."""
    tau: Shares = (0.02, 0.98)
    """Between which shares of all times the scores are compared, uniformly."""
    fake_learning_rate: Positive | None = None
    """Of the fake score; else `train.learning_rate`."""
    real_scale: Share = 0.0
    """Share of the fake score's adapters that the real score has too, which brings the two nearer; 0 is the
    teacher alone."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        low, high = self.tau
        if low > high:
            yield "tau", f"{low:g} is above {high:g}; give the lower share first"


@dataclass(frozen=True)
class Dmd2(Method):
    """The method of a run; further attributes as in `Method`.

    Attributes:
        table: all levels by id.
        start_id: the noisiest level in use.
        settings: its section.
        seed: of levels and noise.
    """

    table: Sequence[Level]
    start_id: int
    settings: Dmd2Section
    seed: int = 0

    name: ClassVar[str] = "dmd2"
    title: ClassVar[str] = "Improved Distribution Matching Distillation"
    citation: ClassVar[str] = "distribution matching distillation ([DMD2](https://arxiv.org/abs/2405.14867))"
    section: ClassVar[type[Section]] = Dmd2Section
    states: ClassVar[Literal["own"]] = "own"
    predicts_x0: ClassVar[bool] = True
    further_roles: ClassVar[tuple[str, ...]] = (FAKE_SCORE,)
    sampling: ClassVar[Mapping[str, Any]] = MappingProxyType({"sampler": "renoise", "final": "x0"})
    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})

    @classmethod
    def conflicts(cls, config: DistillSettings) -> Iterator[tuple[str, str]]:
        """All walks aim at the clean latent; shares are of adapters."""
        if config.student.s_embedding:
            yield "student.s_embedding", "belongs to method std: dmd2 has one target level"
        if config.section_of(cls).real_scale and config.student.kind != "lora":
            yield "dmd2.real_scale", "needs student.kind lora: it is a share of adapters"

    @classmethod
    def from_settings(cls, config: DistillSettings, *, paths: TeacherPaths, table: Sequence[Level]) -> Dmd2:
        """See `Method`."""
        return cls(table, paths.start_id, config.section_of(cls), config.seed)

    @property
    def target_sampler(self) -> TargetSampler:
        """s = 0."""
        from stdcli.distill.target_sampler import TargetSampler

        return TargetSampler.lowest(self.start_id)

    def learners(self, roles: Roles) -> list[Learner]:
        """The student, and the fake score, which begins as the student."""
        fake = roles.add(FAKE_SCORE)
        return [*super().learners(roles), Learner(FAKE_SCORE, fake, self.settings.fake_learning_rate)]

    def losses(self, roles: Roles, terms: LossTerms, batch: Batch, step: int) -> Iterator[Loss]:
        """See the head of the file."""
        import torch

        is_turn = step % self.settings.every == 0
        level, to_level = batch.levels(self.table)
        with nullcontext() if is_turn else torch.no_grad():
            made = roles.student(batch.states, level, batch.cond, to_level=to_level).x0
        student = self.student_loss(roles, made, batch) if is_turn else None
        pair = None if batch.real_latents is None else self.pair(roles, made, batch)
        yield from terms.judged(student, pair, batch, step=step)
        yield self.fake_loss(roles, made.detach(), batch)

    def student_loss(self, roles: Roles, made: Tensor, batch: Batch) -> Loss:
        """L_G.

        Args:
            roles: what evaluates.
            made: x_g [B, C, *space], with gradients.
            batch: what it was made of.
        """
        import torch

        from stdcli.training.train_step import Loss

        level, noise = self._noise(roles, batch, "student")
        clean = made.detach()
        x, inside = _noised(clean, noise, level), tuple(range(1, made.ndim))
        with torch.no_grad():
            fake = self._fake(roles, x, level, batch).x0
        real = roles.teacher(
            x,
            level,
            batch.cond,
            batch.uncond,
            guidance=batch.guidance,
            towards=FAKE_SCORE,
            share=self.settings.real_scale,
        ).x0
        g = (fake - real) / (clean - real).abs().mean(inside, keepdim=True)
        errors = 0.5 * (made - (clean - g)).square().mean(inside)
        return Loss(STUDENT, errors.mean(), {"loss/distribution": errors.detach()})

    def fake_loss(self, roles: Roles, made: Tensor, batch: Batch) -> Loss:
        """L_F; `made` as above, without gradients."""
        from stdcli.diffusion.predictions import Denoised, from_x0_eps
        from stdcli.training.train_step import Loss

        level, noise = self._noise(roles, batch, "fake score")
        found = self._fake(roles, _noised(made, noise, level), level, batch)
        says, truth = (
            from_x0_eps(denoised, alpha=level.alpha, sigma=level.sigma, kind=roles.prediction)
            for denoised in (found, Denoised(made, noise.to(made)))
        )
        return Loss(FAKE_SCORE, (says - truth).square().mean())

    def pair(self, roles: Roles, made: Tensor, batch: Batch) -> RealFakeBatch:
        """x_g and real latents, each under noise of its own at one level, which the critic is told."""
        from stdcli.distill.real_fake_pairs import RealFakeBatch

        level, noise = self._noise(roles, batch, "judged")
        _, other = self._noise(roles, batch, "judged real")
        fake, real = _noised(made, noise, level), _noised(batch.real_latents, other, level)
        return RealFakeBatch(fake, real, level, real_level=level)

    def _fake(self, roles: Roles, x: Tensor, level: Level, batch: Batch):
        return roles.evaluate(FAKE_SCORE, x, level, batch.cond, to_level=batch.levels(self.table)[1])

    def _noise(self, roles: Roles, batch: Batch, what: str) -> tuple[Level, Tensor]:
        """A level tau and noise for each item, from its number alone."""
        import torch

        from stdcli.diffusion.levels import levels_at
        from stdcli.runtime.seeding import fold

        schedule, (low, high) = roles.schedule, self.settings.tau
        draws = [fold(self.seed, "dmd2", what, number) for number in batch.sample_index.tolist()]
        u = torch.stack([torch.rand((), generator=draw, dtype=torch.float64) for draw in draws])
        t = schedule.num_train_timesteps * (low + (high - low) * u)
        if schedule.kind == "vp":
            t = t.floor().clamp(max=schedule.num_train_timesteps - 1)
        shape = batch.states.shape[1:]
        return levels_at(schedule, t), torch.stack([torch.randn(shape, generator=draw) for draw in draws])


def _noised(clean: Tensor, noise: Tensor, level: Level) -> Tensor:
    from stdcli.diffusion.solvers import start_state

    return start_state(clean, noise, level)


METHOD = Dmd2
