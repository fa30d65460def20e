"""`stdcli teacher`: train the small model that students are distilled from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stdcli.cli.options import (
    ConfigFile,
    Debug,
    Device,
    DryRun,
    Dtype,
    Json,
    Overwrite,
    PresetName,
    Quiet,
    Seed,
    Sets,
    Verbose,
    make_console,
)
from stdcli.cli.usage import make_group
from stdcli.config.load import Resolved, resolve
from stdcli.console import Console

app = make_group("teacher", "Train a small stylizer of your own.")

Data = Annotated[
    str | None,
    typer.Option("--data", metavar="DIR", help="Photos; or a folder that holds content/ and style/."),
]
StyleData = Annotated[
    str | None,
    typer.Option("--style-data", metavar="DIR", help="Artworks; default: the photos serve as both."),
]
Paintings = Annotated[
    str | None,
    typer.Option(
        "--paintings",
        metavar="DIR",
        help="Photos as they should become, with an index.csv: what the model learns to paint.",
    ),
]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="DIR", help="Folder of the run; the model will be in DIR/model."),
]
Steps = Annotated[int | None, typer.Option("--steps", metavar="N", help="Training steps of the denoiser.")]


@app.command()
def train(
    out: Out,
    data: Data = None,
    style_data: StyleData = None,
    paintings: Paintings = None,
    steps: Steps = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    preset: PresetName = None,
    config: ConfigFile = None,
    sets: Sets = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train a small stylizer from a folder of pictures and write it as a diffusers folder.

    The same command goes on with a run that was stopped, and leaves a finished one alone.

    \b
    Examples:
      stdcli teacher train --data pictures/ -o runs/teacher
      stdcli teacher train --data photos/ --style-data art/ --preset embedded-gpu -o runs/teacher
      stdcli teacher train --data pictures/ --paintings painted/ --preset painter-cpu -o runs/painter
      stdcli teacher train --config runs/teacher/run.json --seed 1 -o runs/another
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
    flags = {
        "data": data,
        "style_data": style_data,
        "paintings": paintings,
        "train.steps": steps,
        "seed": seed,
        "device": device,
        "train.dtype": dtype,
    }
    resolved = resolve("teacher", preset=preset, config_file=config, sets=sets or (), flags=flags)
    if dry_run:
        _show_plan(resolved, out=out, overwrite=overwrite, console=console)
        return
    from stdcli.teacher.train import train_teacher

    trained = train_teacher(resolved.config, out=out, console=console, overwrite=overwrite)
    message = f"wrote {trained.model}"
    if trained.was_finished:
        message = f"finished already: {trained.model}"
    console.result(message, path=trained.model, was_finished=trained.was_finished, run=trained.facts)


def _show_plan(resolved: Resolved, *, out: Path, overwrite: bool, console: Console) -> None:
    from stdcli.teacher.run import plan_stages

    stages = plan_stages(resolved.config, out=out, overwrite=overwrite)
    plain = resolved.config.model_dump(mode="json")
    if console.mode == "human":
        console.table(
            ("key", "value", "from"), [(key, value, layer) for key, value, layer in resolved.rows()]
        )
        console.result("")
    console.table(("stage", "work", "state"), stages, path=out, dry_run=True, config=plain)
