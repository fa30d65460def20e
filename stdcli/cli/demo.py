"""`stdcli demo`: a first look, with nothing but what is installed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from stdcli.cli.options import Debug, Device, Dtype, Json, Quiet, Seed, Verbose, make_console
from stdcli.errors import StdcliError

Folder = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write.")]
Frames = Annotated[int, typer.Option("--frames", metavar="N", min=1, help="Length of the sample clip.")]


def demo(
    output: Folder = Path("stdcli-demo"),
    frames: Frames = 48,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Restyle sample photos and a sample clip with the embedded model.

    Makes the inputs on the spot, needs no network, and prints each command before running it.

    \b
    Examples:
      stdcli demo
      stdcli demo -o try/ --frames 120
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
    from stdcli.apply.samples import write_clip, write_photos, write_styles

    console.note(f"making sample photos, styles and a clip in {output}/")
    photos = write_photos(output / "photos")
    write_styles(output / "styles")
    clip = write_clip(output / "clip.mp4", frames=frames)
    shared = ["--overwrite"]
    for name, value in (("--seed", seed), ("--device", device), ("--dtype", dtype)):
        shared += [name, str(value)] if value is not None else []
    for name, on in (("--json", as_json), ("--quiet", quiet), ("--verbose", verbose), ("--debug", debug)):
        shared += [name] if on else []
    runs = [
        [str(photos[1]), "--style", str(output / "styles/night.png"), "-o", str(output / "cat-night.png")],
        [str(photos[0]), "--style", str(output / "styles/ink.png"), "-o", str(output / "astronaut-ink.png")],
        [str(clip), "--style", str(output / "styles/dots.png"), "-o", str(output / "clip-dots.mp4")],
    ]
    for arguments in runs:
        command = ["stylize", *arguments, "--steps", "4", *shared]
        console.note(f"\n$ stdcli {shlex.join(command)}")
        _run(command)
    console.note(f"\nlook at {output}/ ; then try your own: stdcli stylize PHOTO --style PICTURE")


def _run(command: list[str]) -> None:
    """Run a command line of stdcli in this process.

    Raises:
        StdcliError: the command failed; it has said why.
    """
    from stdcli.cli.main import main

    code = main(command)
    if code != 0:
        raise StdcliError(f"stdcli {command[0]} ended with exit code {code}", hint="see the message above")
