"""Flow maps end to end: trained from a bank, kept with an embedder, one student for all numbers of steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stdcli.bank.reader import Bank
from stdcli.cli.main import main
from stdcli.diffusion.levels import make_sampling_path
from stdcli.diffusion.sample import sample, target_levels
from stdcli.models.condition import split_conditions
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from tests.tiny_runs import Bench, distill

COUNTS = "1,2,3,6"


def flow_map(out: Path, *flags: object, **settings: object) -> Path:
    told = {"std__window": "null", "step_counts": COUNTS} | settings
    assert distill(out, "--method", "flow-map", *flags, "--quiet", **told) == 0
    return out


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def errors(bench: Bench, run: Path) -> dict[int, float]:
    """Mean distance of where K steps of the student end to where the teacher's paths do, by K."""
    bank = Bank(bench.bank())
    model, student = str(bench.model("embedded")), str(run / "student")
    network = load_model(ModelSpec(model, student=student, device="cpu", dtype="float32")).network
    paths = list(range(len(bank)))
    cond, _ = split_conditions(bank.conditions(paths), torch.device("cpu"))
    ends = bank.states(paths, [0] * len(bank)).float()
    found = {}
    for steps in map(int, COUNTS.split(",")):
        path = make_sampling_path(network.schedule, steps=steps, strength=0.6, num_solver_steps=10)
        targets = dict(zip(path.timesteps, target_levels(path, schedule=network.schedule), strict=True))
        with torch.no_grad():
            reached = sample(
                lambda x, level, to=targets: network.denoise(x, level, cond, to_level=to[level.t]),
                bank.states(paths, [bank.level_ids[0]] * len(bank)).float(),
                path,
                schedule=network.schedule,
            )
        found[steps] = float((reached - ends).square().mean().sqrt())
    return found


@pytest.fixture(scope="module")
def run(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "map"
    return flow_map(out, "--bank", bench.bank(), train__sample_every=6)


def test_a_run_leaves_a_lora_an_embedder_and_a_recipe_that_says_so(run: Path) -> None:
    files = {path.name for path in (run / "student").iterdir()}
    assert files == {"pytorch_lora_weights.safetensors", "target_time_embedder.safetensors", "recipe.json"}
    recipe = json.loads((run / "student" / "recipe.json").read_text())
    assert recipe["trained"]["s_embedding"] is True and recipe["trained"]["method"] == "flow-map"
    assert recipe["trained"]["supported_steps"] == [1, 2, 3, 6] and recipe["sampler"] == "jump"
    embedder = load_file(run / "student" / "target_time_embedder.safetensors")
    assert all(value.any() for value in embedder.values()), "all of it has learned"


@pytest.mark.parametrize("steps", [1, 6])
def test_one_student_restyles_in_one_step_and_in_many(run: Path, bench: Bench, tmp_path: Path, steps) -> None:
    out = tmp_path / "out.png"
    command = ["stylize", bench.photos / "a.png", "--style", bench.art / "x.png", "--student", run]
    command += ["--model", bench.model("embedded"), "--device", "cpu", "--dtype", "float32", "-o", out]
    assert main([*map(str, command), "--steps", str(steps), "--quiet"]) == 0 and out.exists()


@pytest.mark.slow
def test_one_set_of_weights_ends_nearer_to_the_teachers_path_with_more_steps(
    bench: Bench, tmp_path: Path
) -> None:
    """The path has six levels: six steps repeat it, and each adds an error of its own."""
    settings = {"train__steps": 400, "train__batch_size": 8, "train__learning_rate": 3e-3}
    settings |= {"train__checkpoint_every": 400, "train__warmup_steps": 20, "student__rank": 8}
    settings |= {"flow_map__jump_weight": "inverse-square"}
    found = errors(bench, flow_map(tmp_path / "map", "--bank", bench.bank(), **settings))
    assert found[1] > found[2] > found[3] and found[6] < 0.6 * found[1], found
    untrained = errors(bench, flow_map(tmp_path / "new", "--bank", bench.bank()))
    assert all(value < untrained[steps] / 3 for steps, value in found.items())
