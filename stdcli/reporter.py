"""To whom long work says what is going on: a person at a terminal, a log, a page. The console is one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from stdcli.errors import StdcliError


class Progress(Protocol):
    """Counts finished work; `total` may be set once it is known."""

    total: int | None

    def advance(self, n: int = 1) -> None:
        """Count `n` more units as finished."""


class NoProgress:
    """Progress that shows nothing: the default of library functions."""

    def __init__(self, total: int | None = None) -> None:
        self.total = total

    def advance(self, n: int = 1) -> None:
        """Forget the count."""


class Reporter(Protocol):
    """Is told, while work goes on, what a person would want to know; results are returned to the caller."""

    def note(self, *lines: str) -> None:
        """What is going on."""

    def detail(self, *lines: str) -> None:
        """More of the same."""

    def warning(self, message: str | StdcliError) -> None:
        """Something the user should know, or an error that ends nothing."""

    def progress(self, label: str, total: int | None = None) -> AbstractContextManager[Progress]:
        """Count units of work, such as frames, while the block runs."""

    def stage(self, label: str) -> AbstractContextManager[Callable[[str], None]]:
        """Something is being done while the block runs; the function that it yields takes another label."""


class LogReporter:
    """Reports to the logger "stdcli": warnings as such, notes at INFO, details and stages at DEBUG."""

    def note(self, *lines: str) -> None:
        """Log lines at INFO."""
        _log("info", *lines)

    def detail(self, *lines: str) -> None:
        """Log lines at DEBUG."""
        _log("debug", *lines)

    def warning(self, message: str | StdcliError) -> None:
        """Log a warning; of an error all that it says."""
        _log("warning", str(message))

    @contextlib.contextmanager
    def progress(self, label: str, total: int | None = None) -> Iterator[Progress]:
        """Count nothing: a program knows how far it is."""
        yield NoProgress(total)

    @contextlib.contextmanager
    def stage(self, label: str) -> Iterator[Callable[[str], None]]:
        """Log what is being done at DEBUG."""
        self.detail(label)
        yield self.detail


def _log(level: str, *lines: str) -> None:
    import logging  # some milliseconds that --help need not wait for

    for line in lines:
        getattr(logging.getLogger("stdcli"), level)("%s", line)
