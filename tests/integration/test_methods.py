"""Every method by the real command: what it lost once, killed and taken up again, cut up among ranks.

Another method is added by its name and settings in `tests/tiny_method_runs.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stdcli.config.distill_methods import method_names
from stdcli.training.train_step import TrainStep
from tests.tiny_method_runs import GOLDEN, METHODS, SHARED, STEPS, losses_of, train
from tests.tiny_runs import Bench, arguments, bytes_of, checkpoint, forked, same

CUTS = {"ones": (1, 4), "pairs": (2, 2)}
FEW = {"train__steps": 4}


class Killed(BaseException):
    """Ends a run as a power cut does: nothing of it is tidied or written."""


@pytest.fixture(scope="module")
def runs(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Method -> a run that nobody disturbed; made when asked for."""

    class Runs(dict):
        def __missing__(self, name: str) -> Path:
            out = tmp_path_factory.mktemp(name) / "run"
            assert train(name, bench, out) == 0
            self[name] = out
            return out

    return Runs()


def test_every_method_stands_here() -> None:
    assert sorted(METHODS) == sorted(json.loads(GOLDEN.read_text())) == sorted(method_names())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps_lose_what_they_lost_before(name: str, runs: dict[str, Path]) -> None:
    """Processors round otherwise, which 20 steps carry on: the seventh digit is theirs, the fourth is not."""
    expected, found = json.loads(GOLDEN.read_text())[name], losses_of(runs[name])
    assert found.keys() == expected.keys()
    for loss, row in expected.items():
        assert len(row) == STEPS and [value is None for value in found[loss]] == [v is None for v in row]
        size = max(abs(value) for value in row if value is not None)
        for ours, theirs in zip(found[loss], row, strict=True):
            assert ours == theirs or ours == pytest.approx(theirs, rel=1e-4, abs=1e-4 * size), loss


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_ends_as_if_it_had_not_been(
    name: str, runs: dict[str, Path], bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between checkpoints, in both halves."""
    straight, out, take = runs[name], tmp_path / "run", TrainStep.take
    for end in (7, 13):

        def taken(self: TrainStep, at: int, *, end: int = end) -> dict[str, float]:
            if at == end:
                raise Killed
            return take(self, at)

        with monkeypatch.context() as patched:
            patched.setattr(TrainStep, "take", taken)
            with pytest.raises(Killed):
                train(name, bench, out)
    assert train(name, bench, out) == 0
    assert bytes_of(straight / "student") == bytes_of(out / "student")
    assert same(checkpoint(straight, STEPS), checkpoint(out, STEPS))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("name", METHODS)
def test_however_a_step_is_cut_up_the_same_student_comes_out(name: str, bench: Bench, tmp_path: Path) -> None:
    """Four items at once, four times one, two times two, and two ranks of two; an adversary left out.

    Its augmentations and penalties are drawn per micro-batch, so those of four items are others. Gradients
    agree to rounding at first; later what it does to signs of vanishing ones, Adam's steps make of it.
    """
    few = FEW | {"adversary__weight": 0.0}
    assert train(name, bench, tmp_path / "whole", **few, train__batch_size=4) == 0
    for out, (size, accumulation) in CUTS.items():
        cut = {"train__batch_size": size, "train__accumulation": accumulation}
        assert train(name, bench, tmp_path / out, **few, **cut) == 0
    flags = ("--bank", bench.bank(), "--method", name, "--quiet")
    told = SHARED | METHODS[name] | few | {"train__batch_size": 2, "train__checkpoint_every": 5}
    report = forked(
        kind="ranks", commands=[arguments(tmp_path / "ranks", *flags, **told)], ranks=2, out=str(tmp_path)
    )
    assert report["ends"] == [0, 0], report["err"]
    whole = checkpoint(tmp_path / "whole", 4)
    for out in (*CUTS, "ranks"):
        other = checkpoint(tmp_path / out, 4)
        assert whole.keys() == other.keys()
        for kind in (".weights.", "average.", ".exp_avg"):
            keys = [key for key in whole if kind in key]
            ours, theirs = (torch.cat([state[key].flatten() for key in keys]) for state in (whole, other))
            assert keys and float((ours - theirs).norm() / ours.norm()) < 1e-4, out


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("name", [name for name, told in METHODS.items() if "adversary__weight" in told])
def test_ranks_hold_the_same_student_and_adversary(name: str, bench: Bench, tmp_path: Path) -> None:
    flags = ("--bank", bench.bank(), "--method", name, "--quiet")
    command = arguments(tmp_path / "run", *flags, **(SHARED | METHODS[name] | FEW))
    report = forked(kind="ranks", commands=[command], ranks=2, out=str(tmp_path))
    assert report["ends"] == [0, 0], report["err"]
    held = [load_file(tmp_path / f"0-{rank}.safetensors") for rank in range(2)]
    assert same(*held) and any("discriminator" in key or key.endswith(".u") for key in held[0])
