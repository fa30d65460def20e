"""The table of contents of the command line, and what becomes of errors.

A deliberate error is rendered on stderr and gives its exit code; wrong usage gives 2, Ctrl-C, SIGTERM and
SIGHUP 130, anything else is a bug and gives 70. Tracebacks appear only with --debug or STDCLI_DEBUG=1. With
--json, stdout holds results only, so that a pipe never reads an error as one, and the last line of stderr is
one JSON object, `{"error": {"type", "exit_code", "what", ...}}`.

Command modules are imported here; they import nothing heavy before they run.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

import stdcli
from stdcli.cli import (
    bank,
    demo,
    distill,
    doctor,
    evaluate,
    export,
    hub,
    inpaint,
    presets,
    stylize,
    teacher,
)
from stdcli.cli.streams import lasting_streams
from stdcli.cli.usage import UsageError, as_config_error, make_group
from stdcli.console import Console
from stdcli.errors import BUG_EXIT_CODE, INTERRUPTED_EXIT_CODE, Interrupted, StdcliError


class Bug(StdcliError):
    """Something nobody foresaw."""

    exit_code = BUG_EXIT_CODE


def _print_version(wanted: bool) -> None:
    if wanted:
        Console().result(f"stdcli {stdcli.__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    pass


COMMANDS: dict[str, Callable[..., None] | typer.Typer] = {
    "stylize": stylize.stylize,
    "inpaint": inpaint.inpaint,
    "demo": demo.demo,
    "presets": presets.app,
    "teacher": teacher.app,
    "bank": bank.app,
    "distill": distill.distill,
    "eval": evaluate.app,
    "export": export.export,
    "hub": hub.app,
    "doctor": doctor.doctor,
}


def make_app(name: str | None = None) -> typer.Typer:
    """The command line with all commands, or with one: Typer takes 10 ms to build each."""
    app = make_group(
        "stdcli", "Stylise pictures and videos in a few steps, and distil the models that do it."
    )
    app.callback()(_root)
    for command in COMMANDS if name not in COMMANDS else [name]:
        found = COMMANDS[command]
        if isinstance(found, typer.Typer):
            app.add_typer(found)
        else:
            app.command(command)(found)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; nothing is raised.

    Args:
        argv: arguments after the program's name; those of the process when None.
    """
    args = sys.argv[1:] if argv is None else list(argv)
    options = args[: args.index("--")] if "--" in args else args
    console = Console("json" if "--json" in options else "human")
    debug = "--debug" in options or os.environ.get("STDCLI_DEBUG", "0") not in ("", "0")
    with lasting_streams() as check_output:
        return _code_of(args, console, check_output, debug=debug)


def _code_of(args: list[str], console: Console, check_output: Callable[[], None], *, debug: bool) -> int:
    """Exit code of a command line whose error, if any, is told."""
    from stdcli.runtime.interrupt import stopped_by_signals

    try:
        with stopped_by_signals():
            code = run(args)
        check_output()
        return code
    except Exception as error:
        if debug:
            console.trace(traceback.format_exc().rstrip("\n"))
        told = error if isinstance(error, StdcliError) else _as_bug(error, debug=debug)
        console.error(told)
        return told.exit_code


def run(args: list[str]) -> int:
    """Run one command line and return its exit code.

    Args:
        args: arguments after the program's name.

    Raises:
        StdcliError: the command failed; nothing has been printed of it yet.
    """
    try:
        app = make_app(next(iter(args), None))
        code = typer.main.get_command(app).main(args, prog_name="stdcli", standalone_mode=False)
    except UsageError as error:
        raise as_config_error(error) from error
    except (KeyboardInterrupt, typer.Abort) as error:
        raise Interrupted("interrupted") from error
    except SystemExit as stop:  # shell completion
        code = stop.code
    if code == INTERRUPTED_EXIT_CODE:
        raise Interrupted("interrupted")
    return code if isinstance(code, int) else 0


def _as_bug(error: Exception, *, debug: bool) -> Bug:
    hint = (
        "the traceback above belongs in the report"
        if debug
        else "--debug or STDCLI_DEBUG=1 shows the traceback"
    )
    return Bug(f"{type(error).__name__}: {error}; this is a bug in stdcli, please report it", hint=hint)
