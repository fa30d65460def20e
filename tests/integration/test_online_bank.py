"""The online bank over a real teacher: the same paths as on disk, in any interleaving, fit to train on."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from stdcli.bank.reader import Bank
from stdcli.cli.main import main
from stdcli.data.files import find_files
from stdcli.diffusion.levels import make_teacher_path
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from stdcli.rollout.path_inputs import Pictures, make_sample
from stdcli.rollout.path_teacher import Teacher
from stdcli.rollout.prompts import Prompts
from stdcli.rollout.teacher_rollout import make_online_bank
from tests.tiny_models import save_tiny_sdxl

SIDE_PX, STRENGTH, PROMPTS = 64, 0.2, ("an oil painting", "a pencil drawing", "glass")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abcd":
        small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        (tmp_path / "photos").mkdir(exist_ok=True)
        small.resize((80, 64), Image.Resampling.BICUBIC).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    save_tiny_sdxl(tmp_path / "model")
    return tmp_path


def online(folder, **options):
    bundle = load_model(ModelSpec(str(folder / "model"), device="cpu", dtype="float32"))
    files = find_files([str(folder / "photos")]).files
    plan = make_teacher_path(bundle.network.schedule, num_solver_steps=50, strength=STRENGTH)
    teacher = Teacher(
        bundle=bundle,
        path=plan,
        kept=frozenset(level.id for level in plan.levels),
        transform="none",
        store_dtype=torch.float32,
        seed=0,
        side_px=SIDE_PX,
        guided=True,
    )
    make = partial(make_sample, guidance_range=(3.0, 7.0), prompts=Prompts(PROMPTS), styles=None, seed=0)

    def sample_of(number):
        repeat, index = divmod(number, len(files))
        return make(files[index], repeat)

    pictures = Pictures(files, (), side_px=SIDE_PX)
    return make_online_bank(teacher, pictures, sample_of, **options)


def test_paths_are_those_that_are_stored(folder):
    command = ["bank", "build", "--model", str(folder / "model"), "--data", str(folder / "photos")]
    command += ["--prompts", str(folder / "prompts.txt"), "--guidance-range", "3:7", "--num-paths", "8"]
    command += ["--strength", str(STRENGTH), "--resolution", str(SIDE_PX), "--dtype", "float32", "--quiet"]
    assert main([*command, "--set", "store_dtype=float32", "-o", str(folder / "bank")]) == 0
    stored, bank = Bank(folder / "bank"), online(folder, num_slots=4)
    seen = set()
    for step in range(12):
        batch = bank.batch(step, 3)
        for k, number in enumerate(batch.sample_numbers.tolist()):
            if number >= len(stored):
                continue
            for states, ids in ((batch.states, batch.level_ids), (batch.next_states, batch.next_level_ids)):
                expected = stored.states([number], [int(ids[k])])[0]
                torch.testing.assert_close(states[k], expected, atol=1e-4, rtol=0)
            assert batch.guidance[k] == pytest.approx(float(stored.guidance([number])), abs=1e-6)
            own = stored.conditions([number])
            for name, values in batch.conditions.items():
                torch.testing.assert_close(values[k], own[name][0], atol=1e-5, rtol=0)
            seen.add((number, int(batch.level_ids[k])))
    assert len(seen) > 20 and len({number for number, _ in seen}) > 4


def test_states_can_be_trained_on(folder):
    batch = online(folder, num_slots=2, rate=0.5).batch(0, 2)
    weight = torch.ones((), requires_grad=True)
    (weight * batch.states - batch.next_states).square().mean().backward()
    assert weight.grad.isfinite()
