"""A sheet of pictures made the same way at every step of a run, so that progress shows.

Each row is one path: the sample, its style picture where it is at hand, the teacher's whole path, the teacher
in as few steps as the student where it is in memory, the student. Noise and samples are the bank's own.

Legend: R rows, C latent channels, h w latent cells, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stdcli.config.recipe import Recipe
from stdcli.diffusion.levels import Level, SamplingPath, make_sampling_path
from stdcli.diffusion.noise import make_noise
from stdcli.diffusion.predictions import Denoised
from stdcli.diffusion.sample import sample, target_levels
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.distill.roles import Roles
from stdcli.distill.teacher_paths import TeacherPaths
from stdcli.media.arrays import resize
from stdcli.media.image import read_image
from stdcli.media.tensors import to_uint8
from stdcli.models.codec import Codec
from stdcli.models.condition import Condition, split_conditions

ROWS = 6
NOISE_ID = 0


@dataclass(frozen=True)
class StudentSheet:
    """What is drawn.

    Attributes:
        starts: [R, C, h, w] float32, states at the start level.
        x0: [R, C, h, w] float32, clean latents.
        ends: [R, C, h, w] float32, the teacher's whole path's last states.
        cond, uncond: R conditions.
        guidance: float64 [R], of the teacher.
        styles: uint8 [H, W, 3] per row, or None.
        path: the student's levels.
        recipe: how the student is sampled.
        schedule: of the model.
    """

    starts: Tensor
    x0: Tensor
    ends: Tensor
    cond: Condition
    uncond: Condition
    guidance: Tensor
    styles: Sequence[np.ndarray | None]
    path: SamplingPath
    recipe: Recipe
    schedule: NoiseSchedule

    @torch.no_grad()
    def render(self, roles: Roles, codec: Codec, *, weights: Mapping[str, Tensor]) -> np.ndarray:
        """The sheet, uint8 [R H, 5 W, 3]; a column less without style pictures, and without the teacher.

        Args:
            roles: student and teacher.
            codec: decodes.
            weights: of the student.

        Raises:
            NumericsError: a state became NaN or infinite.
        """

        def teacher(x: Tensor, level: Level, to_level: Level) -> Denoised:
            return roles.teacher(x, level, self.cond, self.uncond, guidance=self.guidance)

        def student(x: Tensor, level: Level, to_level: Level) -> Denoised:
            return roles.ema_student(x, level, self.cond, to_level=to_level, weights=weights)

        latents = [self.x0, self.ends]
        if roles.module.has_teacher:
            latents.append(self._sample(teacher, "jump"))
        latents.append(self._sample(student, self.recipe.sampler))
        # one by one: pictures of a large model take gigabytes to decode
        columns = [[to_uint8(codec.decode(z[None]).cpu())[0] for z in latent] for latent in latents]
        rows = []
        for k, style in enumerate(self.styles):
            row = [column[k] for column in columns]
            if style is not None:
                row.insert(1, resize(style, *row[0].shape[:2]))
            rows.append(np.concatenate(row, axis=1))
        return np.concatenate(rows)

    def _sample(self, denoise: Callable[[Tensor, Level, Level], Denoised], sampler: str) -> Tensor:
        targets = target_levels(self.path, schedule=self.schedule, sampler=sampler)
        target_of = dict(zip(self.path.timesteps, targets, strict=True))

        def make_step_noise(step: int) -> Tensor:
            noise = make_noise(self.starts.shape[1:], 0, NOISE_ID, step=step)
            return noise.to(self.starts.device).expand_as(self.starts)

        return sample(
            lambda x, level: denoise(x, level, target_of[level.t]),
            self.starts,
            self.path,
            schedule=self.schedule,
            sampler=sampler,
            make_step_noise=make_step_noise,
        )


def make_sheet(
    paths: TeacherPaths,
    recipe: Recipe,
    *,
    schedule: NoiseSchedule,
    styles: Mapping[str, Path],
    device: torch.device,
) -> StudentSheet:
    """A sheet of some stored paths, spread over the bank.

    Args:
        paths: of a bank.
        recipe: of the student.
        schedule: of the model.
        styles: SHA-256 -> style picture; may be empty.
        device: of the networks.
    """
    bank = paths.bank
    chosen = [k * len(bank) // ROWS for k in range(min(ROWS, len(bank)))]
    ids = torch.full((len(chosen),), paths.start_id)
    cond, uncond = split_conditions(bank.conditions(chosen), device)
    found = [styles.get(str(bank.source(path).get("style_sha256"))) for path in chosen]
    pictures = [None if path is None else read_image(path).rgb for path in found]
    return StudentSheet(
        starts=bank.states(chosen, ids).to(device, torch.float32),
        x0=bank.x0(chosen).to(device, torch.float32),
        ends=bank.states(chosen, torch.zeros_like(ids)).to(device, torch.float32),
        cond=cond,
        uncond=uncond,
        guidance=bank.guidance(chosen).double(),
        styles=pictures if all(picture is not None for picture in pictures) else [None] * len(chosen),
        path=make_sampling_path(schedule, **recipe.path()),
        recipe=recipe,
        schedule=schedule,
    )
