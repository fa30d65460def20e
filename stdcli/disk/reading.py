"""Text and JSON from disk, whoever wrote it: bounded in size and depth, and every fault an ordinary error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stdcli.disk.opening import open_file
from stdcli.errors import StdcliError

MAX_TEXT_BYTES = 2**26
"""Of a file that is read whole: 64 MiB, 100 times what any config or record has."""
MAX_LINE_BYTES = 2**24
"""Of one line of a file that is read by lines, which may itself be of any length."""
MAX_DEPTH = 100
"""Lists and objects inside each other; no format here has ten."""
MAX_DIGITS = 40
"""Of a whole number in JSON; 64 bits have 20."""


def read_bytes(
    path: Path, error: type[StdcliError], *, links: bool = True, limit: int = MAX_TEXT_BYTES
) -> bytes:
    """All of a plain file.

    Args:
        path: the file.
        error: the class to raise.
        links: whether links may lead to it; see `opening`.
        limit: bytes that it may have.

    Raises:
        StdcliError: of the class given: as `opening.open_file`, or it is larger.
    """
    with open_file(path, error, links=links) as file:
        try:
            data = file.read(limit + 1)
        except OSError as problem:
            raise error(f"cannot be read: {problem.strerror}", where=path) from problem
    if len(data) > limit:
        raise error("too large for what it should be", where=path, expected=f"at most {limit} bytes")
    return data


def read_text(
    path: Path, error: type[StdcliError], *, links: bool = True, limit: int = MAX_TEXT_BYTES
) -> str:
    """All of a file of UTF-8 text, without the mark that some editors put before it.

    Raises:
        StdcliError: of the class given: as `read_bytes`, or it is not UTF-8.
    """
    return decode(read_bytes(path, error, links=links, limit=limit), path, error)


def decode(data: bytes, where: object, error: type[StdcliError]) -> str:
    """UTF-8 as text, with `\\n` for every end of a line and without a mark of byte order.

    Raises:
        StdcliError: of the class given: it is not UTF-8.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        hint = "save it as UTF-8" if b"\0" not in data[:64] else None
        raise error("not UTF-8 text", where=where, got=f"byte {problem.start}", hint=hint) from problem
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, error: type[StdcliError], *, links: bool = True) -> Any:
    """A file's JSON value.

    Raises:
        StdcliError: of the class given: as `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, error, links=links), path, error)


def read_object(path: Path, error: type[StdcliError], *, links: bool = True) -> dict[str, Any]:
    """A file's JSON object.

    Raises:
        StdcliError: of the class given: as `read_json`, or it is something else.
    """
    return parse_object(read_text(path, error, links=links), path, error)


def parse_object(text: str, where: object, error: type[StdcliError]) -> dict[str, Any]:
    """As `parse_json`, of an object."""
    value = parse_json(text, where, error)
    if not isinstance(value, dict):
        raise error("not a JSON object", where=where, got=type(value).__name__)
    return value


def parse_json(text: str, where: object, error: type[StdcliError], **hooks: Any) -> Any:
    """A JSON value that some file, metadata or answer holds.

    Args:
        text: the JSON.
        where: the place that the message names.
        error: the class to raise.
        hooks: further arguments of `json.loads`.

    Raises:
        StdcliError: of the class given: not JSON, a number of too many digits, or nested too deeply.
    """
    try:
        value = json.loads(text, parse_int=_whole, **hooks)
    except json.JSONDecodeError as problem:
        at = f"line {problem.lineno}" if problem.lineno > 1 else f"character {problem.pos}"
        raise error("not JSON", where=where, got=f"{problem.msg} at {at}") from problem
    except ValueError as problem:
        raise error("not JSON that can be used", where=where, got=problem) from problem
    except RecursionError as problem:
        raise _too_deep(where, error) from problem
    if text.count("[") + text.count("{") > MAX_DEPTH and depth_of(value) > MAX_DEPTH:
        raise _too_deep(where, error)
    return value


def _too_deep(where: object, error: type[StdcliError]) -> StdcliError:
    return error("nested too deeply", where=where, expected=f"at most {MAX_DEPTH} levels")


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def depth_of(value: Any) -> int:
    """How many lists and mappings are inside each other, counted without recursion."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, list | dict)]:
        depth += 1
        level = [part for item in level for part in (item.values() if isinstance(item, dict) else item)]
    return depth


def iter_objects(
    path: Path, error: type[StdcliError], *, links: bool = True
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the line from 1, its JSON object) of a file that has one per line; empty lines are left out.

    Raises:
        StdcliError: of the class given: as `read_object`, the place being `FILE:LINE`.
    """
    for number, data in iter_lines(path, error, links=links):
        where = f"{path}:{number}"
        text = decode(data, where, error)
        if text.strip():
            yield number, parse_object(text, where, error)


def iter_lines(path: Path, error: type[StdcliError], *, links: bool = True) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes without its end) of every line of a plain file.

    Raises:
        StdcliError: of the class given: as `opening.open_file`, or a line is longer than any should be.
    """
    with open_file(path, error, links=links) as file:
        number = 0
        while True:
            try:
                line = file.readline(MAX_LINE_BYTES + 1)
            except OSError as problem:
                raise error(f"cannot be read: {problem.strerror}", where=path) from problem
            if not line:
                return
            number += 1
            if len(line) > MAX_LINE_BYTES:
                what = "a line is too long for what it should be"
                raise error(what, where=f"{path}:{number}", expected=f"at most {MAX_LINE_BYTES} bytes")
            yield number, line.rstrip(b"\r\n")
