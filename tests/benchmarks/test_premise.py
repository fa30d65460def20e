"""The premise of STD, measured: states at one level differ by where their path began.

    pytest tests/benchmarks/test_premise.py -s

Root mean square distance, in units of the level's sigma, between teacher states at one level that paths
reached from different strengths, with the same picture, style, noise and condition; and between them and the
forward-noised data that ordinary consistency distillation trains on. Photos are those of scikit-image; styles
are drawn by our own code. Source: STD, section 3 (why a single trajectory).
"""

from __future__ import annotations

import sys
from functools import partial
from itertools import combinations

import pytest
import torch

from stdcli.data.files import find_files
from stdcli.demo.sample_inputs import write_samples
from stdcli.diffusion.levels import level_table, make_teacher_path
from stdcli.diffusion.noise import make_noise
from stdcli.diffusion.solvers import start_state
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from stdcli.rollout.path_inputs import Pictures, make_sample
from stdcli.rollout.path_teacher import Teacher
from stdcli.rollout.prompts import Prompts

STRENGTHS, LEVEL_IDS, SIDE_PX = (0.3, 0.4, 0.5, 0.6), (5, 10, 15), 256

pytestmark = pytest.mark.timeout(1800)


def distance(a: torch.Tensor, b: torch.Tensor, sigma: float) -> float:
    return float((a - b).square().mean().sqrt()) / sigma


def test_states_depend_on_where_their_path_began(tmp_path):
    pytest.importorskip("skimage")
    photos, _ = write_samples(tmp_path, frames=1)
    bundle = load_model(ModelSpec("embedded", dtype="float32"))
    files = find_files([str(path) for path in photos]).files
    styles = find_files([str(tmp_path / "styles")]).files
    pictures = Pictures(files, styles, side_px=SIDE_PX)
    make = partial(make_sample, guidance_range=(1.0, 1.0), prompts=Prompts(), styles=styles, seed=0)
    samples = [make(file, 0) for file in files]
    table = level_table(bundle.network.schedule, 50)
    states = {}
    for strength in STRENGTHS:
        plan = make_teacher_path(bundle.network.schedule, num_solver_steps=50, strength=strength)
        kept = frozenset(LEVEL_IDS) | {0}
        teacher = Teacher(bundle, plan, kept, "colours", torch.float32, seed=0, side_px=SIDE_PX, guided=False)
        walked = teacher.rollout(samples, pictures, batch_size=4).states
        states[strength] = {id_: walked[:, row] for row, id_ in enumerate(sorted(kept, reverse=True))}
    noise = torch.stack([make_noise(walked.shape[2:], 0, sample.sample_id) for sample in samples])
    start = plan.levels[0]
    moved = (
        teacher.start_paths(samples, pictures.load(samples)).state - start.sigma * noise
    ) / start.alpha  # T(x0)
    for id_ in LEVEL_IDS:
        level = table[id_]
        states["data"] = {id_: start_state(moved, noise, level)}
        for one, other in combinations(states, 2):
            far = distance(states[one][id_], states[other][id_], level.sigma)
            sys.stdout.write(f"\nlevel {id_} (t {level.t}): {one} to {other}: {far:.3f}")
    near, far = (distance(states[0.3][10], states[s][10], table[10].sigma) for s in (0.4, 0.6))
    assert 0 < near < far
