"""`stdcli stylize`: restyle pictures and clips."""

from __future__ import annotations

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
from stdcli.cli.stylizing import (
    Base,
    Batch,
    Codec,
    Crf,
    Duration,
    Fps,
    Gamma,
    Guidance,
    Lora,
    Match,
    MaxSize,
    Model,
    Negative,
    NoAudio,
    NoMetadata,
    Output,
    PixFmt,
    Prompt,
    Start,
    Steps,
    Strength,
    Strict,
    Student,
    Style,
    StyleWeights,
    Temporal,
    Timesteps,
)
from stdcli.cli.usage import command_line
from stdcli.config.load import resolve
from stdcli.console import Console
from stdcli.errors import ConfigError

if TYPE_CHECKING:
    from stdcli.config.schema import StylizeConfig
    from stdcli.inference.targets import JobPlan

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="IN...", help="Pictures, clips, folders, globs or numbered frames (dir/%05d.png)."
    ),
]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="DIR", help="Measure the results, as stdcli eval measure, and report."),
]


def stylize(
    inputs: Inputs,
    style: Style = None,
    output: Output = None,
    steps: Steps = None,
    strength: Strength = None,
    guidance: Guidance = None,
    timesteps: Timesteps = None,
    gamma: Gamma = None,
    match_style_statistics: Match = None,
    style_weights: StyleWeights = None,
    prompt: Prompt = None,
    negative_prompt: Negative = None,
    model: Model = None,
    base: Base = None,
    student: Student = None,
    strict: Strict = False,
    lora: Lora = None,
    max_size: MaxSize = None,
    batch: Batch = None,
    fps: Fps = None,
    start: Start = None,
    duration: Duration = None,
    temporal: Temporal = None,
    codec: Codec = None,
    crf: Crf = None,
    pix_fmt: PixFmt = None,
    no_audio: NoAudio = False,
    report: Report = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    offline: Offline = None,
    preset: PresetName = None,
    config: ConfigFile = None,
    sets: Sets = None,
    overwrite: Overwrite = False,
    no_metadata: NoMetadata = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Repaint pictures and clips in the style of a picture.

    Size, frame rate, length and sound stay as they are. The result goes beside the input, with `.std`
    before the suffix, unless -o says otherwise; the recipe goes into it and into a JSON file beside it.

    \b
    Examples:
      stdcli stylize photo.jpg --style painting.png
      stdcli stylize clip.mp4 --style painting.png --steps 4 -o painted.mp4
      stdcli stylize 'photos/*.jpg' --style a.png --style b.png --style-weights 2,1 -o out/
      stdcli stylize other.jpg --config photo.std.png.json
      stdcli stylize 'shot/%05d.png' --style a.png --fps 24 -o shot.mov
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
    flags = {
        "model": model,
        "base": base,
        "student": student,
        "style": style,
        "style_weights": style_weights,
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "lora": lora,
        "steps": steps,
        "timesteps": timesteps,
        "strength": strength,
        "guidance": guidance,
        "gamma": gamma,
        "match_style_statistics": match_style_statistics,
        "seed": seed,
        "max_size": max_size,
        "batch": batch,
        "fps": fps,
        "start": start,
        "duration": duration,
        "temporal": temporal,
        "codec": codec,
        "crf": crf,
        "pix_fmt": pix_fmt,
        "audio": False if no_audio else None,
        "device": device,
        "dtype": dtype,
        "offline": offline,
    }
    resolved = resolve("stylize", preset=preset, config_file=config, sets=sets or (), flags=flags)
    from stdcli.inference.targets import plan

    keep = {"overwrite": overwrite, "metadata": not no_metadata}
    work = plan(resolved.config, inputs, output=output, **keep)
    if report is not None:
        _check_report(resolved.config, work, report, overwrite=overwrite)
    from stdcli.inference.stylize import (
        stylize as run,  # brings the models, seconds that a refusal need not wait for
    )

    run(resolved.config, work, dry_run=dry_run, strict=strict, console=console, **keep)
    if report is not None and not dry_run:
        _report(resolved.config, work, report, console)


def _check_report(config: StylizeConfig, work: JobPlan, out: Path, *, overwrite: bool) -> None:
    """Refuse a report that could not be made, before any work.

    Raises:
        ConfigError: parts of clips, or clips at another rate, have no frames to be compared with.
        MediaError: the folder holds other things.
        ResourceError: a package that a report needs is not installed.
    """
    asked = [f"--{name}" for name in ("start", "duration", "fps") if getattr(config, name) is not None]
    if asked:
        problem = (
            f"compares a clip with its source frame by frame, from the start; leave {', '.join(asked)} out"
        )
        raise ConfigError("no report of this", [("--report", problem)])
    from stdcli.evaluate.measure import check_motion, check_request
    from stdcli.evaluate.report import check_folder

    measured = resolve("eval").config
    check_request(measured, timed=False)
    if any(target.clip is not None for target in work.targets):
        check_motion(measured)
    check_folder(out, overwrite=overwrite)


def _report(config: StylizeConfig, work: JobPlan, out: Path, console: Console) -> None:
    """Measure what was made, against what it was made from."""
    from stdcli.evaluate.measured_files import measure_files

    if not work.targets:
        console.warning("nothing new was made, so there is no report; --overwrite makes it again")
        return
    suite = {
        "title": "stdcli stylize",
        "contents": [str(target.source.path) for target in work.targets],
        "styles": list(config.style),
        "prompt": config.prompt,
        "device": config.device,
        "offline": config.offline,
    }
    evaluation = resolve("eval", flags=suite).config
    names = [str(target.path) for target in work.targets]
    measure_files(names, evaluation, out=out, command=command_line(), console=console)
    console.note(f"report: {out / 'report.html'}")
