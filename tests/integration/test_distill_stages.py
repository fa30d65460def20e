"""Runs in stages: what a stage takes over from the one before, stopped anywhere and taken up again."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from stdcli.training.train_step import TrainStep
from tests.tiny_runs import Bench, bytes_of, checkpoint, distill, recipe, same

SETTINGS: dict[str, Any] = {  # of six steps the first three are of the stage of two steps
    "std__window": "null",
    "lightning__counts": "2,1",
    "step_counts": "1",
    "steps": 1,
}
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
def test_micro_batches_of_a_step_are_of_its_stage(straight: Path, bench: Bench, tmp_path: Path) -> None:
    """Four items at once, or two times two: levels of the plan, stages and target are the same."""
    for name, size, accumulation in (("whole", 4, 1), ("parts", 2, 2)):
        split = {"train__batch_size": size, "train__accumulation": accumulation}
        assert run(bench, tmp_path / name, **split) == 0
    whole, parts = (checkpoint(tmp_path / name, 6) for name in ("whole", "parts"))
    for prefix in (KEPT, STUDENT):
        for name, value in part(whole, prefix).items():
            torch.testing.assert_close(part(parts, prefix)[name], value, rtol=0, atol=2e-4)


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
