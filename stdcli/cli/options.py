"""Options that many commands share, declared once so that their names and help cannot drift.

An option's default None means "not given", so that presets and config files can decide. Every command takes
the four output options, Json, Quiet, Verbose and Debug, and hands them to `make_console`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stdcli.console import Console
from stdcli.errors import ConfigError

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the path or name of each result.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what is going on.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Print the resolved settings and the plan; do nothing.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]

PresetName = Annotated[str | None, typer.Option("--preset", metavar="NAME", help="See: stdcli presets list.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="YAML settings, or the JSON file a run left beside its output."
    ),
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any other key; may be repeated.")
]
Offline = Annotated[bool | None, typer.Option("--offline", help="Never use the network.")]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, mps, cuda or cuda:N.")
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", metavar="NAME", help="auto, float32, bfloat16 or float16.")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of all noise.")]


def make_console(as_json: bool, quiet: bool, *, verbose: bool = False, debug: bool = False) -> Console:
    """The console a command prints through.

    Raises:
        ConfigError: --json together with --quiet.
    """
    if as_json and quiet:
        raise ConfigError(
            "--json and --quiet exclude each other", hint="--json already prints nothing but the result"
        )
    return Console("json" if as_json else "quiet" if quiet else "human", verbose=verbose, debug=debug)
