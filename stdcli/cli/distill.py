"""`stdcli distill`: train a student of few steps on a teacher's paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stdcli.cli.options import (
    ConfigFile,
    Debug,
    Device,
    DryRun,
    Dtype,
    Json,
    Offline,
    Overwrite,
    PresetName,
    Quiet,
    Seed,
    Sets,
    Verbose,
    make_console,
)
from stdcli.config.load import Resolved, resolve
from stdcli.console import Console

if TYPE_CHECKING:
    from stdcli.distill.paths import TeacherRollout
    from stdcli.distill.train import Distilled


def distill(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="Folder of the run; the student: DIR/student."),
    ],
    bank: Annotated[
        str | None, typer.Option("--bank", metavar="DIR", help="A finished bank: stdcli bank build.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="DIR|FILE", help="Without a bank: pictures to walk from meanwhile."),
    ] = None,
    style_data: Annotated[
        str | None, typer.Option("--style-data", metavar="DIR", help="Style pictures of the bank or data.")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", metavar="NAME", help="std or lcm.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="The teacher, where it is not as the bank names it."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option("--init", metavar="RUN", help="Student to start from: a run, folder or file."),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="NAME", help="teacher, consistency or mix.")
    ] = None,
    student: Annotated[str | None, typer.Option("--student", metavar="KIND", help="lora or full.")] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", metavar="N", help="Of the LoRA. [default: 32]")
    ] = None,
    train_steps: Annotated[
        int | None, typer.Option("--train-steps", metavar="N", help="Training steps. [default: 1000]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", help="Per device. [default: 8]")
    ] = None,
    accumulation: Annotated[
        int | None, typer.Option("--accumulation", metavar="N", help="Batches per step. [default: 1]")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", metavar="X", help="[default: 0.0001]")
    ] = None,
    adv_weight: Annotated[
        float | None,
        typer.Option("--adv-weight", metavar="X", help="Of the adversarial loss; 0 is off. [default: 0]"),
    ] = None,
    adv_real: Annotated[
        str | None,
        typer.Option("--adv-real", metavar="NAME", help="Its real pictures: x0, path-end or style."),
    ] = None,
    sample_every: Annotated[
        int | None,
        typer.Option("--sample-every", metavar="N", help="Steps between sheets of samples; 0: none."),
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option("--checkpoint-every", metavar="N", help="Steps between checkpoints.")
    ] = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    offline: Offline = None,
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
    """Train a student of few steps on a teacher's paths.

    The same command goes on with a run that was stopped, and leaves a finished one alone; more --train-steps
    make that one longer, and --init starts another run from its student. Several devices:
    `accelerate launch` or `torchrun` before it.

    \b
    Examples:
      stdcli distill --bank banks/art -o runs/art
      stdcli distill --bank banks/art --adv-weight 0.3 --train-steps 4000 -o runs/sharp
      stdcli distill --data photos/ --style-data art/ --preset std-paper -o runs/paper
      stdcli stylize photo.jpg --style painting.jpg --student runs/art
    """
    is_main = os.environ.get("RANK", "0") == "0"  # of several processes one speaks
    console = make_console(as_json and is_main, quiet or not is_main, verbose=verbose, debug=debug)
    flags = {
        "bank": bank,
        "paths.data": data,
        "paths.style_data": style_data if bank is None else None,
        "style_data": style_data,
        "method": method,
        "model": model,
        "init": init,
        "std.target": target,
        "student.kind": student,
        "student.rank": rank,
        "train.steps": train_steps,
        "train.batch_size": batch_size,
        "train.accumulation": accumulation,
        "train.learning_rate": learning_rate,
        "adversary.weight": adv_weight,
        "adversary.real": adv_real,
        "train.sample_every": sample_every,
        "train.checkpoint_every": checkpoint_every,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "offline": offline,
    }
    resolved = resolve("distill", preset=preset, config_file=config, sets=sets or (), flags=flags)
    _show_settings(resolved, console, dry_run=dry_run)
    from stdcli.distill.train import distill as train

    def rollout() -> TeacherRollout:
        from stdcli.rollout.online import open_rollout

        return open_rollout(resolved.config.rollout_config(), console=console)

    config = resolved.config
    done = train(config, out=out, console=console, open_rollout=rollout, overwrite=overwrite, dry_run=dry_run)
    if is_main:
        _tell(done, resolved, console, out=out)


def _tell(done: Distilled, resolved: Resolved, console: Console, *, out: Path) -> None:
    if done.estimate is None:
        message = f"finished already: {done.student}" if done.was_finished else f"wrote {done.student}"
        console.result(message, path=done.student, was_finished=done.was_finished, run=done.facts)
        return
    plain = resolved.config.model_dump(mode="json")
    estimate = done.estimate
    console.note(estimate.elsewhere())
    message = f"nothing trained (dry run): {estimate.line()}"
    there = {"gpu_bytes": estimate.gpu_bytes, "fits_24gb": estimate.fits_24gb}
    console.result(message, path=out, dry_run=True, config=plain, **vars(estimate), **there)


def _show_settings(resolved: Resolved, console: Console, *, dry_run: bool) -> None:
    if dry_run and console.mode == "human":
        console.table(
            ("key", "value", "from"), [(key, value, layer) for key, value, layer in resolved.rows()]
        )
        console.result("")
