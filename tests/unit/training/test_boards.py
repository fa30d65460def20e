"""Metrics for TensorBoard, read back by its own reader where it is installed."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from stdcli.errors import ConfigError
from stdcli.training.boards import NoBoard, open_board


def test_nothing_is_written_unless_wanted(tmp_path: Path) -> None:
    board = open_board(tmp_path / "board", wanted=False)
    board.write({"loss": 1.0}, step=1)
    board.close()
    assert isinstance(board, NoBoard) and not (tmp_path / "board").exists()


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError) as told:
        open_board(tmp_path, wanted=True)
    assert told.value.hint == "pip install tensorboard"
    assert told.value.problems == [("train.tensorboard", "the package tensorboard is not installed")]


@pytest.mark.filterwarnings("default")
def test_finite_metrics_come_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = open_board(tmp_path, wanted=True)
    board.write({"loss/student": 2.5, "loss/level_1_to_9": math.nan}, step=3)
    board.write({"loss/student": 1.5}, step=6)
    board.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/student")] == [(3, 2.5), (6, 1.5)]
    assert events.Tags()["scalars"] == ["loss/student"]
