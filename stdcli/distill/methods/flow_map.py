"""Flow maps: one set of weights jumps from any level of the teacher's path to any lower one at once.

    L = E d( J(x_j, j -> s; student told s), x_s ),  x_j and x_s on one stored path,  s uniform below j

A network that is not told s has one answer for all s, while the teacher's path bends between them; told s it
can learn each jump exactly. Then jumps compose, J(J(x; j -> k); k -> s) = J(x; j -> s), and the same student
takes one step or eight. A bank is exact supervision for all pairs: no derivative of the network is needed.

Source: Boffi 2024 (flow map matching, arXiv 2406.07507) for the object; the target time as an input as in Kim
2024 (CTM). Learning it from stored states, and the embedder beside a LoRA, are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from stdcli.config.schema import Section, Share
from stdcli.distill.methods.std import Std

if TYPE_CHECKING:
    from stdcli.config.distill import DistillSettings
    from stdcli.diffusion.levels import Level
    from stdcli.distill.teacher_paths import TeacherPaths


class FlowMapSection(Section):
    """Flow maps: from a state of the teacher's path to any later one."""

    p_sched: Share = 0.5
    """How often s is the next level of a K-step path on which j lies, K being one of `step_counts`; else any
    level below j."""
    jump_weight: Literal["none", "inverse-square"] = "none"
    """As `std.jump_weight`."""


@dataclass(frozen=True)
class FlowMap(Std):
    """The method of a run: `Std` with the stored state as target; attributes as there."""

    name: ClassVar[str] = "flow-map"
    title: ClassVar[str] = "Flow Map Distillation"
    citation: ClassVar[str] = (
        "a flow map of the teacher's paths ([flow map matching](https://arxiv.org/abs/2406.07507))"
    )
    section: ClassVar[type[Section]] = FlowMapSection
    sees_target: ClassVar[bool] = True

    @classmethod
    def conflicts(cls, config: DistillSettings) -> Iterator[tuple[str, str]]:
        """Online there are no stored states to jump to."""
        if config.is_online:
            yield "bank", "method flow-map needs one: only stored paths know the state at s"

    @classmethod
    def from_settings(
        cls, config: DistillSettings, *, paths: TeacherPaths, table: Sequence[Level]
    ) -> FlowMap:
        """See `Method`."""
        from stdcli.distill.target_sampler import TargetSampler, scheduled_choices, window_choices

        section = config.section_of(cls)
        ids = [level.id for level in paths.stored_levels(table)]
        return cls(
            table,
            TargetSampler(
                window_choices(ids, window=ids[0], anchor=True),
                scheduled_choices(ids, config.step_counts),
                section.p_sched,
            ),
            weighs_jumps=section.jump_weight == "inverse-square",
            prediction=paths.manifest.prediction,
        )


METHOD = FlowMap
