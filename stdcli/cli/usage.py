"""Command groups, and wrong usage told in the same words as every other error.

Typer's own errors come from a copy of Click that it keeps private; the one public name among them is
`typer.BadParameter`, whose base class stands for all of them here.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
import typer.core

from stdcli.config.names import did_you_mean
from stdcli.errors import INTERRUPTED_EXIT_CODE, ConfigError, Interrupted

UsageError = typer.BadParameter.__base__
CONTEXT = {
    "token_normalize_func": lambda name: name.replace("_", "-"),  # --max_size is --max-size
    "max_content_width": 100,
}


PLAIN = {
    "context_settings": CONTEXT,
    "rich_markup_mode": None,  # plain help: the same at every width and on every terminal, and 100 ms sooner
}


class Commands(Mapping[str, Any]):
    """Commands by name, each imported and built when it is asked for.

    Args:
        places: name -> a function under `command`, a group, or where one is: "module:name".
    """

    def __init__(self, places: Mapping[str, Callable[..., None] | Group | str]) -> None:
        self._places = places
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = build(name, self._places[name])
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def build(name: str, found: Callable[..., None] | Group | str) -> Any:
    """A command that Typer can run."""
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        found = getattr(import_module(module), attribute)
    if isinstance(found, Group):
        return found
    app = make_app(add_completion=False)
    app.command(name)(found)
    return typer.main.get_command(app)


def make_app(**more: Any) -> typer.Typer:
    """An empty program; its tracebacks, which show local variables, tokens among them, are off."""
    return typer.Typer(cls=Group, pretty_exceptions_enable=False, **PLAIN, **more)


class Group(typer.core.TyperGroup):
    """A group whose bare call prints its help, and whose unknown commands name the known ones.

    Args:
        default: the command that runs when none is named, with the options that are there.
    """

    def __init__(self, *args: Any, default: str | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.default = default

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and (not args[0].startswith("-") or args[0] == "--help")
        if self.default is not None and not named:
            args = [self.default, *args]
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0].replace("_", "-")
        if name not in self.commands and not name.startswith("-"):
            raise ConfigError(
                f"{ctx.command_path} has no command {args[0]!r}",
                expected=_one_of(self.commands),
                hint=did_you_mean(name, self.commands) or f"{ctx.command_path} --help",
            )
        return super().resolve_command(ctx, args)


def make_group(
    name: str, summary: str, commands: Mapping[str, Callable[..., None] | str], *, default: str | None = None
) -> Group:
    """A group of commands; `default` names the one that a bare call runs."""
    return Group(name=name, help=summary, commands=Commands(commands), default=default, **PLAIN)


def run(command: Any, args: list[str], name: str = "stdcli") -> int:
    """Run one command line and return its exit code.

    Args:
        command: what `build` made, or a group.
        args: arguments after its name.
        name: the command line up to there.

    Raises:
        StdcliError: the command failed; nothing has been printed of it yet.
    """
    try:
        code = command.main(args, prog_name=name, standalone_mode=False)
    except UsageError as error:
        raise as_config_error(error) from error
    except (KeyboardInterrupt, typer.Abort) as error:
        raise Interrupted("interrupted") from error
    except SystemExit as stop:  # shell completion
        code = stop.code
    if code == INTERRUPTED_EXIT_CODE:
        raise Interrupted("interrupted")
    return code if isinstance(code, int) else 0


def command_line() -> str:
    """What the user typed, for records."""
    return shlex.join(["stdcli", *sys.argv[1:]])


def as_config_error(error: Any) -> ConfigError:
    """One of Typer's usage errors as ours, with near misses and the valid options."""
    ctx = error.ctx
    if ctx is None:
        return ConfigError(error.format_message())
    help_line = f"{ctx.command_path} --help"
    unknown = getattr(error, "option_name", None)
    options = [option for param in ctx.command.get_params(ctx) for option in _spellings(param)]
    if unknown is None or unknown in options:
        return ConfigError(error.format_message().rstrip("."), hint=help_line)
    if any(
        unknown in _spellings(param) for command in _commands_below(ctx.command) for param in command.params
    ):
        hint = f"{unknown} goes after the command"
    else:
        hint = did_you_mean(unknown, options) or help_line
    return ConfigError(f"{ctx.command_path} has no option {unknown}", expected=_one_of(options), hint=hint)


def _one_of(names: Iterable[str]) -> str:
    return "one of " + ", ".join(names)


def _spellings(param: Any) -> list[str]:
    return [name for name in (*param.opts, *param.secondary_opts) if name.startswith("-")]


def _commands_below(command: Any) -> Iterator[Any]:
    for child in getattr(command, "commands", {}).values():
        yield child
        yield from _commands_below(child)
