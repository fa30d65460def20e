"""The online bank over a real teacher and real pictures: the paper's way, for those without disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stdcli.bank.format import Manifest
from stdcli.bank.online_bank import OnlineBank, PathStart
from stdcli.config.bank import BankConfig
from stdcli.console import Console
from stdcli.diffusion.levels import Level
from stdcli.diffusion.solvers import jump
from stdcli.errors import ConfigError
from stdcli.models.bundle import Bundle
from stdcli.models.condition import split_conditions
from stdcli.rollout.build import find_data, load_teacher, make_teacher, probe_conditions, sample_maker
from stdcli.rollout.path_inputs import Pictures, Sample
from stdcli.rollout.path_teacher import Teacher, rows_of
from stdcli.rollout.plan import describe
from stdcli.rollout.prompts import read_prompts


@dataclass
class TeacherRollout:
    """Everything for online banks over some pictures.

    Attributes:
        bundle: the teacher.
        manifest: of the bank that `build_bank` would make of the pictures, each used once.
        conditions: of one path, name -> tensor without batch dimension.
        teacher: walks.
        pictures: of the samples.
        sample_of: number -> sample.
        styles: SHA-256 -> style picture; empty without any, and where samples are their own styles.
    """

    bundle: Bundle
    manifest: Manifest
    conditions: Mapping[str, Tensor]
    teacher: Teacher
    pictures: Pictures
    sample_of: Callable[[int], Sample]
    styles: Mapping[str, Path]

    def style_of(self, number: int) -> str | None:
        """SHA-256 of the style picture of sample `number`, a key of `styles`; None for none."""
        return self.sample_of(number).style_sha256


def open_rollout(config: BankConfig, *, console: Console) -> TeacherRollout:
    """Find the pictures and load the teacher.

    Sample n is picture n modulo their number, used for the n-th time: the samples of `build_bank` in order.

    Args:
        config: as for `build_bank`.
        console: told of files that cannot be read.

    Raises:
        ConfigError, MediaError, ModelError, HubError, ResourceError: as `build_bank`.
    """
    if not config.data:
        raise ConfigError(
            "nothing to learn from", [("bank", "is missing")], hint="--bank FOLDER, or --data FOLDER"
        )
    prompts = read_prompts(config.prompts)
    found, styles = find_data(config, [], console)
    with console.stage(f"loading {config.model}"):
        bundle = load_teacher(config)
    make = sample_maker(config, bundle, prompts=prompts, styles=styles)

    def sample_of(number: int) -> Sample:
        repeat, index = divmod(number, len(found.files))
        return make(found.files[index], repeat)

    manifest = describe(config, bundle, num_paths=len(found.files))
    pictures = Pictures(found.files, styles, side_px=manifest.resolution_px)
    teacher = make_teacher(manifest, config, bundle)
    conditions = probe_conditions(teacher, [sample_of(0)], pictures)[0]
    by_content = {file.sha256: file.path for file in styles}
    return TeacherRollout(bundle, manifest, conditions, teacher, pictures, sample_of, by_content)


def make_online_bank(
    teacher: Teacher,
    pictures: Pictures,
    sample_of: Callable[[int], Sample],
    *,
    num_slots: int,
    rank: int = 0,
    num_ranks: int = 1,
    rate: float = 1.0,
) -> OnlineBank:
    """An online bank whose paths are those that `bank build` would store for the same samples.

    Args:
        teacher: walks the paths; its levels are the bank's.
        pictures: of the samples.
        sample_of: number -> sample; the same number always gives the same.
        num_slots: paths under way at once.
        rank, num_ranks: of this process.
        rate: the paper's rho: how often an item comes from the bank, else from a fresh path.

    Raises:
        ValueError: a number out of range.
    """

    def draw(number: int) -> PathStart:
        sample = sample_of(number)
        starts = teacher.start_paths([sample], pictures.load([sample]))
        rows = rows_of(starts.conditions[0])
        return PathStart(starts.x0[0], starts.state[0], rows, float(starts.guidance[0]))

    @torch.no_grad()
    def step(
        states: Tensor, level: Level, next_level: Level, conditions: Mapping[str, Tensor], guidance: Tensor
    ) -> Tensor:
        cond, uncond = split_conditions(conditions, states.device)
        denoised = teacher.denoise(states, level, cond, uncond, guidance)
        return jump(states, denoised, from_level=level, to_level=next_level)

    return OnlineBank(
        draw,
        step,
        path=teacher.path,
        num_slots=num_slots,
        seed=teacher.seed,
        rank=rank,
        num_ranks=num_ranks,
        rate=rate,
        device=teacher.bundle.network.device,
    )
