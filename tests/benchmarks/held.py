"""Pairs that no student was trained on, and how students are measured on them; shared by benchmarks."""

from __future__ import annotations

import os
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image
from torch import Tensor

from stdcli.bank.reader import Bank
from stdcli.cli.main import main
from stdcli.config.load import resolve
from stdcli.config.recipe import Recipe
from stdcli.diffusion.levels import make_sampling_path, make_teacher_path
from stdcli.diffusion.noise import make_noise
from stdcli.diffusion.sample import sample
from stdcli.distill.real_latents import find_styles
from stdcli.distill.setup import build as build_training
from stdcli.distill.teacher_paths import TeacherPaths
from stdcli.media.image import read_image
from stdcli.media.tensors import to_uint8
from stdcli.metrics import palette, texture
from stdcli.metrics.metric import Subject
from stdcli.models.bundle import Bundle
from stdcli.models.condition import split_conditions
from stdcli.models.load import load_denoiser, load_model
from stdcli.models.spec import ModelSpec
from stdcli.runtime.devices import choose
from stdcli.training.train_step import TrainStep, make_accelerator
from tests.tiny_subjects import NoBackbones

BANK, HELD, PHOTOS, STYLES = (
    os.environ.get(f"STDCLI_BENCH_{name}") for name in ("BANK", "HELD", "PHOTOS", "STYLES")
)
PATHS = 24


def say(line: str) -> None:
    sys.stdout.write(f"\n{line}")
    sys.stdout.flush()


class Held:
    """Paths that no student was trained on, and where they end."""

    def __init__(self, root: str, *, fine: bool = True) -> None:
        self.bank = bank = Bank(root)
        self.manifest = bank.manifest
        paths = range(min(PATHS, len(bank)))
        self.teacher = load_model(ModelSpec("embedded", dtype="float32"))
        self.cond, self.uncond = split_conditions(bank.conditions(paths), "cpu")
        self.guidance = bank.guidance(paths).double()
        start = bank.level_ids[0]
        self.start = bank.states(paths, [start] * len(paths)).float()
        self.x0 = bank.x0(paths).float()
        self.stored = bank.states(paths, [0] * len(paths)).float()
        if fine:
            whole = make_teacher_path(
                self.teacher.network.schedule, num_solver_steps=500, strength=self.manifest.strength
            )
            self.fine = self.walk(whole)

    @property
    def is_guided(self) -> bool:
        return bool((self.guidance != 1).any())

    @torch.no_grad()
    def walk(self, plan) -> Tensor:
        uncond = self.uncond if self.is_guided else None

        def denoise(x, level):
            return self.teacher.network.denoise(x, level, self.cond, uncond, guidance=self.guidance)

        return sample(denoise, self.start, plan, schedule=self.teacher.network.schedule)

    def ddim(self, steps: int) -> Tensor:
        m = self.manifest
        plan = make_sampling_path(
            self.teacher.network.schedule,
            steps=steps,
            strength=m.strength,
            num_solver_steps=m.num_solver_steps,
        )
        return self.walk(plan)

    def ddim_error(self, steps: int) -> float:
        """Latent error of the teacher in so many steps."""
        return rms(self.ddim(steps) - self.stored)

    @torch.no_grad()
    def dpm(self, steps: int) -> Tensor:
        """DPM-Solver++(2M) of diffusers, over the same timesteps, from the same state."""
        m, teacher = self.manifest, self.teacher
        plan = make_sampling_path(
            teacher.network.schedule, steps=steps, strength=m.strength, num_solver_steps=m.num_solver_steps
        )
        betas = 1 - (teacher.network.schedule.alphas**2)[1:] / (teacher.network.schedule.alphas**2)[:-1]
        first = 1 - teacher.network.schedule.alphas[:1] ** 2
        scheduler = DPMSolverMultistepScheduler(
            trained_betas=torch.cat([first, betas]).tolist(),
            prediction_type="sample",
            final_sigmas_type="sigma_min",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, of diffusers
            scheduler.set_timesteps(timesteps=[int(t) for t in plan.timesteps])
        x = self.start
        uncond = self.uncond if self.is_guided else None
        for level in plan.levels[:-1]:
            denoised = teacher.network.denoise(x, level, self.cond, uncond, guidance=self.guidance)
            x = scheduler.step(denoised.x0, int(level.t), x, return_dict=False)[0]
        return x

    @torch.no_grad()
    def student(self, model: Bundle, steps: int) -> Tensor:
        recipe: Recipe = model.network.recipe.override(steps=steps)
        plan = make_sampling_path(model.network.schedule, **recipe.path())

        def noise(step: int) -> Tensor:
            return make_noise(self.start.shape[1:], 0, 0, step=step).expand_as(self.start)

        return sample(
            lambda x, level: model.network.denoise(x, level, self.cond),
            self.start,
            plan,
            schedule=model.network.schedule,
            sampler=recipe.sampler,
            make_step_noise=noise,
        )

    @torch.no_grad()
    def errors(self, ends: Tensor, reference: Tensor) -> dict[str, float]:
        pictures = [self.teacher.codec.decode(z) / 2 + 0.5 for z in (ends, reference)]
        vectors = [self._style_vectors(picture) for picture in pictures]
        relative = (vectors[0] - vectors[1]).norm() / vectors[1].norm()
        return {
            "latent": rms(ends - reference),
            "pixel": rms(pictures[0] - pictures[1]),
            "style": relative.item(),
        }

    def _style_vectors(self, pictures: Tensor) -> Tensor:
        images = [Image.fromarray(frame) for frame in to_uint8(pictures * 2 - 1)]
        return torch.cat(
            [self.teacher.network.style.embed([image], None).cond.flatten(1) for image in images]
        )

    @torch.no_grad()
    def style_distances(self, ends: Tensor) -> str:
        """Mean distances to the styles, as `stdcli.metrics` measures them."""
        files = find_styles(Path(STYLES))
        found = {metric: [] for metric in (palette.METRIC, texture.METRIC)}
        for path, picture in enumerate(to_uint8(self.teacher.codec.decode(ends))):
            style = read_image(files[self.bank.source(path)["style_sha256"]]).rgb
            for metric, values in found.items():
                values.append(metric.measure(Subject(picture[None], styles=(style,)), NoBackbones()))
        return ", ".join(f"{metric.name} {np.mean(values):.3f}" for metric, values in found.items())


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def build(out: Path, *options: str) -> Path:
    """A finished bank of the embedded model in `out`."""
    named = ["--data", PHOTOS, "--style-data", STYLES, "--quiet"]
    assert main(["bank", "build", "--preset", "bank/embedded", *named, "-o", str(out), *options]) == 0
    return out


def train(out: Path, *options: str, steps: int, bank: str | None = BANK) -> Path:
    """A finished run, its student in `out`; seconds per step are in its metrics."""
    source = ["--bank", bank] if bank else ["--data", PHOTOS, "--style-data", STYLES]
    every = ["--sample-every", "0", "--checkpoint-every", str(steps), "--quiet"]
    sized = ["--train-steps", str(steps)]
    assert main(["distill", *source, "-o", str(out), *sized, *every, *options]) == 0
    return out


def make_train_step(preset: str, sets: list[str]) -> TrainStep:
    """Steps of a run on the bank, in memory; `training` is what it trains."""
    config = resolve("distill", preset=preset, sets=sets, flags={"bank": BANK, "dtype": "float32"}).config
    network = load_denoiser(ModelSpec("embedded", dtype="float32"))
    accelerator = make_accelerator(choose("auto", "float32"))
    training = build_training(
        config,
        paths=TeacherPaths.stored(BANK),
        network=network,
        accelerator=accelerator,
        get_codec=lambda: None,
    )
    train_step = TrainStep(
        accelerator, training.trained_modules, training.task.losses, 1, training.task.describe
    )
    train_step.training = training
    return train_step


def median_seconds(steps_of: dict[str, TrainStep], rounds: int) -> dict[str, float]:
    """Median seconds of a step of each, taken in turns; the first round is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in steps_of}
    for step in range(rounds + 1):
        for name, train_step in steps_of.items():
            began_s = time.perf_counter()
            train_step.take(step)
            if step:
                seconds[name].append(time.perf_counter() - began_s)
    return {name: statistics.median(values) for name, values in seconds.items()}
