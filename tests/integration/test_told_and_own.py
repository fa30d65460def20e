"""Runs of flow maps and motion consistency: stopped and cut up, they end in the same student."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from stdcli.training.train_step import TrainStep
from tests.integration.test_distill_ranks import distance
from tests.tiny_runs import Bench, arguments, bytes_of, checkpoint, distill, forked, same

OPTIONS = {
    "flow-map": {"std__window": "null"},
    "mcm": {"std__window": "null", "std__target_weights": "average"},
}
METHODS = sorted(OPTIONS)
CUT = {"train__steps": 3, "train__learning_rate": 1e-4}


def run(out: Path, bench: Bench, method: str, **settings: object) -> int:
    told = OPTIONS[method] | settings
    return distill(out, "--method", method, "--bank", bench.bank(), "--quiet", **told)


def assert_near(first: Path, second: Path) -> None:
    """As `assert_alike`; targets of mcm differ from predictions by little, so that gradients round sooner."""
    ours, theirs = checkpoint(first, 3), checkpoint(second, 3)
    assert distance(ours, theirs, ".weights.") < 1e-6
    assert distance(ours, theirs, ".exp_avg") < 2e-4


@pytest.mark.parametrize("method", [pytest.param("flow-map", marks=pytest.mark.slow), "mcm"])
def test_a_stopped_run_ends_as_if_it_had_not_been(method: str, bench: Bench, tmp_path: Path) -> None:
    assert run(tmp_path / "straight", bench, method) == 0
    step = TrainStep.take

    def take(self: TrainStep, at: int) -> dict[str, float]:
        facts = step(self, at)
        if at == 3:  # between the checkpoints at 3 and 6
            signal.raise_signal(signal.SIGTERM)
        return facts

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TrainStep, "take", take)
        assert run(tmp_path / "stopped", bench, method) == 130
    assert run(tmp_path / "stopped", bench, method) == 0
    assert bytes_of(tmp_path / "straight" / "student") == bytes_of(tmp_path / "stopped" / "student")
    kept = checkpoint(tmp_path / "straight", 6)
    assert same(kept, checkpoint(tmp_path / "stopped", 6))
    part = {"flow-map": "time_embedding.cond_proj.linear_2.weight", "mcm": "spatial_head.out.weight"}[method]
    assert any(part in name and value.any() for name, value in kept.items())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_accumulation_is_a_larger_batch(method: str, bench: Bench, tmp_path: Path) -> None:
    for name, size, accumulation in (("whole", 4, 1), ("parts", 1, 4), ("halves", 2, 2)):
        split = {"train__batch_size": size, "train__accumulation": accumulation}
        assert run(tmp_path / name, bench, method, **CUT, **split) == 0
    assert_near(tmp_path / "whole", tmp_path / "parts")
    assert_near(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_two_ranks_learn_what_one_learns(bench: Bench, tmp_path: Path) -> None:
    commands = []
    for method in METHODS:
        assert run(tmp_path / f"whole-{method}", bench, method, **CUT, train__batch_size=4) == 0
        settings = OPTIONS[method] | CUT | {"train__batch_size": 2}
        flags = ["--method", method, "--bank", bench.bank(), "--quiet"]
        commands.append(arguments(tmp_path / method, *flags, **settings))
    report = forked(kind="ranks", commands=commands, ranks=2, out=str(tmp_path))
    assert report["ends"] == [0, 0], report["err"]
    for method in METHODS:
        assert_near(tmp_path / f"whole-{method}", tmp_path / method)


@pytest.mark.slow
def test_mcm_with_an_adversary_restyles_nothing_through_the_head(bench: Bench, tmp_path: Path) -> None:
    """The head is in checkpoints and in no student."""
    settings = {"adversary__weight": 0.3, "adversary__features": "teacher", "train__steps": 3}
    assert run(tmp_path / "run", bench, "mcm", **settings) == 0
    assert any("spatial_head" in name for name in checkpoint(tmp_path / "run", 3))
    files = {path.name for path in (tmp_path / "run" / "student").iterdir()}
    assert files == {"pytorch_lora_weights.safetensors", "recipe.json"}
