"""`stdcli inpaint`: repaint a part of a picture or clip."""

from __future__ import annotations

from stdcli.cli.command import Call, argument, command, setting
from stdcli.cli.options import shared


@command(
    argument("source", str, "IN", "A picture, a clip or numbered frames (dir/%05d.png)."),
    setting("--mask", str, "M", "White where to repaint, a picture or clip; alpha: where IN is transparent."),
    *shared("style prompt output steps strength"),
    setting("--feather", int, "PX", "Fade in over so many pixels inside the mask; default 8."),
    setting("--crop", bool, None, "Compute only a box around the mask, for large pictures."),
    setting("--resize-mask", bool, None, "Take a mask of another size, resized."),
    *shared(
        "guidance timesteps negative_prompt model base student strict lora max_size start duration temporal",
        "no_audio seed device dtype offline preset config set overwrite no_metadata dry_run",
    ),
)
def inpaint(
    call: Call,
    *,
    source: str,
    output: str | None,
    strict: bool,
    overwrite: bool,
    no_metadata: bool,
    dry_run: bool,
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
    config = call.resolve("inpaint").config
    from stdcli.inference.targets import plan

    keep = {"overwrite": overwrite, "metadata": not no_metadata}
    work = plan(config, [source], output=output, **keep)
    from stdcli.inference.stylize import (
        stylize,  # brings the models, seconds that a refusal need not wait for
    )

    stylize(config, work, dry_run=dry_run, strict=strict, console=call.console, **keep)
