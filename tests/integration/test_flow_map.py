"""Flow maps end to end: trained from a bank, kept with an embedder, one student for all numbers of steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from stdcli.cli.main import main
from tests.tiny_runs import Bench, distill

COUNTS = "1,2,3,6"


def flow_map(out: Path, *flags: object, **settings: object) -> Path:
    told = {"std__window": "null", "step_counts": COUNTS} | settings
    assert distill(out, "--method", "flow-map", *flags, "--quiet", **told) == 0
    return out


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


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
