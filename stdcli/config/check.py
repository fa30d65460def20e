"""Checking data against a schema, and saying all that is wrong in words for people.

pydantic finds every problem in one go; this module turns them into (dotted path, message) pairs and adds near
misses to unknown keys. Contradictions between fields are looked for once each field is right by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from stdcli.config.names import near_misses
from stdcli.config.schema import Section
from stdcli.errors import ConfigError

S = TypeVar("S", bound=Section)
Problem = tuple[str, str]


def check(
    schema: type[S], data: Mapping[str, Any], *, what: str = "wrong configuration", where: object = None
) -> S:
    """An instance of `schema` holding `data`.

    Args:
        schema: a task's class, or `Recipe`.
        data: keys and values as a file or the command line gave them.
        what: first line of the error.
        where: file or other place, for the error.

    Raises:
        ConfigError: with every problem.
    """
    try:
        return schema.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigError(what, problems_of(schema, error), where=where) from error


def problems_of(schema: type[Section], error: ValidationError) -> list[Problem]:
    """(dotted path, message) of everything in a pydantic error."""
    return [problem for details in error.errors() for problem in _problems(schema, details)]


def dotted_names(schema: type[Section]) -> Iterator[str]:
    """Every key of a schema, sections joined by dots, in the order of definition."""
    for name, field in schema.model_fields.items():
        inner = _section(field.annotation)
        if inner is None:
            yield name
        else:
            yield from (f"{name}.{rest}" for rest in dotted_names(inner))


def _section(annotation: Any) -> type[Section] | None:
    """The section a field holds, if it holds one; a list of them is a value."""
    if get_origin(annotation) is tuple:
        return None
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section(part))), None)


def _listed(schema: type[Section], names: Sequence[str]) -> type[Section]:
    """What the elements of a list of sections are; `names` lead to the list."""
    *sections, last = names
    for name in sections:
        schema = _section(schema.model_fields[name].annotation) or schema
    return next(part for part in get_args(schema.model_fields[last].annotation) if part is not ...)


def _problems(schema: type[Section], details: ErrorDetails) -> Iterator[Problem]:
    path = ".".join(map(str, details["loc"]))
    if details["type"] == "conflicts":
        for name, reason in details["ctx"]["problems"]:
            yield (f"{path}.{name}" if path else name), reason
    elif details["type"] == "extra_forbidden":
        yield path, f"unknown key; {_suggest(schema, path)}"
    elif details["type"] == "missing":
        yield path, "is missing"
    else:
        message = details["msg"].removeprefix("Value error, ").replace("Input should ", "must ", 1)
        yield path, f"{message}, got {details['input']!r}"


def _suggest(schema: type[Section], path: str) -> str:
    *parents, last = path.split(".")
    numbered = next((index for index, part in enumerate(parents) if part.isdecimal()), None)
    if numbered is not None:  # in an element of a list
        return _suggest(_listed(schema, parents[:numbered]), ".".join([*parents[numbered + 1 :], last]))
    names = list(dotted_names(schema))
    prefix = ".".join([*parents, ""])
    siblings = [name for name in names if name.startswith(prefix)]
    elsewhere = [name for name in names if name not in siblings and name.split(".")[-1] == last]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    return near_misses(path, siblings or names)
