"""What the trainer trains in a distillation: its steps, its state in checkpoints, its sheets of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from accelerate.utils import gather_object
from torch import Tensor

from stdcli.distill.adversary_setup import GetCodec
from stdcli.distill.setup import Training
from stdcli.distill.student_sheet import StudentSheet
from stdcli.media.image import Picture, write_image
from stdcli.training.train_step import TrainStep


@dataclass
class Distillation:
    """A `training.trainer.Trainable`: one stage of a distillation.

    Attributes:
        training: networks, what is trained, averages, batches.
        step: takes the steps.
        get_codec: loads what decodes sheets.
        sheet: what is drawn; None where nothing is.
        first_step: of the stage, counted through the run.
    """

    training: Training
    step: TrainStep
    get_codec: GetCodec
    sheet: StudentSheet | None = None
    first_step: int = 0

    def train_step(self, number: int) -> dict[str, float]:
        """One step of what gets a loss in it."""
        return self.step.take(self.first_step + number)

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Sources of all processes, what is trained, averages; and how often those were updated."""
        rank = self.step.accelerator.process_index
        own = self.training.task.source.state()
        sources = gather_object([{f"source.{rank}.{name}": value for name, value in own.items()}])
        state = {name: value for source in sources for name, value in source.items()}
        for trained in self.training.trained_modules:
            state |= {f"learner.{name}": value for name, value in trained.state().items()}
        for kind, ema in self.training.ema.items():
            state |= {f"average.{kind}.{name}": value for name, value in ema.average.items()}
        return state, {f"average.{kind}.updates": str(ema.updates) for kind, ema in self.training.ema.items()}

    def restore(self, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Go on where `state` was taken."""
        for trained in self.training.trained_modules:
            trained.restore(_below(state, "learner."))
        for kind, ema in self.training.ema.items():
            for name, value in _below(state, f"average.{kind}.").items():
                ema.average[name].copy_(value)
            ema.updates = int(metadata[f"average.{kind}.updates"])
        rank = self.step.accelerator.process_index
        self.training.task.source.restore(_below(state, f"source.{rank}."))

    def draw(self, path: Path) -> None:
        """Write the sheet."""
        weights = self.training.exported()
        picture = self.sheet.render(self.training.roles, self.get_codec(), weights=weights)
        write_image(path, Picture(picture), overwrite=True)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
