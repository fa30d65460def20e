"""`stdcli demo`: a first look, with nothing but what is installed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from stdcli.cli.options import (
    Debug,
    Device,
    Dtype,
    Json,
    Offline,
    Overwrite,
    Quiet,
    Seed,
    Verbose,
    make_console,
)
from stdcli.config.load import resolve

Folder = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write.")]
Frames = Annotated[int, typer.Option("--frames", metavar="N", min=1, help="Length of the sample clip.")]


def demo(
    output: Folder = Path("stdcli-demo"),
    frames: Frames = 48,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    offline: Offline = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Restyle sample photos and a sample clip with the embedded model.

    Makes the inputs on the spot, needs no network, and prints each command before running it. The folder is a
    new one, an empty one or that of an earlier demo; any other only with --overwrite.

    \b
    Examples:
      stdcli demo
      stdcli demo -o try/ --frames 120
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
    given = {"seed": seed, "device": device, "dtype": dtype}
    config = resolve("stylize", flags=given).config
    from stdcli.demo.inputs import claim_folder, write_samples
    from stdcli.runtime.devices import choose

    choose(config.device, config.dtype)  # before any work
    claim_folder(output, overwrite=overwrite)
    console.note(f"making sample photos, styles and a clip in {output}/")
    photos, clip = write_samples(output, frames=frames)
    shared = ["--overwrite"]
    for name, value in given.items():
        shared += [f"--{name}", str(value)] if value is not None else []
    switches = {"offline": offline, "json": as_json, "quiet": quiet, "verbose": verbose, "debug": debug}
    shared += [f"--{name}" for name, on in switches.items() if on]
    from stdcli.cli.main import run

    runs = [
        [str(photos[1]), "--style", str(output / "styles/night.png"), "-o", str(output / "cat-night.png")],
        [str(photos[0]), "--style", str(output / "styles/ink.png"), "-o", str(output / "astronaut-ink.png")],
        [str(clip), "--style", str(output / "styles/dots.png"), "-o", str(output / "clip-dots.mp4")],
    ]
    for arguments in runs:
        command = ["stylize", *arguments, "--steps", "4", *shared]
        console.note("", f"$ stdcli {shlex.join(command)}")
        run(command)
    console.note("", f"look at {output}/ ; then try your own: stdcli stylize PHOTO --style PICTURE")
