"""The frame of every command: options are declared once, as values, and arrive as a console and settings.

A command is a function under `command(...)`, which lists its options in the order of the help. A `setting`
fills a key of the task's schema and is merged by `Call.resolve`; any other option reaches the function as the
argument of its name. The output options come by themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from stdcli.config.load import Resolved, resolve
from stdcli.console import Console
from stdcli.errors import ConfigError

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """Something that a command can be told.

    Attributes:
        name: argument of the function, and the option's own name without dashes.
        hint: type of its values, with what Typer is to know.
        default: value when it is not given; REQUIRED if it has to be.
        key: dotted key of the setting that it fills, if it does.
    """

    name: str
    hint: Any
    default: Any = None
    key: str | None = None

    @property
    def parameter(self) -> inspect.Parameter:
        """The option in a signature that Typer can read."""
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.name, kind, default=self.default, annotation=self.hint)


def option(
    flag: str,
    kind: Any,
    metavar: str | None,
    help: str,
    *,
    short: str | None = None,
    default: Any = None,
    **more: Any,
) -> Option:
    """An option whose value the function is given.

    Args:
        flag: such as "--max-size", or "--private/--public".
        kind: type of the values, such as int or list[str].
        metavar: stands for a value in the help.
        more: further arguments of `typer.Option`.
    """
    name = flag.partition("/")[0].removeprefix("--").replace("-", "_")
    told = typer.Option(*filter(None, (flag, short)), metavar=metavar, help=help, **more)
    return Option(name, Annotated[kind | None if default is None else kind, told], default)


def switch(flag: str, help: str, *, short: str | None = None, default: bool = False) -> Option:
    """An option without a value, True where it is given."""
    return option(flag, bool, None, help, short=short, default=default)


def setting(flag: str, kind: Any, metavar: str | None, help: str, *, key: str = "", **more: Any) -> Option:
    """An option that fills a setting; not given, lower layers decide.

    Args:
        key: dotted key in the task's schema; the option's own name when empty. "--no-x" makes it false.
    """
    found = option(flag, kind, metavar, help, **more)
    return replace(found, key=key or found.name)


def argument(
    name: str, kind: Any, metavar: str, help: str, *, default: Any = REQUIRED, **more: Any
) -> Option:
    """Values without a flag, by their place."""
    told = typer.Argument(metavar=metavar, help=help, **more)
    return Option(name, Annotated[kind | None if default is None else kind, told], default)


OUTPUT = (
    switch("--json", "Print the result as JSON on stdout."),
    switch("--quiet", "Print only the path or name of each result.", short="-q"),
    switch("--verbose", "Say more about what is going on.", short="-v"),
    switch("--debug", "Show the traceback of an error."),
)
LAYERS = (
    option("--preset", str, "NAME", "See: stdcli presets list."),
    option("--config", Path, "FILE", "YAML settings, or the JSON file a run left beside its output."),
    option("--set", list[str], "KEY=VALUE", "Set any other key; may be repeated."),
)
"""Layers of settings below the options, as `config/load.py` merges them."""


@dataclass(frozen=True)
class Call:
    """What a command was called with.

    Attributes:
        console: what it prints through.
        flags: dotted key -> value of its settings; None and empty lists are not given.
        preset, config, set: layers of settings below them.
    """

    console: Console
    flags: dict[str, Any]
    preset: str | None = None
    config: Path | None = None
    set: list[str] | None = None

    def resolve(self, task: str, **layers: Any) -> Resolved:
        """Merge the layers of a task's settings, or others in their place, with the flags on top.

        Raises:
            ConfigError: any number of wrong values.
        """
        own = {"preset": self.preset, "config_file": self.config, "sets": self.set or (), "flags": self.flags}
        return resolve(task, **own | layers)


def command(*options: Option) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command of these options and those of output.

    The function gets a `Call`, and by keyword whatever is no setting.
    """
    signature = inspect.Signature([each.parameter for each in (*options, *OUTPUT)])

    def frame(function: Callable[..., None]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            console = make_console(**_take(values, OUTPUT))
            layers = _take(values, LAYERS)
            flags = {each.key: _flag(each, values.pop(each.name)) for each in options if each.key}
            function(Call(console, flags, **layers), **values)

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__signature__ = signature
        return run

    return frame


def make_console(json: bool, quiet: bool, *, verbose: bool = False, debug: bool = False) -> Console:
    """The console a command prints through.

    Raises:
        ConfigError: --json together with --quiet.
    """
    if json and quiet:
        raise ConfigError(
            "--json and --quiet exclude each other", hint="--json already prints nothing but the result"
        )
    return Console("json" if json else "quiet" if quiet else "human", verbose=verbose, debug=debug)


def show_settings(resolved: Resolved, console: Console) -> None:
    """Every setting and the layer it came from, for a person who tries a run dry."""
    if console.mode == "human":
        console.table(("key", "value", "from"), resolved.rows())
        console.result("")


def _take(values: dict[str, Any], options: Iterable[Option]) -> dict[str, Any]:
    """What was given for these options, taken out of `values`."""
    return {each.name: values.pop(each.name) for each in options if each.name in values}


def _flag(each: Option, value: Any) -> Any:
    """The value of a setting; "--no-x" is x, false."""
    return False if value and each.name.startswith("no_") else value
