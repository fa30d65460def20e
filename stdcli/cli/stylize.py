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
from stdcli.cli.usage import command_line
from stdcli.config.load import resolve
from stdcli.console import Console
from stdcli.errors import ConfigError

if TYPE_CHECKING:
    from stdcli.apply.targets import Plan
    from stdcli.config.schema import StylizeConfig

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="IN...", help="Pictures, clips, folders, globs or numbered frames (dir/%05d.png)."
    ),
]
Style = Annotated[
    list[str] | None, typer.Option("--style", metavar="REF", help="Style picture; repeat to blend several.")
]
StyleWeights = Annotated[
    str | None, typer.Option("--style-weights", metavar="A,B", help="One weight per --style.")
]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="PATH", help="File or folder; default: beside the input."),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="embedded, a folder, a .safetensors file or a Hub id."),
]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="FOLDER", help="Configs and tokenizer for a single-file model."),
]
Student = Annotated[
    str | None,
    typer.Option(
        "--student", metavar="NAME", help="Distilled student: a run, a folder, a LoRA file or a Hub id; none."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse values that the student was not trained for.")]
Lora = Annotated[
    list[str] | None, typer.Option("--lora", metavar="PATH[:SCALE]", help="Adapter; repeatable.")
]
Prompt = Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="What the picture should show.")]
Negative = Annotated[
    str | None,
    typer.Option("--negative-prompt", metavar="TEXT", help="What it should not; needs guidance over 1."),
]
Steps = Annotated[
    int | None, typer.Option("--steps", metavar="K", help="Exactly this many evaluations of the model.")
]
Timesteps = Annotated[
    str | None,
    typer.Option("--timesteps", metavar="T,T,...", help="Exact timesteps, instead of steps and strength."),
]
Strength = Annotated[
    float | None,
    typer.Option("--strength", metavar="S", help="Noise fraction in (0, 1]; 1 ignores the input."),
]
Guidance = Annotated[
    float | None, typer.Option("--guidance", metavar="G", help="1 is off; other values double the forwards.")
]
Gamma = Annotated[
    float | None,
    typer.Option("--gamma", metavar="G", help="Fresh noise per step, 0 to 1; 0 is deterministic."),
]
Match = Annotated[
    bool | None,
    typer.Option(
        "--match-style-statistics/--no-match-style-statistics",
        help="Give the start latent the style picture's mean and deviation.",
    ),
]
MaxSize = Annotated[
    int | None,
    typer.Option("--max-size", metavar="PX", help="Longer side while computing; the result keeps its size."),
]
Batch = Annotated[int | None, typer.Option("--batch", metavar="N", help="Frames per forward.")]
Fps = Annotated[
    str | None, typer.Option("--fps", metavar="F", help="Resample clips, such as 25 or 30000/1001.")
]
Start = Annotated[
    str | None, typer.Option("--start", metavar="TIME", help="Begin a clip here: seconds or h:m:s.")
]
Duration = Annotated[
    str | None, typer.Option("--duration", metavar="TIME", help="So much of a clip: seconds or h:m:s.")
]
Temporal = Annotated[
    str | None, typer.Option("--temporal", metavar="HOW", help="Steadier clips: off, blend or flow.")
]
Codec = Annotated[
    str | None,
    typer.Option(
        "--codec", metavar="NAME", help="h264, hevc, vp9, av1, prores or ffv1; default: container's."
    ),
]
Crf = Annotated[int | None, typer.Option("--crf", metavar="N", help="Quality of clips; lower is better.")]
PixFmt = Annotated[
    str | None, typer.Option("--pix-fmt", metavar="NAME", help="Pixel format of clips, by ffmpeg's name.")
]
NoAudio = Annotated[bool, typer.Option("--no-audio", help="Leave the sound of clips out.")]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="DIR", help="Measure the results, as stdcli eval measure, and report."),
]
NoMetadata = Annotated[bool, typer.Option("--no-metadata", help="Store no recipe in or beside the result.")]


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
    from stdcli.apply.targets import plan

    keep = {"overwrite": overwrite, "metadata": not no_metadata}
    work = plan(resolved.config, inputs, output=output, **keep)
    if report is not None:
        _check_report(resolved.config, work, report, overwrite=overwrite)
    from stdcli.apply.stylize import (
        stylize as run,  # brings the models, seconds that a refusal need not wait for
    )

    run(resolved.config, work, dry_run=dry_run, strict=strict, console=console, **keep)
    if report is not None and not dry_run:
        _report(resolved.config, work, report, console)


def _check_report(config: StylizeConfig, work: Plan, out: Path, *, overwrite: bool) -> None:
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


def _report(config: StylizeConfig, work: Plan, out: Path, console: Console) -> None:
    """Measure what was made, against what it was made from."""
    from stdcli.evaluate.files import measure_files

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
