"""The table of contents of the command line, and what becomes of errors.

A deliberate error is rendered on stderr and gives its exit code; wrong usage gives 2, Ctrl-C, SIGTERM and
SIGHUP 130, anything else is a bug and gives 70. Tracebacks appear only with --debug or STDCLI_DEBUG=1. With
--json, stdout holds results only, so that a pipe never reads an error as one, and the last line of stderr is
one JSON object, `{"error": {"type", "exit_code", "what", ...}}`.

A command's module is imported when it is named; none imports anything heavy before it runs.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

import stdcli
from stdcli.cli.streams import lasting_streams
from stdcli.cli.usage import Commands, make_app, run
from stdcli.console import Console
from stdcli.errors import BUG_EXIT_CODE, StdcliError

COMMANDS = {
    "stylize": "stdcli.cli.stylize:stylize",
    "inpaint": "stdcli.cli.inpaint:inpaint",
    "demo": "stdcli.cli.demo:demo",
    "distill": "stdcli.cli.distill:distill",
    "export": "stdcli.cli.export:export",
    "doctor": "stdcli.cli.doctor:doctor",
    "presets": "stdcli.cli.presets:GROUP",
    "teacher": "stdcli.cli.teacher:GROUP",
    "bank": "stdcli.cli.bank:GROUP",
    "eval": "stdcli.cli.evaluate:GROUP",
    "hub": "stdcli.cli.hub:GROUP",
}


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


def program() -> Any:
    """The whole command line; a command is imported when it is asked for."""
    summary = "Stylise pictures and videos in a few steps, and distil the models that do it."
    app = make_app(name="stdcli", help=summary)
    app.callback()(_root)
    group = typer.main.get_command(app)
    group.commands = Commands(COMMANDS)
    return group


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
            code = run(program(), args)
        check_output()
        return code
    except Exception as error:
        if debug:
            console.trace(traceback.format_exc().rstrip("\n"))
        told = error if isinstance(error, StdcliError) else _as_bug(error, debug=debug)
        console.error(told)
        return told.exit_code


def _as_bug(error: Exception, *, debug: bool) -> Bug:
    hint = (
        "the traceback above belongs in the report"
        if debug
        else "--debug or STDCLI_DEBUG=1 shows the traceback"
    )
    return Bug(f"{type(error).__name__}: {error}; this is a bug in stdcli, please report it", hint=hint)
