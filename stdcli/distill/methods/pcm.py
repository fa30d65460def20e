"""Phased consistency distillation: as many phases of the path as steps, and jumps to the end of each.

    S(j) = {the lower end of the phase that holds j};  phases are the jumps of the plan of M steps
    loss as in `distill/consistency.py`

With an adversary of `adversary.levels: xq-xq` and `adversary.real: target`, as in its preset, the student's
state at s and its target are noised to one level q in [s, s + T/M) and told apart there.

Source: Wang 2024 (PCM, arXiv 2405.18407), phased distillation and its adversarial consistency loss. Changed:
phases divide the levels below the start of the bank's paths, which q does not pass either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from stdcli.config.schema import Section, Steps
from stdcli.distill.consistency import Consistency, target_decay

if TYPE_CHECKING:
    from stdcli.config.distill import DistillSettings
    from stdcli.diffusion.levels import Level
    from stdcli.distill.teacher_paths import TeacherPaths


class PcmSection(Section):
    """Phased consistency distillation: a student of M phases takes M steps."""

    phases: Steps = 4
    """Parts of the path that jumps do not leave; as many as `steps`."""


@dataclass(frozen=True)
class Pcm(Consistency):
    """The method of a run; attributes as in `Consistency`."""

    name: ClassVar[str] = "pcm"
    title: ClassVar[str] = "Phased Consistency Models"
    citation: ClassVar[str] = "phased consistency distillation ([PCM](https://arxiv.org/abs/2405.18407))"
    section: ClassVar[type[Section]] = PcmSection

    @classmethod
    def conflicts(cls, config: DistillSettings) -> Iterator[tuple[str, str]]:
        """The student is for one number of steps."""
        phases = config.section_of(cls).phases
        if config.steps != phases:
            yield (
                "pcm.phases",
                f"{phases} phases are for {phases} steps, and steps is {config.steps}; "
                f"--set pcm.phases={config.steps}, or --set steps={phases}",
            )

    @classmethod
    def supported_steps(cls, config: DistillSettings) -> tuple[int, ...]:
        """As many as phases."""
        return (config.section_of(cls).phases,)

    @classmethod
    def from_settings(cls, config: DistillSettings, *, paths: TeacherPaths, table: Sequence[Level]) -> Pcm:
        """See `Method`."""
        from stdcli.distill.target_sampler import TargetSampler, phase_choices

        choices = phase_choices(paths.start_id, config.section_of(cls).phases)
        return cls(table, TargetSampler(choices, {}), ema_decay=target_decay(config))


METHOD = Pcm
