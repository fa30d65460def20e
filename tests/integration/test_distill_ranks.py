"""Ranks, batches and accumulation: however the same pairs are cut up, the same student comes out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_runs import ROOT, Bench, arguments, checkpoint, distill, environment, forked, same

# a low rate: what rounding does to the sign of a vanishing gradient, Adam makes a whole step of
STEPS = {"train__steps": 3, "train__batch_size": 4, "train__learning_rate": 1e-4}
ADVERSARY = {
    "adversary__weight": 0.5,
    "adversary__features": "teacher",
    "adversary__norm": "local-batch",
    "adversary__gradient_penalty": 0.1,
    "adversary__r1": 0.1,
    "train__steps": 2,
    "train__batch_size": 1,
    "train__accumulation": 2,
}


@pytest.fixture(scope="module")
def whole(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank, four pairs at once."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert distill(out, "--bank", bench.bank(), "--quiet", **STEPS) == 0
    return out


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], kind: str) -> float:
    """Of all tensors of a kind, relative."""
    names = [name for name in first if kind in name]
    assert names and first.keys() == second.keys()
    ours, theirs = (
        torch.cat([state[name].flatten() for name in names]).double() for state in (first, second)
    )
    return float((ours - theirs).norm() / ours.norm())


def assert_alike(first: Path, second: Path) -> None:
    """Weights, and the mean gradients behind them, whose size Adam's steps do not show."""
    ours, theirs = checkpoint(first, 3), checkpoint(second, 3)
    assert distance(ours, theirs, ".weights.") < 1e-6
    assert distance(ours, theirs, "average.") < 1e-6
    assert distance(ours, theirs, ".exp_avg") < 1e-5


def test_defect_11_accumulation_is_a_larger_batch(whole: Path, bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cut = {"train__batch_size": 1, "train__accumulation": 4}
    assert distill(out, "--bank", bench.bank(), "--quiet", **(STEPS | cut)) == 0
    assert_alike(whole, out)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_defects_3_and_4_ranks_learn_together_what_one_learns(
    whole: Path, bench: Bench, tmp_path: Path
) -> None:
    plain = arguments(
        tmp_path / "plain", "--bank", bench.bank(), "--quiet", **(STEPS | {"train__batch_size": 2})
    )
    against = arguments(tmp_path / "against", "--bank", bench.bank(), "--quiet", **(STEPS | ADVERSARY))
    report = forked(kind="ranks", commands=[plain, against], ranks=2, out=str(tmp_path))
    assert report["ends"] == [0, 0], report["err"]
    plain_held, against_held = (
        [load_file(tmp_path / f"{k}-{rank}.safetensors") for rank in range(2)] for k in range(2)
    )
    assert same(*plain_held) and same(*against_held)
    assert_alike(whole, tmp_path / "plain")
    assert same(checkpoint(tmp_path / "plain", 3), plain_held[1])  # what is saved is the other rank's too
    assert any(name.endswith(".u") for name in against_held[0])  # vectors of the spectral norm


@pytest.mark.slow
def test_torchrun(whole: Path, bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cut = STEPS | {"train__batch_size": 2}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "stdcli"]
    command = [*launch, *arguments(out, "--bank", bench.bank(), "--quiet", **cut)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_alike(whole, out)
