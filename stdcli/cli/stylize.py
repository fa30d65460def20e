"""`stdcli stylize`: restyle pictures and clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stdcli.cli.command import Call, argument, command, option
from stdcli.cli.options import shared
from stdcli.cli.usage import command_line
from stdcli.config.load import resolve
from stdcli.console import Console
from stdcli.errors import ConfigError

if TYPE_CHECKING:
    from stdcli.config.schema import StylizeConfig
    from stdcli.inference.targets import JobPlan


@command(
    argument(
        "inputs", list[str], "IN...", "Pictures, clips, folders, globs or numbered frames (dir/%05d.png)."
    ),
    *shared(
        "style output steps strength guidance timesteps gamma match_style_statistics style_weights prompt",
        "negative_prompt model base student strict lora max_size batch fps start duration temporal codec crf",
        "pix_fmt no_audio",
    ),
    option("--report", Path, "DIR", "Measure the results, as stdcli eval measure, and report."),
    *shared("seed device dtype offline preset config set overwrite no_metadata dry_run"),
)
def stylize(
    call: Call,
    *,
    inputs: list[str],
    output: str | None,
    strict: bool,
    report: Path | None,
    overwrite: bool,
    no_metadata: bool,
    dry_run: bool,
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
    config = call.resolve("stylize").config
    from stdcli.inference.targets import plan

    keep = {"overwrite": overwrite, "metadata": not no_metadata}
    work = plan(config, inputs, output=output, **keep)
    if report is not None:
        _check_report(config, work, report, overwrite=overwrite)
    from stdcli.inference.stylize import (
        stylize as run,  # brings the models, seconds that a refusal need not wait for
    )

    run(config, work, dry_run=dry_run, strict=strict, console=call.console, **keep)
    if report is not None and not dry_run:
        _report(config, work, report, call.console)


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
    measure_files(names, evaluation, out=out, command=command_line(), reporter=console)
    console.note(f"report: {out / 'report.html'}")
