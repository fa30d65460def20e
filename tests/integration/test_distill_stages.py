"""Runs in stages: what a stage takes over from the one before, stopped anywhere and taken up again."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from stdcli.training.train_step import TrainStep
from tests.tiny_runs import Bench, arguments, bytes_of, checkpoint, distill, forked, recipe, same

SETTINGS: dict[str, Any] = {  # of six steps the first three are of the stage of two steps
    "std__window": "null",
    "lightning__counts": "2,1",
    "step_counts": "1",
    "steps": 1,
}
SEGMENTS: dict[str, Any] = {"std__window": "null", "hyper_sd__segments": "4,1"}
STUDENT, KEPT = "learner.student.weights.", "average.stage."


def run(bench: Bench, out: Path, **more: Any) -> int:
    return distill(out, "--bank", bench.bank(), "--method", "lightning", "--quiet", **(SETTINGS | more))


def part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def straight(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("stages") / "run"
    assert run(bench, out) == 0
    return out


def test_a_stage_is_taught_by_the_student_as_the_one_before_left_it(straight: Path) -> None:
    left, end = checkpoint(straight, 3), checkpoint(straight, 6)
    assert part(end, KEPT) and same(part(end, KEPT), part(left, STUDENT))
    assert not same(part(end, STUDENT), part(left, STUDENT))
    assert not same(part(left, KEPT), part(left, STUDENT)), "the first stage keeps what it began with"
    assert all(bool((v == 0).all()) for name, v in part(left, KEPT).items() if "lora_B" in name)
    assert recipe(straight)["trained"]["supported_steps"] == [1] and recipe(straight)["final"] == "x0"


@pytest.mark.parametrize("stops", [(2, 5), (3, 4)])  # within both stages; where one ends, and a step later
def test_a_run_stopped_in_a_stage_ends_as_if_it_had_not_been_stopped(
    straight: Path, bench: Bench, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    out, take = tmp_path / "run", TrainStep.take
    for stop in stops:

        def interrupted(self: TrainStep, at: int, *, stop: int = stop) -> dict[str, float]:
            facts = take(self, at)
            if at == stop - 1:
                signal.raise_signal(signal.SIGTERM)
            return facts

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(TrainStep, "take", interrupted)
            assert run(bench, out) == 130
    assert run(bench, out) == 0
    assert bytes_of(straight / "student") == bytes_of(out / "student")
    assert same(checkpoint(straight, 6), checkpoint(out, 6))


def test_a_run_in_stages_is_not_made_longer(straight: Path, bench: Bench, capsys) -> None:
    """Its stages would have ended elsewhere."""
    before = bytes_of(straight)
    assert run(bench, straight, train__steps=8) == 2
    assert "train.steps: 6 in the run that is there, 8 now" in capsys.readouterr().err
    assert bytes_of(straight) == before


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("name", ["hyper-sd", "lightning"])
def test_however_a_step_is_cut_up_it_is_of_its_stage(name: str, bench: Bench, tmp_path: Path) -> None:
    """Four items at once, four times one, two times two and two ranks of two: the same student."""
    low = {"train__learning_rate": 1e-4, "train__steps": 4}  # see test_distill_ranks
    settings = (SETTINGS if name == "lightning" else SEGMENTS) | low
    flags = ("--bank", bench.bank(), "--method", name, "--quiet")
    outs = {(4, 1): "whole", (1, 4): "ones", (2, 2): "pairs"}
    for (size, accumulation), out in outs.items():
        cut = {"train__batch_size": size, "train__accumulation": accumulation}
        assert distill(tmp_path / out, *flags, **settings, **cut) == 0
    ranked = arguments(tmp_path / "ranks", *flags, **settings, train__batch_size=2)
    report = forked(kind="ranks", commands=[ranked], ranks=2, out=str(tmp_path))
    assert report["ends"] == [0, 0], report["err"]
    whole = checkpoint(tmp_path / "whole", 4)
    for out in ("ones", "pairs", "ranks"):
        other = checkpoint(tmp_path / out, 4)
        assert whole.keys() == other.keys()
        for kind in (".weights.", "average."):
            names = [key for key in whole if kind in key]
            ours, theirs = (torch.cat([state[key].flatten() for key in names]) for state in (whole, other))
            assert names and float((ours - theirs).norm() / ours.norm()) < 1e-5


@pytest.mark.slow
def test_the_adversary_of_transitions_trains_and_resumes(bench: Bench, tmp_path: Path) -> None:
    judged = {"adversary__weight": 0.5, "adversary__loss": "non-saturating"}
    assert run(bench, tmp_path / "once", **judged) == 0
    with pytest.MonkeyPatch.context() as patched:
        take = TrainStep.take

        def interrupted(self: TrainStep, at: int) -> dict[str, float]:
            facts = take(self, at)
            if at == 3:
                signal.raise_signal(signal.SIGTERM)
            return facts

        patched.setattr(TrainStep, "take", interrupted)
        assert run(bench, tmp_path / "twice", **judged) == 130
    assert run(bench, tmp_path / "twice", **judged) == 0
    assert same(checkpoint(tmp_path / "once", 6), checkpoint(tmp_path / "twice", 6))
