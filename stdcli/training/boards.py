"""Metrics for TensorBoard, where it is installed and wanted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from stdcli.errors import ConfigError


class Board(Protocol):
    """Takes metrics."""

    def write(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Metrics of a step."""

    def close(self) -> None:
        """Write out what is left."""


class NoBoard:
    """Takes none."""

    def write(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class TensorBoard:
    """A folder of TensorBoard's event files.

    Args:
        folder: is created.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def write(self, metrics: Mapping[str, float], *, step: int) -> None:
        """One scalar per finite metric."""
        for name, value in metrics.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is left."""
        self._writer.close()


def check_board(*, wanted: bool) -> None:
    """Refuse early what `open_board` would.

    Raises:
        ConfigError: TensorBoard is wanted and not installed.
    """
    if wanted and find_spec("tensorboard") is None:
        problem = [("train.tensorboard", "the package tensorboard is not installed")]
        raise ConfigError("no TensorBoard here", problem, hint="pip install tensorboard")


def open_board(folder: Path, *, wanted: bool) -> Board:
    """A board in a folder, or one that takes nothing.

    Raises:
        ConfigError: TensorBoard is wanted and not installed.
    """
    check_board(wanted=wanted)
    return TensorBoard(folder) if wanted else NoBoard()
