"""`stdcli export`: a student as files for other programs."""

from __future__ import annotations

from pathlib import Path

from stdcli.cli.command import REQUIRED, Call, argument, command, option
from stdcli.cli.options import shared


@command(
    argument(
        "student",
        str,
        "STUDENT",
        "A run, a student's folder, a LoRA file, a Hub id, or 'embedded'.",
        show_default=False,
    ),
    option(
        "--out", Path, "PATH", "NAME.safetensors is one file, else a folder.", short="-o", default=REQUIRED
    ),
    option("--format", str, "NAME", "diffusers or kohya (a LoRA), or merged (a model).", default="diffusers"),
    option("--model", str, "NAME", "Base of a merge, where the recipe names none."),
    option("--dtype", str, "NAME", "Of the stored weights; auto: as they are.", default="auto"),
    *shared("offline overwrite dry_run"),
)
def export(
    call: Call,
    *,
    student: str,
    out: Path,
    format: str,
    model: str | None,
    dtype: str,
    overwrite: bool,
    dry_run: bool,
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
    console = call.console
    from stdcli.export.student_export import plan_export, write_export

    planned = plan_export(
        student,
        format=format,
        out=out,
        model=model,
        dtype=dtype,
        offline=bool(call.flags["offline"]),
        overwrite=overwrite,
    )
    facts = planned.metadata()
    for note in planned.notes:
        console.warning(note)
    if not dry_run:
        write_export(planned)
    told = ", ".join(f"{name} {facts[name]}" for name in ("layers", "rank", "alpha", "base") if name in facts)
    console.result(f"{'would write' if dry_run else 'wrote'} {out}: {told}", dry_run=dry_run, **facts)
    if "usage" in facts:
        console.note(f"plain diffusers: {facts['usage']}")
