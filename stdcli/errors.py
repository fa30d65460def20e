"""Errors a user can act on, and the exit code of each.

Everything deliberate that reaches the user derives from `StdcliError`. Its message names what is wrong,
where, what was met and what was expected, and ends with a hint, best a command that can be pasted. Programmer
errors stay `ValueError` and `TypeError`; the command line reports those as bugs (exit code 70). Standard
library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stdcli.visible import visible

BUG_EXIT_CODE = 70
INTERRUPTED_EXIT_CODE = 130


class StdcliError(Exception):
    """An operation failed for a reason the user can understand.

    Args:
        what: one sentence without a full stop: what is wrong.
        where: file, preset key or other place.
        got: the value that was met.
        expected: the values that would have been right; a string is shown as it is.
        hint: what to do next.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.got = got
        self.expected = expected
        self.hint = hint

    def __str__(self) -> str:
        return self.render()

    def details(self) -> list[str]:
        """Lines between the first one and the hint, each indented by two spaces."""
        lines = [] if self.where is None else [f"  at: {visible(self.where)}"]
        got = None if self.got is None else f"got {visible(self.got)}"
        expected = None if self.expected is None else f"expected {visible(self.expected)}"
        if got or expected:
            lines.append("  " + ", ".join(part for part in (got, expected) if part))
        return lines

    def render(self) -> str:
        """The message as the user sees it: several lines, no newline at the end."""
        return "\n".join([f"error: {visible(self.what)}", *self.rest()])

    def rest(self) -> list[str]:
        """Its lines after the first; whatever came from outside is escaped, for each is one line."""
        return [*self.details(), *([] if self.hint is None else [f"  hint: {visible(self.hint)}"])]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for `--json`; parts that were not given are left out."""
        parts = {
            "type": type(self).__name__,
            "exit_code": self.exit_code,
            "what": self.what,
            "where": self.where,
        }
        parts |= {"got": _text(self.got), "expected": _text(self.expected), "hint": self.hint}
        return {key: value for key, value in parts.items() if value is not None}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


class ConfigError(StdcliError):
    """A flag, preset or config file is wrong.

    Args:
        what: as in `StdcliError`.
        problems: every problem found, as (dotted path, message) pairs.
    """

    exit_code = 2

    def __init__(self, what: str, problems: Sequence[tuple[str, str]] = (), **parts: Any) -> None:
        super().__init__(what, **parts)
        self.problems = [(path, message) for path, message in problems]

    def details(self) -> list[str]:
        return super().details() + [f"  {visible(f'{path}: {message}')}" for path, message in self.problems]

    def to_dict(self) -> dict[str, Any]:
        problems = [{"path": path, "message": message} for path, message in self.problems]
        return super().to_dict() | ({"problems": problems} if problems else {})


class BankError(StdcliError):
    """A bank is missing, damaged or does not fit."""

    exit_code = 3


class BankCorruptError(BankError):
    """A file of a bank is damaged or incomplete."""


class BankMismatchError(BankError):
    """A bank was made with another teacher, schedule or format than the one at hand."""


class ModelError(StdcliError):
    """Weights, a LoRA or a recipe are missing or do not fit."""

    exit_code = 4


class MissingWeights(StdcliError):
    """A metric's weights are not on this machine.

    Args:
        what: which weights.
        fetch: the line that fetches them, or says where to get them from.
    """

    exit_code = 4

    def __init__(self, what: str, *, fetch: str) -> None:
        super().__init__(what, hint=fetch)
        self.fetch = fetch


class MediaError(StdcliError):
    """A picture, video or mask cannot be read or written."""

    exit_code = 5


class HubError(StdcliError):
    """The Hub cannot be reached or refuses."""

    exit_code = 6


class ResourceError(StdcliError):
    """No such device, no memory or no disk space."""

    exit_code = 7


class GateError(StdcliError):
    """A measured value misses its threshold."""

    exit_code = 8


class NumericsError(StdcliError):
    """A value is NaN or infinite."""

    exit_code = 9


class Interrupted(StdcliError):
    """The user stopped the command."""

    exit_code = INTERRUPTED_EXIT_CODE
