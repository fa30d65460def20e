"""`stdcli inpaint`: repaint a part of a picture or clip."""

from __future__ import annotations

from typing import Annotated

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
    Duration,
    Guidance,
    Lora,
    MaxSize,
    Model,
    Negative,
    NoAudio,
    NoMetadata,
    Output,
    Prompt,
    Start,
    Steps,
    Strength,
    Strict,
    Student,
    Style,
    Temporal,
    Timesteps,
)
from stdcli.config.load import resolve

Input = Annotated[
    str, typer.Argument(metavar="IN", help="A picture, a clip or numbered frames (dir/%05d.png).")
]
Mask = Annotated[
    str | None,
    typer.Option(
        "--mask",
        metavar="M",
        help="White where to repaint, a picture or clip; alpha: where IN is transparent.",
    ),
]
ResizeMask = Annotated[bool, typer.Option("--resize-mask", help="Take a mask of another size, resized.")]
Feather = Annotated[
    int | None,
    typer.Option("--feather", metavar="PX", help="Fade in over so many pixels inside the mask; default 8."),
]
Crop = Annotated[bool, typer.Option("--crop", help="Compute only a box around the mask, for large pictures.")]


def inpaint(
    source: Input,
    mask: Mask = None,
    style: Style = None,
    prompt: Prompt = None,
    output: Output = None,
    steps: Steps = None,
    strength: Strength = None,
    feather: Feather = None,
    crop: Crop = False,
    resize_mask: ResizeMask = False,
    guidance: Guidance = None,
    timesteps: Timesteps = None,
    negative_prompt: Negative = None,
    model: Model = None,
    base: Base = None,
    student: Student = None,
    strict: Strict = False,
    lora: Lora = None,
    max_size: MaxSize = None,
    start: Start = None,
    duration: Duration = None,
    temporal: Temporal = None,
    no_audio: NoAudio = False,
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
    """Repaint the white part of a mask and leave every other pixel as it is.

    So that they stay, a picture becomes PNG unless -o says otherwise; most codecs of clips lose a little.

    The rest of the picture is held on its own noise path at every step, so that what is painted fits to it.
    Without --style, a model that knows style pictures alone paints as the picture itself is painted. All else
    is as in stdcli stylize; its other settings are reached by --set.

    \b
    Examples:
      stdcli inpaint photo.jpg --mask mask.png --style painting.png
      stdcli inpaint clip.mp4 --mask mask.mp4 --style painting.png -o painted.mp4
      stdcli inpaint cutout.png --mask alpha --strength 1
      stdcli inpaint poster.tif --mask mask.png --style painting.png --crop --feather 16
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
    flags = {
        "mask": mask,
        "resize_mask": resize_mask or None,
        "feather": feather,
        "crop": crop or None,
        "model": model,
        "base": base,
        "student": student,
        "style": style,
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "lora": lora,
        "steps": steps,
        "timesteps": timesteps,
        "strength": strength,
        "guidance": guidance,
        "seed": seed,
        "max_size": max_size,
        "start": start,
        "duration": duration,
        "temporal": temporal,
        "audio": False if no_audio else None,
        "device": device,
        "dtype": dtype,
        "offline": offline,
    }
    resolved = resolve("inpaint", preset=preset, config_file=config, sets=sets or (), flags=flags)
    from stdcli.inference.targets import plan

    keep = {"overwrite": overwrite, "metadata": not no_metadata}
    work = plan(resolved.config, [source], output=output, **keep)
    from stdcli.inference.stylize import (
        stylize,  # brings the models, seconds that a refusal need not wait for
    )

    stylize(resolved.config, work, dry_run=dry_run, strict=strict, console=console, **keep)
