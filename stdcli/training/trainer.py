"""A run of training, whatever is trained: here steps are taken, reported, drawn, saved and taken up again.

A run is a list of stages, most often of one. `Trainer.run` is its loop and `Trainer._take_step` the one place
where a step is taken; what a step is, is the business of what is trained (`Trainable`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from stdcli.console import Console
from stdcli.errors import NumericsError, StdcliError
from stdcli.runtime.interrupt import deferred_interrupt
from stdcli.runtime.peak_memory import peak_bytes
from stdcli.training.boards import Board, NoBoard
from stdcli.training.run_folder import STEP, RunFolder, mean_of, step_name


class Trainable(Protocol):
    """What takes the steps of a stage, in every process of the run."""

    def train_step(self, number: int) -> dict[str, float]:
        """Take a step; its metrics by name.

        Args:
            number: of the step in its stage, from 0.

        Raises:
            NumericsError: a loss or gradient is not finite; the weights are as before the step.
        """

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """All that resuming needs beyond the step: named tensors, and further metadata."""

    def restore(self, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Go on where `state` was taken.

        Raises:
            KeyError, ValueError, RuntimeError: it is of something else.
        """

    def draw(self, path: Path) -> None:
        """Write pictures that show the progress; asked of the main process alone."""


@dataclass(frozen=True)
class Stage:
    """A part of a run with settings of its own.

    Attributes:
        trained: takes the steps.
        steps: how many.
        begin: called before the first one, though not where a run is taken up later: here a stage takes over
            what the one before has trained, as its start or as its teacher.
    """

    trained: Trainable
    steps: int
    begin: Callable[[], None] | None = None


@dataclass(frozen=True)
class Cadence:
    """Steps between two of a kind, which all come after the last step too; 0 draws no sheets."""

    log_every: int
    sample_every: int
    checkpoint_every: int


@dataclass
class Trainer:
    """Takes the steps of a run.

    Attributes:
        stages: in order.
        folder: of the run.
        accelerator: of this process; of several the main one alone reports, draws and writes.
        console: told of progress, under `label`.
        cadence: of reports, sheets and checkpoints.
        items_per_step: over all processes.
        remedy: what helps against divergence.
        board: takes the reports too.
        step: steps taken so far, over all stages.
    """

    stages: Sequence[Stage]
    folder: RunFolder
    accelerator: Accelerator
    console: Console
    label: str
    cadence: Cadence
    items_per_step: int
    remedy: str
    board: Board = field(default_factory=NoBoard)
    step: int = field(default=0, init=False)

    @property
    def total_steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    def resume(self) -> bool:
        """Take up the last checkpoint that is whole; False where there never was one.

        Raises:
            StdcliError: none is whole, or it is of another run or version of this program.
        """
        is_main = self.accelerator.is_main_process
        newest = self.folder.newest(warn=self.console.warning if is_main else lambda message: None)
        self.accelerator.wait_for_everyone()
        if newest is not None:
            self._restore(*newest)
            self.console.note(f"going on from step {self.step}")
        if is_main:
            self.folder.forget_after(self.step)
            self.folder.rewind_reports(self.step)
        return newest is not None

    def run(self) -> None:
        """Take the steps that are left.

        Raises:
            KeyboardInterrupt: a signal asked to stop; the state is saved.
            NumericsError: the training diverged; names the step and the last good checkpoint.
            ResourceError: the disk is full or refuses.
        """
        window: list[dict[str, float]] = []
        is_main = self.accelerator.is_main_process
        with self.console.progress(self.label, self.total_steps) as progress, deferred_interrupt() as stop:
            progress.advance(self.step)
            while self.step < self.total_steps:
                window.append(self._take_step())
                progress.advance()
                if self._is_due(self.cadence.log_every):
                    if is_main:
                        self._report(window)
                    window = []
                is_stopped = self._is_any(stop.requested)
                if self._is_due(self.cadence.checkpoint_every) or is_stopped:
                    self.save()
                if is_stopped:
                    raise KeyboardInterrupt
                if is_main and self._is_due(self.cadence.sample_every):
                    self._draw()

    def save(self) -> None:
        """Write the checkpoint of this step; every process takes part."""
        state, metadata = self._stage_of(self.step - 1)[0].trained.state()
        if self.accelerator.is_main_process:
            self.folder.save(self.step, state, metadata=metadata)
        self.accelerator.wait_for_everyone()

    def _take_step(self) -> dict[str, float]:
        stage, first = self._stage_of(self.step)
        if self.step == first and stage.begin is not None:
            stage.begin()
        began_s = time.perf_counter()
        try:
            metrics = stage.trained.train_step(self.step - first)
        except NumericsError as error:
            error.where = f"step {self.step}, {error.where}" if error.where else f"step {self.step}"
            good = self.folder.last_good()
            error.hint = self.remedy if good is None else f"last good checkpoint: {good}; {self.remedy}"
            raise
        self.step += 1
        return metrics | {"time/step_ms": (time.perf_counter() - began_s) * 1e3}

    def _stage_of(self, step: int) -> tuple[Stage, int]:
        """The stage of a step, of those beyond all the first or the last; and the stage's own first step."""
        first = 0
        for stage in self.stages[:-1]:
            if step < first + stage.steps:
                return stage, first
            first += stage.steps
        return self.stages[-1], first

    def _restore(self, path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        try:
            step = int(metadata["step"])
            self._stage_of(step - 1)[0].trained.restore(state, metadata)
        except (KeyError, ValueError, RuntimeError) as error:
            raise StdcliError(
                "this checkpoint is not of such a run", where=path, got=error, hint="--overwrite begins anew"
            ) from error
        self.step = step

    def _is_due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.total_steps)

    def _is_any(self, requested: bool) -> bool:
        """Whether any process was asked to stop."""
        if self.accelerator.num_processes == 1:
            return requested
        asked = torch.tensor(float(requested), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, reduction="sum") > 0)

    def _report(self, window: Sequence[Mapping[str, float]]) -> None:
        metrics = {STEP: self.step, "progress/samples": self.step * self.items_per_step}
        device = self.accelerator.device
        if device.type == "cuda":
            metrics["mem/peak_mib"] = peak_bytes(device) / 2**20
        metrics |= mean_of(window)
        self.folder.report(metrics)
        self.board.write(metrics, step=self.step)

    def _draw(self) -> None:
        path = self.folder.root / "samples" / f"{step_name(self.step)}.png"
        path.parent.mkdir(exist_ok=True)
        self._stage_of(self.step - 1)[0].trained.draw(path)
