"""The one loop that trains, over a weight whose every value is known beforehand."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stdcli.console import Console
from stdcli.errors import NumericsError, StdcliError
from stdcli.runtime.devices import choose
from stdcli.runtime.interrupt import stopped_by_signals
from stdcli.training.checkpoint import load_checkpoint
from stdcli.training.run_folder import RunFolder
from stdcli.training.train_step import make_accelerator
from stdcli.training.trainer import Cadence, Stage, Trainer
from tests.tiny_accelerator import forget_accelerator

SPEED, START = 0.25, 1.0


@dataclass
class Pulled:
    """w <- w + SPEED (target - w): n steps leave (1 - SPEED)^n of the distance to the target."""

    target: float
    on_step: Callable[[int], None] = lambda number: None
    events: list[tuple[str, int]] = field(default_factory=list)
    weight: Tensor = field(default_factory=lambda: torch.tensor([START], dtype=torch.float64))
    taken: int = 0

    def train_step(self, number: int) -> dict[str, float]:
        self.events.append(("step", number))
        self.on_step(number)
        self.weight += SPEED * (self.target - self.weight)
        self.taken += 1
        return {"loss/distance": abs(self.target - self.weight.item())}

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        self.events.append(("save", self.taken))
        return {"weight": self.weight.clone()}, {"taken": str(self.taken), "target": str(self.target)}

    def restore(self, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        self.weight.copy_(state["weight"])
        self.taken, self.target = int(metadata["taken"]), float(metadata["target"])

    def draw(self, path: Path) -> None:
        self.events.append(("draw", self.taken))
        path.write_text(str(self.weight.item()))


def pulled(start: float, target: float, steps: int) -> float:
    return target + (start - target) * (1 - SPEED) ** steps


@pytest.fixture(autouse=True, scope="module")
def accelerator() -> Iterator[None]:
    forget_accelerator()
    yield
    forget_accelerator()


def trainer_of(folder: Path, *stages: Stage, every: tuple[int, int, int] = (4, 3, 5)) -> Trainer:
    folder.mkdir(exist_ok=True)
    return Trainer(
        stages,
        RunFolder(folder),
        make_accelerator(choose("cpu", "float32")),
        Console("human"),
        label="toy",
        cadence=Cadence(*every),
        items_per_step=6,
        remedy="a smaller step",
    )


def reports(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def checkpoint(folder: Path, step: int) -> float:
    return load_file(folder / f"checkpoints/step-{step:06d}.safetensors")["weight"].item()


def content(folder: Path, step: int) -> tuple[bytes, dict[str, str]]:
    """The weight's bits and all metadata; the file itself has its metadata in any order."""
    tensors, metadata = load_checkpoint(folder / f"checkpoints/step-{step:06d}.safetensors")
    return tensors["weight"].numpy().tobytes(), metadata


def names(folder: Path, kind: str) -> list[str]:
    return sorted(path.stem.removeprefix("step-") for path in (folder / kind).iterdir())


def stopping(at: int, number: int) -> Callable[[int], None]:
    return lambda step: signal.raise_signal(number) if step == at else None


def test_everything_comes_in_its_time_and_once_more_at_the_end(tmp_path: Path) -> None:
    pull = Pulled(target=3.0)
    trainer = trainer_of(tmp_path, Stage(pull, 11))
    assert not trainer.resume()
    trainer.run()
    assert trainer.step == 11
    saved, drawn = {5: 5, 10: 10, 11: 11}, {3, 6, 9, 11}
    expected = []
    for step in range(1, 12):
        expected += [("step", step - 1)]
        expected += [("save", step)] if step in saved else []
        expected += [("draw", step)] if step in drawn else []
    assert pull.events == expected
    assert names(tmp_path, "checkpoints") == ["000010", "000011"]
    assert names(tmp_path, "samples") == ["000003", "000006", "000009", "000011"]
    assert checkpoint(tmp_path, 10) == pytest.approx(pulled(START, 3.0, 10), rel=1e-14)
    assert float((tmp_path / "samples/step-000006.png").read_text()) == pytest.approx(
        pulled(START, 3.0, 6), rel=1e-14
    )


def test_a_report_is_the_mean_of_the_steps_since_the_last_one(tmp_path: Path) -> None:
    trainer_of(tmp_path, Stage(Pulled(target=3.0), 11)).run()
    rows = reports(tmp_path)
    assert [row["progress/step"] for row in rows] == [4, 8, 11]
    assert [row["progress/samples"] for row in rows] == [24, 48, 66]
    for row, steps in zip(rows, (range(1, 5), range(5, 9), range(9, 12)), strict=True):
        distances = [3.0 - pulled(START, 3.0, step) for step in steps]
        assert row["loss/distance"] == pytest.approx(sum(distances) / len(distances), rel=1e-6)
        assert row.keys() == {"progress/step", "progress/samples", "loss/distance", "time/step_ms"}
        assert 0 < row["time/step_ms"] < 60_000


def test_no_sheets_where_none_are_asked_for(tmp_path: Path) -> None:
    trainer_of(tmp_path, Stage(Pulled(target=3.0), 4), every=(4, 0, 4)).run()
    assert not (tmp_path / "samples").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_has_its_last_step_saved_and_goes_on_to_the_same_bits(
    tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer_of(tmp_path / "whole", Stage(Pulled(target=3.0), 11)).run()
    first = Pulled(target=3.0, on_step=stopping(5, number))
    stopped = trainer_of(tmp_path / "stopped", Stage(first, 11))
    with stopped_by_signals(), pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert stopped.step == 6 and first.events[-2:] == [("step", 5), ("save", 6)]
    assert checkpoint(tmp_path / "stopped", 6) == pytest.approx(pulled(START, 3.0, 6), rel=1e-14)
    second = Pulled(target=0.0)
    resumed = trainer_of(tmp_path / "stopped", Stage(second, 11))
    assert resumed.resume() and resumed.step == 6
    assert "going on from step 6" in capsys.readouterr().err
    resumed.run()
    assert second.events[0] == ("step", 6)
    whole, again = (tmp_path / name for name in ("whole", "stopped"))
    assert all(content(whole, step) == content(again, step) for step in (10, 11))
    assert [row["progress/step"] for row in reports(again)] == [4, 8, 11]
    assert reports(again)[0]["loss/distance"] == reports(whole)[0]["loss/distance"]


def test_a_killed_run_takes_the_steps_after_its_checkpoint_again(tmp_path: Path) -> None:
    def die(number: int) -> None:
        if number == 8:
            raise OSError("the power is gone")

    with pytest.raises(OSError, match="power"):
        trainer_of(tmp_path, Stage(Pulled(target=3.0, on_step=die), 11)).run()
    assert [row["progress/step"] for row in reports(tmp_path)] == [4, 8]
    trainer = trainer_of(tmp_path, Stage(Pulled(target=3.0), 11))
    assert trainer.resume() and trainer.step == 5
    assert [row["progress/step"] for row in reports(tmp_path)] == [4]  # that of step 8 is made again
    trainer.run()
    assert [row["progress/step"] for row in reports(tmp_path)] == [4, 8, 11]
    assert checkpoint(tmp_path, 11) == pytest.approx(pulled(START, 3.0, 11), rel=1e-14)


def test_a_damaged_checkpoint_is_warned_of_and_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer_of(tmp_path, Stage(Pulled(target=3.0), 11)).run()
    last = tmp_path / "checkpoints/step-000011.safetensors"
    whole = content(tmp_path, 11)
    last.write_bytes(last.read_bytes()[:-1] + b"?")
    trainer = trainer_of(tmp_path, Stage(Pulled(target=3.0), 11))
    assert trainer.resume() and trainer.step == 10
    assert f"{last} is damaged" in capsys.readouterr().err and not last.exists()
    trainer.run()
    assert content(tmp_path, 11) == whole


def test_divergence_names_step_data_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    def diverge(at: int) -> Callable[[int], None]:
        def on_step(number: int) -> None:
            if number == at:
                raise NumericsError("loss/distance is not finite", where="samples 4, 5", got=float("nan"))

        return on_step

    early = trainer_of(tmp_path / "early", Stage(Pulled(3.0, diverge(2)), 11))
    late = trainer_of(tmp_path / "late", Stage(Pulled(3.0, diverge(7)), 11))
    with pytest.raises(NumericsError) as first:
        early.run()
    with pytest.raises(NumericsError) as second:
        late.run()
    good = tmp_path / "late/checkpoints/step-000005.safetensors"
    assert (first.value.where, first.value.hint) == ("step 2, samples 4, 5", "a smaller step")
    assert second.value.where == "step 7, samples 4, 5"
    assert second.value.hint == f"last good checkpoint: {good}; a smaller step"
    assert late.step == 7 and names(tmp_path / "late", "checkpoints") == ["000005"]


def staged(folder: Path, *, every: int = 5, on_step: Callable[[int], None] = lambda number: None) -> Trainer:
    """Four steps to 3; then six to twice the weight that the first stage ends with."""
    first = Pulled(target=3.0)
    second = Pulled(target=-99.0, on_step=on_step, events=first.events)

    def begin() -> None:
        second.events.append(("begin", first.taken))
        second.weight.copy_(first.weight)
        second.target = 2 * first.weight.item()

    return trainer_of(folder, Stage(first, 4), Stage(second, 6, begin), every=(4, 0, every))


def test_stages_follow_each_other_and_a_stage_begins_where_the_one_before_ended(tmp_path: Path) -> None:
    trainer = staged(tmp_path)
    trainer.run()
    events = trainer.stages[0].trained.events
    assert [event for event in events if event[0] != "save"] == [
        *(("step", number) for number in range(4)),
        ("begin", 4),
        *(("step", number) for number in range(6)),
    ]
    middle = pulled(START, 3.0, 4)
    assert checkpoint(tmp_path, 10) == pytest.approx(pulled(middle, 2 * middle, 6), rel=1e-14)
    assert trainer.step == trainer.total_steps == 10
    assert [row["progress/step"] for row in reports(tmp_path)] == [4, 8, 10]


@pytest.mark.parametrize(("every", "begins"), [(4, 1), (5, 0)], ids=["between the stages", "in the second"])
def test_a_run_is_taken_up_in_the_stage_where_it_was(tmp_path: Path, every: int, begins: int) -> None:
    """The checkpoint is of step 4, where the second stage is still to begin; or of step 5, its first."""
    staged(tmp_path / "whole", every=every).run()

    def die(number: int) -> None:
        if number == 2:  # of the second stage; the seventh of the run
            raise OSError("the power is gone")

    with pytest.raises(OSError, match="power"):
        staged(tmp_path / "again", every=every, on_step=die).run()
    trainer = staged(tmp_path / "again", every=every)
    assert trainer.resume() and trainer.step == every
    trainer.run()
    events = trainer.stages[0].trained.events
    assert [event[0] for event in events].count("begin") == begins
    assert [event for event in events if event[0] == "step"] == [
        ("step", number) for number in range(every - 4, 6)
    ]
    assert content(tmp_path / "whole", 10) == content(tmp_path / "again", 10)


def test_a_run_that_is_longer_than_asked_for_takes_no_step(tmp_path: Path) -> None:
    trainer_of(tmp_path, Stage(Pulled(target=3.0), 11)).run()
    pull = Pulled(target=3.0)
    trainer = trainer_of(tmp_path, Stage(Pulled(target=9.0), 2), Stage(pull, 3))
    assert trainer.resume()
    trainer.run()
    assert trainer.step == pull.taken == 11 and pull.events == []


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    path = RunFolder(tmp_path).save(3, {"other": torch.zeros(1)}, metadata={"taken": "3", "target": "3"})
    trainer = trainer_of(tmp_path, Stage(Pulled(target=3.0), 11))
    with pytest.raises(StdcliError, match="not of such a run") as caught:
        trainer.resume()
    assert caught.value.where == str(path) and "--overwrite" in caught.value.hint and trainer.step == 0
