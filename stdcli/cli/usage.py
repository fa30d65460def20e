"""Command groups, and wrong usage told in the same words as every other error.

Typer's own errors come from a copy of Click that it keeps private; the one public name among them is
`typer.BadParameter`, whose base class stands for all of them here.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import typer
import typer.core

from stdcli.config.names import did_you_mean
from stdcli.errors import ConfigError

UsageError = typer.BadParameter.__base__
CONTEXT = {
    "token_normalize_func": lambda name: name.replace("_", "-"),  # --max_size is --max-size
    "max_content_width": 100,
}


class Group(typer.core.TyperGroup):
    """A group whose bare call prints its help, and whose unknown commands name the known ones.

    A group with a `default` command runs that when none is named, with the options that are there.
    """

    default: str | None = None

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


def make_group(name: str, summary: str, *, default: str | None = None) -> typer.Typer:
    """An empty command group; `default` names the command that a bare call runs."""
    return typer.Typer(
        name=name,
        cls=Group if default is None else type("DefaultGroup", (Group,), {"default": default}),
        help=summary,
        context_settings=CONTEXT,
        rich_markup_mode=None,  # plain help: the same at every width and on every terminal, and 100 ms sooner
        pretty_exceptions_enable=False,  # its tracebacks show local variables, tokens among them
        add_completion=name == "stdcli",
    )


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
