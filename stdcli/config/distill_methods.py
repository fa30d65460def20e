"""Methods of distillation by name: files of `stdcli/distill/methods/`, each imported when it is asked for.

The one place where a lower layer reaches for a higher one, and by name only: a method brings its own section
of settings, and so must be known before anything of a run is. Such a file imports no torch at its top.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Protocol

from stdcli.config.names import near_misses
from stdcli.errors import ConfigError

if TYPE_CHECKING:
    from stdcli.config.schema import Section

PACKAGE = "stdcli.distill.methods"
DEFAULT = "std"


class MethodSettings(Protocol):
    """What is known of a method before anything of a run is; see `stdcli.distill.method.Method` for the rest.

    Attributes:
        name: as in `--method`; its section of settings is called the same, with `_` for `-`.
        title: for people.
        citation: title and source as a page says them, in Markdown.
        section: schema of its own settings; None without any.
        borrows: dotted settings in other methods' sections that it reads too.
        states: "path" takes the teacher's, "data" noises clean latents afresh and has the teacher step,
            "own" has the student walk down from the paths' starts.
        further_roles: sets of weights that are trained beside the student, on its base.
        keeps_stage_weights: whether the run holds a further copy of the student; see `Method`.
        predicts_x0: whether its students' predictions are clean latents, not states.
        sees_target: whether the network must be told where a step aims.
    """

    name: str
    title: str
    citation: str
    section: type[Section] | None
    borrows: frozenset[str]
    states: str
    further_roles: tuple[str, ...]
    keeps_stage_weights: bool
    predicts_x0: bool
    sees_target: bool

    def conflicts(self, config: Any) -> Iterator[tuple[str, str]]:
        """(dotted key, reason) of settings that this method contradicts."""


_registered: dict[str, MethodSettings] = {}


def method_names() -> tuple[str, ...]:
    """All of them, `DEFAULT` first; no method is imported."""
    found = {module.name.replace("_", "-") for module in iter_modules(import_module(PACKAGE).__path__)}
    return (DEFAULT, *sorted((found | _registered.keys()) - {DEFAULT}))


def find_method(name: str) -> MethodSettings:
    """The method called `name`.

    Raises:
        ConfigError: there is none; names near misses.
    """
    if name in _registered:
        return _registered[name]
    if name not in method_names():
        raise ConfigError("no such method", [("method", f"{name!r}: {near_misses(name, method_names())}")])
    return import_module(f"{PACKAGE}.{name.replace('-', '_')}").METHOD


def add(method: MethodSettings) -> None:
    """Find a method from outside this package too; `tasks.register_method` also takes its settings.

    Args:
        method: replaces one of the same name.
    """
    _registered[method.name] = method
