"""`stdcli export`: a student as files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stdcli.cli.options import Debug, DryRun, Json, Offline, Overwrite, Quiet, Verbose, make_console


def export(
    student: Annotated[
        str,
        typer.Argument(
            metavar="STUDENT",
            help="A run, a student's folder, a LoRA file, a Hub id, or 'embedded'.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="PATH", help="NAME.safetensors is one file, else a folder."),
    ],
    format: Annotated[
        str,
        typer.Option("--format", metavar="NAME", help="diffusers or kohya (a LoRA), or merged (a model)."),
    ] = "diffusers",
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="Base of a merge, where the recipe names none."),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option("--dtype", metavar="NAME", help="Of the stored weights; auto: as they are."),
    ] = "auto",
    offline: Offline = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write a student in the form that another program reads.

    A LoRA by diffusers' names (load_lora_weights), one by kohya's (ComfyUI and others), or the base with the
    student merged into it: a diffusers folder, or one file. Every layer arrives, or nothing is written.

    \b
    Examples:
      stdcli export runs/mine -o lora/
      stdcli export runs/mine --format kohya -o mine.safetensors
      stdcli export runs/mine --format merged -o merged/
      stdcli export lora.safetensors --format merged --model ./my-sdxl-folder -o merged.safetensors
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
    from stdcli.export.student_export import plan_export, write_export

    planned = plan_export(
        student,
        format=format,
        out=out,
        model=model,
        dtype=dtype,
        offline=bool(offline),
        overwrite=overwrite,
    )
    facts = planned.facts()
    for note in planned.notes:
        console.warning(note)
    if not dry_run:
        write_export(planned)
    told = ", ".join(f"{name} {facts[name]}" for name in ("layers", "rank", "alpha", "base") if name in facts)
    console.result(f"{'would write' if dry_run else 'wrote'} {out}: {told}", dry_run=dry_run, **facts)
    if "usage" in facts:
        console.note(f"plain diffusers: {facts['usage']}")
