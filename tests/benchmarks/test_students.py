"""Students against teacher and LCM: how far from the teacher's whole path they end, on pairs not trained on.

    STDCLI_BENCH_BANK=banks/train STDCLI_BENCH_HELD=banks/held pytest tests/benchmarks/test_students.py -s

Both banks are of the embedded model and of one guidance; the second's pictures are not in the first
(`stdcli bank build --split train`, `--split held-out`). STDCLI_BENCH_STEPS is the budget in training steps
(200), STDCLI_BENCH_RUNS a folder where students are kept for the next time.

Errors are root mean squares over all held paths: of latents; of pixels in [0, 1]; and of the style encoder's
vector of the decoded picture, relative to its length, which no training looks at. References are the stored
end of the 50-step solver's path and the end of a 500-step one.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image
from torch import Tensor

from stdcli.bank.reader import Bank
from stdcli.cli.main import main
from stdcli.config.recipe import Recipe
from stdcli.diffusion.levels import make_path, make_plan
from stdcli.diffusion.noise import make_noise
from stdcli.diffusion.sample import sample
from stdcli.distill.batch import split_conditions
from stdcli.media.tensors import to_uint8
from stdcli.models.bundle import Bundle
from stdcli.models.load import load_model

BANK, HELD = (os.environ.get(f"STDCLI_BENCH_{name}") for name in ("BANK", "HELD"))
STEPS = int(os.environ.get("STDCLI_BENCH_STEPS", "200"))
KS, PATHS = (2, 4, 6, 8), 24

pytestmark = [
    pytest.mark.timeout(4 * 3600),
    pytest.mark.skipif(not (BANK and HELD), reason="STDCLI_BENCH_BANK and STDCLI_BENCH_HELD name no banks"),
]


def say(line: str) -> None:
    sys.stdout.write(f"\n{line}")
    sys.stdout.flush()


class Held:
    """Paths that no student was trained on, and where they end."""

    def __init__(self, root: str) -> None:
        bank = Bank(root)
        self.manifest = bank.manifest
        paths = range(min(PATHS, len(bank)))
        self.teacher = load_model("embedded", dtype="float32")
        self.cond, self.uncond = split_conditions(bank.conditions(paths), "cpu")
        self.guidance = bank.guidance(paths).double()
        start = bank.level_ids[0]
        self.start = bank.states(paths, [start] * len(paths)).float()
        self.stored = bank.states(paths, [0] * len(paths)).float()
        whole = make_path(self.teacher.schedule, num_solver_steps=500, strength=self.manifest.strength)
        self.fine = self.walk(whole)

    @property
    def is_guided(self) -> bool:
        return bool((self.guidance != 1).any())

    @torch.no_grad()
    def walk(self, plan) -> Tensor:
        uncond = self.uncond if self.is_guided else None

        def denoise(x, level):
            return self.teacher.denoise(x, level, self.cond, uncond, guidance=self.guidance)

        return sample(denoise, self.start, plan, schedule=self.teacher.schedule)

    def ddim(self, steps: int) -> Tensor:
        m = self.manifest
        plan = make_plan(
            self.teacher.schedule, steps=steps, strength=m.strength, num_solver_steps=m.num_solver_steps
        )
        return self.walk(plan)

    @torch.no_grad()
    def dpm(self, steps: int) -> Tensor:
        """DPM-Solver++(2M) of diffusers, over the same timesteps, from the same state."""
        m, teacher = self.manifest, self.teacher
        plan = make_plan(
            teacher.schedule, steps=steps, strength=m.strength, num_solver_steps=m.num_solver_steps
        )
        betas = 1 - (teacher.schedule.alphas**2)[1:] / (teacher.schedule.alphas**2)[:-1]
        first = 1 - teacher.schedule.alphas[:1] ** 2
        scheduler = DPMSolverMultistepScheduler(
            trained_betas=torch.cat([first, betas]).tolist(),
            prediction_type="sample",
            final_sigmas_type="sigma_min",
        )
        scheduler.set_timesteps(timesteps=[int(t) for t in plan.timesteps])
        x = self.start
        uncond = self.uncond if self.is_guided else None
        for level in plan.levels[:-1]:
            denoised = teacher.denoise(x, level, self.cond, uncond, guidance=self.guidance)
            x = scheduler.step(denoised.x0, int(level.t), x, return_dict=False)[0]
        return x

    @torch.no_grad()
    def student(self, model: Bundle, steps: int) -> Tensor:
        recipe: Recipe = model.recipe.override(steps=steps)
        plan = make_plan(model.schedule, **recipe.path())

        def noise(step: int) -> Tensor:
            return make_noise(self.start.shape[1:], 0, 0, step=step).expand_as(self.start)

        return sample(
            lambda x, level: model.denoise(x, level, self.cond),
            self.start,
            plan,
            schedule=model.schedule,
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
        return torch.cat([self.teacher.style.embed([image], None).cond.flatten(1) for image in images])


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


@pytest.fixture(scope="module")
def held() -> Held:
    return Held(HELD)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    given = os.environ.get("STDCLI_BENCH_RUNS")
    return Path(given) if given else tmp_path_factory.mktemp("runs")


def train(out: Path, *options: str, steps: int = STEPS) -> Path:
    """A finished run, its student in `out`; seconds per step are in its metrics."""
    warmup = max(1, min(50, steps // 10))
    every = ["--sample-every", "0", "--checkpoint-every", str(steps), "--quiet"]
    sized = ["--train-steps", str(steps), "--set", f"train.warmup_steps={warmup}"]
    assert main(["distill", "--bank", BANK, "-o", str(out), *sized, *every, *options]) == 0
    return out


def step_ms(run: Path) -> float:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = [line["time/step_ms"] for line in lines[1:] or lines]
    return sorted(times)[len(times) // 2]


def report(held: Held, name: str, walk: Callable[[int], Tensor], *, forwards: int) -> dict[int, float]:
    """Print the errors at every K; latent errors against the stored end."""
    found = {}
    for steps in KS:
        ends = walk(steps)
        to_stored, to_fine = held.errors(ends, held.stored), held.errors(ends, held.fine)
        found[steps] = to_stored["latent"]
        values = " ".join(f"{kind} {to_stored[kind]:.5f} / {to_fine[kind]:.5f}" for kind in to_stored)
        say(f"{name}, {steps} steps, {steps * forwards} forwards: {values}")
    return found


def test_students_end_near_the_teachers_path(held, runs):
    began_s = time.perf_counter()
    std = train(runs / "std", "--preset", "distill/std-offline", "--learning-rate", "3e-4")
    lcm = train(runs / "lcm-steps", "--preset", "distill/lcm", "--learning-rate", "3e-4")
    fewer = max(2, math.floor(STEPS * step_ms(std) / step_ms(lcm)))
    quick = train(runs / "lcm-seconds", "--preset", "distill/lcm", "--learning-rate", "3e-4", steps=fewer)
    say(f"std {STEPS} steps of {step_ms(std):.0f} ms, lcm {STEPS} and {fewer} of {step_ms(lcm):.0f} ms")
    guided = 2 if held.is_guided else 1
    found = {"ddim": report(held, "teacher, DDIM", held.ddim, forwards=guided)}
    report(held, "teacher, DPM++ 2M", held.dpm, forwards=guided)
    if guided == 2:
        half = {steps: held.errors(held.ddim(steps // 2), held.stored)["latent"] for steps in KS}
        say("teacher, DDIM at equal forwards: " + " ".join(f"{k} {v:.5f}" for k, v in half.items()))
        dpm = {steps: held.errors(held.dpm(steps // 2), held.stored)["latent"] for steps in KS}
        say("teacher, DPM++ 2M at equal forwards: " + " ".join(f"{k} {v:.5f}" for k, v in dpm.items()))
        found["ddim"] = half
    for name, run in (("std", std), ("lcm, equal steps", lcm), ("lcm, equal seconds", quick)):
        model = load_model("embedded", dtype="float32", student=str(run))
        found[name] = report(held, name, lambda steps, model=model: held.student(model, steps), forwards=1)
    say(f"{(time.perf_counter() - began_s) / 60:.0f} minutes")
    for steps in (4, 6, 8):
        others = [errors[steps] for name, errors in found.items() if name != "std"]
        assert found["std"][steps] < min(others), f"{steps} steps"
