"""A method that this package does not know, registered from outside: trained, taken up again and sampled.

It is STD's stored states under the squared error, written against the seam alone, so that the student must
be the one that `--method std` makes, bit for bit; and it trains a number of its own in every second step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from torch import nn

from stdcli.cli.main import main
from stdcli.config import distill_methods
from stdcli.config.schema import Positive, Section
from stdcli.config.tasks import TASKS, register_method
from stdcli.diffusion.solvers import jump
from stdcli.distill.learner import STUDENT, Learner
from stdcli.distill.method import Method
from stdcli.distill.methods.std import StdSection, make_target_sampler
from stdcli.training.train_step import Loss
from tests.tiny_runs import Bench, bytes_of, checkpoint, distill, recipe, reports, same, weights

METER, RATE, STEPS = "meter", 0.25, 6
SHARED = {"std__window": "null", "train__log_every": 1, "train__schedule": "constant"}


class OutsideSection(Section):
    """Of the method below."""

    factor: Positive = 1.0
    """Of the student's loss."""


class Outside(Method):
    """The method; attributes as in `Method`."""

    name = "from-outside"
    title = "A method from outside"
    citation = "a method from outside"
    section = OutsideSection
    sampling = MappingProxyType({"sampler": "jump", "final": "level0"})
    needs = frozenset({"target"})

    def __init__(self, factor: float, table, target_sampler) -> None:
        self.factor, self.table, self.target_sampler = factor, table, target_sampler
        self.meter = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.meter.weight)

    @classmethod
    def from_settings(cls, config, *, paths, table):
        targets = make_target_sampler(StdSection(), paths.stored_levels(table), config.step_counts)
        return cls(config.section_of(cls).factor, table, targets)

    def learners(self, roles) -> list[Learner]:
        meter = Learner(METER, {"value": self.meter.weight}, learning_rate=RATE)
        return [*super().learners(roles), meter]

    def losses(self, roles, terms, batch, step: int) -> Iterator[Loss]:
        level, to_level = batch.levels(self.table)
        denoised = roles.student(batch.states, level, batch.cond, to_level=to_level)
        state = jump(batch.states, denoised, from_level=level, to_level=to_level)
        errors = (state - batch.targets).square().flatten(1).mean(1)
        yield Loss(STUDENT, self.factor * errors.mean(), {"loss/distance": errors.detach()})
        if step % 2 == 1:
            yield Loss(METER, (self.meter.weight - errors.mean().detach()).square().sum())


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(distill_methods, "_registered", {})
        patched.setitem(TASKS, "distill", TASKS["distill"])
        register_method(Outside)
        yield


@pytest.fixture(scope="module")
def run(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("outside") / "run"
    assert distill(out, "--bank", bench.bank(), "--method", "from-outside", **SHARED) == 0
    return out


def test_it_makes_the_student_of_the_method_that_it_copies(run: Path, bench: Bench, tmp_path: Path) -> None:
    settings = SHARED | {"train__loss": "l2"}
    assert distill(tmp_path / "std", "--bank", bench.bank(), **settings) == 0
    assert same(weights(run), weights(tmp_path / "std"))
    ours, theirs = (
        {k: v for k, v in checkpoint(out, STEPS).items() if METER not in k} for out in (run, tmp_path / "std")
    )
    assert same(ours, theirs)
    assert [row["loss/distance"] for row in reports(run)] == [
        row["loss/distance"] for row in reports(tmp_path / "std")
    ]


def test_what_it_trains_beside_the_student_moves_in_its_own_steps(run: Path) -> None:
    rows = reports(run)
    assert [f"loss/{METER}" in row for row in rows] == [False, True] * 3
    value = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.AdamW([value], lr=RATE, weight_decay=0.0)
    for row in rows[1::2]:
        optimizer.zero_grad()
        (value - row["loss/distance"]).square().sum().backward()
        assert row[f"grad/{METER}_norm"] == pytest.approx(value.grad.abs().item(), rel=1e-4)
        value.grad.clamp_(-1, 1)
        optimizer.step()
    kept = checkpoint(run, STEPS)
    assert kept[f"learner.{METER}.weights.value"].item() == pytest.approx(value.item(), rel=1e-4)
    assert kept[f"learner.{METER}.adam.0.step"] == 3 and kept["learner.student.adam.0.step"] == STEPS


def test_a_stopped_run_goes_on_to_the_same_bytes(run: Path, bench: Bench, tmp_path: Path) -> None:
    command = ("--bank", bench.bank(), "--method", "from-outside")
    assert distill(tmp_path / "run", *command, **SHARED, train__steps=3) == 0
    assert distill(tmp_path / "run", *command, **SHARED) == 0
    name = "student/pytorch_lora_weights.safetensors"
    assert bytes_of(run)[name] == bytes_of(tmp_path / "run")[name]
    assert same(checkpoint(run, STEPS), checkpoint(tmp_path / "run", STEPS))


def test_its_settings_are_its_own(run: Path, bench: Bench, tmp_path: Path, capsys) -> None:
    assert json.loads((run / "run.json").read_text())["config"]["from_outside"] == {"factor": 1.0}
    command = ("--bank", bench.bank(), "--method", "from-outside")
    assert distill(tmp_path / "twice", *command, "--set", "from_outside.factor=2", **SHARED) == 0
    assert [row["loss/student"] for row in reports(tmp_path / "twice")[:1]] == [
        pytest.approx(2 * reports(run)[0]["loss/student"], rel=1e-6)
    ]
    assert distill(tmp_path / "a", *command, "--set", "from_outside.factor=0", **SHARED) == 2
    assert distill(tmp_path / "b", *command, **(SHARED | {"std__window": 3})) == 2
    assert distill(tmp_path / "c", "--bank", bench.bank(), from_outside__factor=3, **SHARED) == 2
    assert distill(tmp_path / "d", "--bank", bench.bank(), "--method", "from-nowhere", **SHARED) == 2
    told = capsys.readouterr().err
    assert "from_outside.factor: must be greater than 0" in told
    assert "std.window: belongs to method std; from-outside does not use it" in told
    assert "from_outside.factor: belongs to method from-outside; std does not use it" in told
    assert "method: must be 'std', " in told and ", 'from-outside', " in told


def test_its_student_restyles(run: Path, bench: Bench, tmp_path: Path, capsys) -> None:
    assert recipe(run)["trained"]["method"] == "from-outside" and recipe(run)["sampler"] == "jump"
    photo = bench.photos / "a.png"
    command = [
        "stylize",
        str(photo),
        "--style",
        str(bench.art / "x.png"),
        "--model",
        str(bench.model("embedded")),
    ]
    command += ["--device", "cpu", "--dtype", "float32", "--json", "-o"]
    assert main([*command, str(tmp_path / "student.png"), "--student", str(run)]) == 0
    assert main([*command, str(tmp_path / "base.png"), "--student", "none", "--steps", "2"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["evaluations"] == lines[0]["forwards"] == 2
    assert (tmp_path / "student.png").read_bytes() != (tmp_path / "base.png").read_bytes()
