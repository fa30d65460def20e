"""`stdcli teacher`: train the small model that students are distilled from."""

from __future__ import annotations

from pathlib import Path

from stdcli.cli.command import REQUIRED, Call, command, option, setting, show_settings
from stdcli.cli.options import shared
from stdcli.cli.usage import make_group
from stdcli.config.load import Resolved
from stdcli.console import Console


@command(
    option(
        "--out",
        Path,
        "DIR",
        "Folder of the run; the model will be in DIR/model.",
        short="-o",
        default=REQUIRED,
    ),
    setting("--data", str, "DIR", "Photos; or a folder that holds content/ and style/."),
    setting("--style-data", str, "DIR", "Artworks; default: the photos serve as both."),
    setting(
        "--paintings",
        str,
        "DIR",
        "Photos as they should become, with an index.csv: what the model learns to paint.",
    ),
    setting("--steps", int, "N", "Training steps of the denoiser.", key="train.steps"),
    *shared("seed device"),
    setting("--dtype", str, "NAME", "auto, float32, bfloat16 or float16.", key="train.dtype"),
    *shared("preset config set overwrite dry_run"),
)
def train(call: Call, *, out: Path, overwrite: bool, dry_run: bool) -> None:
    """Train a small stylizer from a folder of pictures and write it as a diffusers folder.

    The same command goes on with a run that was stopped, and leaves a finished one alone.

    \b
    Examples:
      stdcli teacher train --data pictures/ -o runs/teacher
      stdcli teacher train --data photos/ --style-data art/ --preset embedded-gpu -o runs/teacher
      stdcli teacher train --data pictures/ --paintings painted/ --preset painter-cpu -o runs/painter
      stdcli teacher train --config runs/teacher/run.json --seed 1 -o runs/another
    """
    console = call.console
    resolved = call.resolve("teacher")
    if dry_run:
        _show_plan(resolved, out=out, overwrite=overwrite, console=console)
        return
    from stdcli.teacher.train import train_teacher

    trained = train_teacher(resolved.config, out=out, console=console, overwrite=overwrite)
    message = f"wrote {trained.model}"
    if trained.was_finished:
        message = f"finished already: {trained.model}"
    console.result(message, path=trained.model, was_finished=trained.was_finished, run=trained.metadata)


def _show_plan(resolved: Resolved, *, out: Path, overwrite: bool, console: Console) -> None:
    from stdcli.teacher.teacher_run import plan_stages

    stages = plan_stages(resolved.config, out=out, overwrite=overwrite)
    plain = resolved.config.model_dump(mode="json")
    show_settings(resolved, console)
    console.table(("stage", "work", "state"), stages, path=out, dry_run=True, config=plain)


GROUP = make_group("teacher", "Train a small stylizer of your own.", {"train": train})
