"""Distribution matching as a command: cut up, stopped, on two processes, and sampled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_runs import (
    Bench,
    arguments,
    bytes_of,
    checkpoint,
    distill,
    forked,
    recipe,
    reports,
    same,
)

STEPS = 6
METHOD = {
    "std__window": "null",
    "dmd2__every": 2,
    "dmd2__real_scale": 0.5,
    "adversary__weight": 0.5,
    "adversary__features": "teacher",
    "adversary__loss": "non-saturating",
    "adversary__gradient_penalty": 0.0,
    "train__steps": STEPS,
    "train__batch_size": 4,
    "train__learning_rate": 1e-4,  # rounding decides the sign of vanishing gradients, and Adam's steps by it
    "train__log_every": 1,
    "train__checkpointing": "true",
}
LEARNERS = ("student", "fake_score", "discriminator")


def command(bench: Bench) -> tuple:
    return ("--bank", bench.bank(), "--method", "dmd2", "--quiet")


@pytest.fixture(scope="module")
def whole(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, four items at once."""
    out = tmp_path_factory.mktemp("dmd2") / "run"
    assert distill(out, *command(bench), **METHOD) == 0
    return out


def assert_alike(first: Path, second: Path) -> None:
    """Weights of all that is trained, and Adam's means of their gradients."""
    ours, theirs = checkpoint(first, STEPS), checkpoint(second, STEPS)
    assert ours.keys() == theirs.keys()
    for learner in LEARNERS:
        for kind, error in ((".weights.", 1e-6), (".exp_avg", 2e-5)):
            names = [name for name in ours if f"learner.{learner}." in name and kind in name]
            one, two = (torch.cat([s[n].flatten() for n in names]).double() for s in (ours, theirs))
            assert float((one - two).norm() / one.norm()) < error, (learner, kind)


def test_all_that_is_trained_moves_in_its_own_steps_and_is_kept(whole: Path) -> None:
    rows, kept = reports(whole), checkpoint(whole, STEPS)
    assert ["grad/student_norm" in row for row in rows] == [True, False] * 3
    assert all(row[f"grad/{name}_norm"] > 0 for row in rows for name in LEARNERS[1:])
    counts = {name: int(kept[f"learner.{name}.adam.0.step"]) for name in LEARNERS}
    assert counts == {"student": 3, "fake_score": STEPS, "discriminator": STEPS}
    names = [name.removeprefix("learner.student.") for name in kept if name.startswith("learner.student.w")]
    assert names and all(f"learner.fake_score.{name}" in kept for name in names)
    ups = [n for n in names if "lora_B" in n and kept[f"learner.fake_score.{n}"].any()]  # they begin as 0
    assert len(ups) > len(names) / 4
    assert not any(torch.equal(kept[f"learner.student.{n}"], kept[f"learner.fake_score.{n}"]) for n in ups)
    assert recipe(whole)["sampler"] == "renoise" and recipe(whole)["final"] == "x0"
    assert recipe(whole)["trained"]["method"] == "dmd2"


@pytest.mark.parametrize("size", [1, 2])
def test_accumulation_is_a_larger_batch(whole: Path, bench: Bench, tmp_path: Path, size: int) -> None:
    cut = {"train__batch_size": size, "train__accumulation": 4 // size}
    assert distill(tmp_path / "run", *command(bench), **(METHOD | cut)) == 0
    assert_alike(whole, tmp_path / "run")


def test_a_stopped_run_goes_on_to_the_same_bytes(whole: Path, bench: Bench, tmp_path: Path) -> None:
    """Stopped between two steps of the student."""
    out, constant = tmp_path / "run", {"train__schedule": "constant"}
    assert distill(tmp_path / "straight", *command(bench), **(METHOD | constant)) == 0
    assert distill(out, *command(bench), **(METHOD | constant | {"train__steps": 3})) == 0
    assert distill(out, *command(bench), **(METHOD | constant)) == 0
    assert same(checkpoint(tmp_path / "straight", STEPS), checkpoint(out, STEPS))
    name = "student/pytorch_lora_weights.safetensors"
    assert bytes_of(tmp_path / "straight")[name] == bytes_of(out)[name]


def test_settings_that_do_not_fit_are_told(bench: Bench, tmp_path: Path, capsys) -> None:
    flags = command(bench)
    assert distill(tmp_path / "a", *flags, **(METHOD | {"dmd2__tau": "0.9,0.1"})) == 2
    assert distill(tmp_path / "b", *flags, **(METHOD | {"student__kind": "full"})) == 2
    assert distill(tmp_path / "c", *flags[:2], "--quiet", **(METHOD | {"method": "lcm"})) == 2
    told = capsys.readouterr().err
    assert "dmd2.tau: 0.9 is above 0.1" in told
    assert "dmd2.real_scale: needs student.kind lora" in told
    assert "dmd2.every: belongs to method dmd2; lcm does not use it" in told


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_two_processes_learn_what_one_learns(whole: Path, bench: Bench, tmp_path: Path) -> None:
    halves = arguments(tmp_path / "run", *command(bench), **(METHOD | {"train__batch_size": 2}))
    report = forked(kind="ranks", commands=[halves], ranks=2, out=str(tmp_path))
    assert report["ends"] == [0, 0], report["err"]
    held = [load_file(tmp_path / f"0-{rank}.safetensors") for rank in range(2)]
    assert same(*held) and any("fake_score" in name for name in held[0])
    assert_alike(whole, tmp_path / "run")
