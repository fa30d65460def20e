"""`stdcli demo`: a first look, with nothing but what is installed."""

from __future__ import annotations

import shlex
from pathlib import Path

from stdcli.cli.command import Call, command, option
from stdcli.cli.options import shared
from stdcli.cli.stylize import stylize
from stdcli.cli.usage import build, run


@command(
    option("--output", Path, "FOLDER", "Where to write.", short="-o", default=Path("stdcli-demo")),
    option("--frames", int, "N", "Length of the sample clip.", default=48, min=1),
    *shared("seed device dtype offline overwrite"),
)
def demo(call: Call, *, output: Path, frames: int, overwrite: bool) -> None:
    """Restyle sample photos and a sample clip with the embedded model.

    Makes the inputs on the spot, needs no network, and prints each command before running it. The folder is a
    new one, an empty one or that of an earlier demo; any other only with --overwrite.

    \b
    Examples:
      stdcli demo
      stdcli demo -o try/ --frames 120
    """
    console = call.console
    config = call.resolve("stylize").config
    from stdcli.demo.sample_inputs import claim_folder, write_samples
    from stdcli.runtime.devices import choose

    choose(config.device, config.dtype)  # before any work
    claim_folder(output, overwrite=overwrite)
    console.note(f"making sample photos, styles and a clip in {output}/")
    photos, clip = write_samples(output, frames=frames)
    same = ["--overwrite"]
    for name in ("seed", "device", "dtype"):
        same += [f"--{name}", str(call.flags[name])] if call.flags[name] is not None else []
    switches = {"offline": call.flags["offline"], console.mode: console.mode != "human"}
    switches |= {"verbose": console.verbose, "debug": console.debug}
    same += [f"--{name}" for name, on in switches.items() if on]
    runs = [
        [str(photos[1]), "--style", str(output / "styles/night.png"), "-o", str(output / "cat-night.png")],
        [str(photos[0]), "--style", str(output / "styles/ink.png"), "-o", str(output / "astronaut-ink.png")],
        [str(clip), "--style", str(output / "styles/dots.png"), "-o", str(output / "clip-dots.mp4")],
    ]
    for arguments in runs:
        arguments = [*arguments, "--steps", "4", *same]
        console.note("", f"$ stdcli stylize {shlex.join(arguments)}")
        run(build("stylize", stylize), arguments, "stdcli stylize")
    console.note("", f"look at {output}/ ; then try your own: stdcli stylize PHOTO --style PICTURE")
