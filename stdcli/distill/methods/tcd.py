"""Trajectory consistency distillation: jumps from noised data to any lower level.

    S(j) = {0 .. j-1}, uniformly; loss as in `distill/consistency.py`

Source: Zheng 2024 (TCD, arXiv 2402.19159), section 4. Its training code was not released.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from stdcli.distill.consistency import Consistency, target_decay

if TYPE_CHECKING:
    from stdcli.config.distill import DistillSettings
    from stdcli.diffusion.levels import Level
    from stdcli.distill.teacher_paths import TeacherPaths


@dataclass(frozen=True)
class Tcd(Consistency):
    """The method of a run; attributes as in `Consistency`."""

    name: ClassVar[str] = "tcd"
    title: ClassVar[str] = "Trajectory Consistency Distillation"
    citation: ClassVar[str] = "trajectory consistency distillation ([TCD](https://arxiv.org/abs/2402.19159))"
    sampling: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"sampler": "jump", "final": "level0", "gamma": 0.3}
    )

    @classmethod
    def from_settings(cls, config: DistillSettings, *, paths: TeacherPaths, table: Sequence[Level]) -> Tcd:
        """See `Method`."""
        from stdcli.distill.target_sampler import TargetSampler, window_choices

        ids = range(paths.start_id, -1, -1)
        choices = window_choices(ids, window=paths.start_id, anchor=True)
        return cls(table, TargetSampler(choices, {}), ema_decay=target_decay(config))


METHOD = Tcd
