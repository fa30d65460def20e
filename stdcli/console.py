"""The one output sink, and the reporter of the command line. Results go to stdout, everything else to stderr.

Modes: `human` prints sentences; `json` prints each result as one JSON object on one line; `quiet` prints only
the path (or first value) of each result. In json mode stderr stays text, except that an error is one JSON
object `{"error": {...}}` on the last line. What names and metadata hold cannot act on a terminal: control
characters are shown as escapes, and only the raw value that quiet mode gives to a pipe is as it is. Knows
nothing of commands; rich is imported only when a bar is drawn.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from fractions import Fraction
from typing import Any, Literal, TextIO

from stdcli.errors import StdcliError
from stdcli.reporter import NoProgress, Progress
from stdcli.visible import visible

Mode = Literal["human", "json", "quiet"]
PLAIN_INTERVAL_S = 30.0
QUICK_S = 3.0
"""What is over sooner needs no line."""
BEAT_S = 0.5


class PlainProgress:
    """Progress as lines of text: at most one every 30 seconds, and one at the end.

    Args:
        label: what is counted.
        total: number of units, or None while unknown.
        write: receives each line, without newline.
        clock: seconds, never decreasing.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        *,
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self._label, self._write, self._clock = label, write, clock
        self._done = 0
        self._started_s = self._last_s = clock()

    def advance(self, n: int = 1) -> None:
        """Count `n` more units; write a line if the last one is old enough."""
        self._done += n
        now_s = self._clock()
        if now_s - self._last_s >= PLAIN_INTERVAL_S:
            self._last_s = now_s
            self._write(self._line())

    def beat(self) -> None:
        """Write a line if the last one is old enough, though nothing more is finished."""
        self.advance(0)

    def finish(self, *, completed: bool) -> None:
        """Write the last line."""
        self._write(self._line() + ("" if completed else ", stopped"))

    def _line(self) -> str:
        of_total = "" if self.total is None else f"/{self.total}"
        return f"{self._label}: {self._done}{of_total} in {self._clock() - self._started_s:.1f} s"


class PlainStage:
    """What is being done, as lines of text: one once it lasts longer than 3 seconds, then one every 30.

    Args:
        label: what is being done.
        write: receives each line, without newline.
        clock: seconds, never decreasing.
    """

    def __init__(
        self, label: str, *, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._label, self._write, self._clock = label, write, clock
        self._began_s, self._due_s = clock(), clock() + QUICK_S

    def __call__(self, label: str) -> None:
        """Say what is being done now; the time runs on."""
        self._label = label

    def beat(self) -> None:
        """Write a line if one is due."""
        now_s = self._clock()
        if now_s >= self._due_s:
            self._due_s = now_s + PLAIN_INTERVAL_S
            self._write(f"{self._label}, {now_s - self._began_s:.0f} s so far")


class BarProgress:
    """Progress as a rich bar on a terminal."""

    def __init__(self, bar: Any, task_id: Any, total: int | None) -> None:
        self._bar, self._task_id, self._total = bar, task_id, total

    @property
    def total(self) -> int | None:
        """Number of units, or None while unknown."""
        return self._total

    @total.setter
    def total(self, value: int | None) -> None:
        self._total = value
        self._bar.update(self._task_id, total=value)

    def advance(self, n: int = 1) -> None:
        """Move the bar by `n` units."""
        self._bar.advance(self._task_id, n)


class Console:
    """Renders what a command has to say.

    Args:
        mode: how results are printed.
        verbose: print `detail` lines too.
        debug: the command line shows tracebacks.
    """

    def __init__(self, mode: Mode = "human", verbose: bool = False, debug: bool = False) -> None:
        self.mode = mode
        self.verbose = verbose
        self.debug = debug
        self._draws = False

    def result(self, *lines: str, **data: Any) -> None:
        """What the command was run for; `data` is the same for machines."""
        if self.mode == "json":
            self._json(data or {"message": "\n".join(lines)})
        elif self.mode == "human":
            _write(sys.stdout, *lines)
        elif data:
            _write_raw(str(data.get("path", next(iter(data.values())))))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], **data: Any) -> None:
        """Rows under column names; json: `{..., "rows": [{column: value}]}`; quiet: the first column."""
        if self.mode == "json":
            self._json({**data, "rows": [dict(zip(columns, row, strict=True)) for row in rows]})
        elif self.mode == "quiet":
            for row in rows:
                _write_raw(str(row[0]))
        else:
            _write(sys.stdout, *_aligned([list(columns), *rows]))

    def note(self, *lines: str) -> None:
        """What is going on; muted in quiet mode."""
        if self.mode != "quiet":
            _write(sys.stderr, *lines)

    def detail(self, *lines: str) -> None:
        """More of the same, for --verbose."""
        if self.verbose:
            self.note(*lines)

    def warning(self, message: str | StdcliError) -> None:
        """Something the user should know, or an error that ends nothing; shown in every mode."""
        if isinstance(message, StdcliError):
            _write(sys.stderr, f"warning: {message.what}", *message.rest())
        else:
            _write(sys.stderr, f"warning: {message}")

    def error(self, error: StdcliError) -> None:
        """Why the command failed."""
        if self.mode == "json":
            _write(sys.stderr, _dump({"error": error.to_dict()}))
        else:
            _write(sys.stderr, f"error: {error.what}", *error.rest())

    def trace(self, text: str) -> None:
        """A traceback, for --debug."""
        _write(sys.stderr, *text.split("\n"))

    @contextlib.contextmanager
    def progress(self, label: str, total: int | None = None) -> Iterator[Progress]:
        """Show progress on stderr while the block runs: a bar on a terminal, rare lines elsewhere."""
        if self.mode == "quiet":
            yield NoProgress(total)
        elif sys.stderr.isatty():
            with self._drawing():
                yield from _bar(label, total)
        else:
            plain = PlainProgress(label, total, write=lambda line: _write(sys.stderr, line))
            completed = False
            try:
                with _beating(plain.beat):
                    yield plain
                completed = True
            finally:
                plain.finish(completed=completed)

    @contextlib.contextmanager
    def stage(self, label: str) -> Iterator[Callable[[str], None]]:
        """Show on stderr that something is being done while the block runs.

        A moving line on a terminal, that goes when it is done; elsewhere lines of `PlainStage`.

        Args:
            label: what is being done, such as "loading x".

        Yields:
            A function that takes another label.
        """
        if self.mode == "quiet" or self._draws:  # a terminal has one moving line
            yield lambda label: None
        elif sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):  # nothing moves there
            with self._drawing():
                yield from _spinner(label)
        else:
            plain = PlainStage(label, write=lambda line: _write(sys.stderr, line))
            with _beating(plain.beat):
                yield plain

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        self._draws = True
        try:
            yield
        finally:
            self._draws = False

    def _json(self, data: dict[str, Any]) -> None:
        _write(sys.stdout, _dump(to_plain(data)))


def to_plain(value: Any) -> Any:
    """`value` as JSON knows it: paths and fractions become text, NaN and infinity null.

    Raises:
        TypeError: a value JSON cannot hold, such as a tensor.
    """
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Enum):
        return to_plain(value.value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, os.PathLike | Fraction):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form; convert it before printing")


def _aligned(rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [["" if cell is None else visible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = (zip(row, widths, strict=True) for row in cells)
    return ["  ".join(cell.ljust(width) for cell, width in row).rstrip() for row in padded]


@contextlib.contextmanager
def _beating(beat: Callable[[], None]) -> Iterator[None]:
    """Call `beat` now and then, from a thread, while the block runs."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(BEAT_S):
            with contextlib.suppress(OSError, ValueError):  # a stream that is closed or full
                beat()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _bar(label: str, total: int | None) -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with _live(*columns, transient=False) as bar:
        yield BarProgress(bar, bar.add_task(visible(label), total=total), total)


def _spinner(label: str) -> Iterator[Callable[[str], None]]:
    from rich.progress import TimeElapsedColumn

    with _live(TimeElapsedColumn(), transient=True) as bar:
        task = bar.add_task(visible(label), total=None)
        yield lambda label: bar.update(task, description=visible(label))


def _live(*columns: Any, transient: bool) -> Any:
    from rich.console import Console as RichConsole
    from rich.progress import Progress as RichProgress
    from rich.progress import SpinnerColumn, TextColumn

    words = TextColumn("{task.description}", markup=False)
    stdout_is_screen = sys.stdout.isatty()  # piped results must not be pulled over to stderr by the live bar
    console = RichConsole(stderr=True, markup=False, emoji=False, highlight=False)
    return RichProgress(
        SpinnerColumn(),
        words,
        *columns,
        console=console,
        redirect_stdout=stdout_is_screen,
        transient=transient,
    )


def _dump(data: dict[str, Any]) -> str:
    """JSON in ASCII; the one control character that JSON leaves as it is is escaped too."""
    return json.dumps(data).replace("\x7f", "\\u007f")


def _write(stream: TextIO, *lines: str) -> None:
    """Lines, flushed; characters that act, or that the stream cannot show, are escaped."""
    text = "\n".join(map(visible, lines)) + "\n"
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _write_raw(text: str) -> None:
    """One value for another program, byte by byte, also a name that is not UTF-8; escaped on a terminal."""
    stream = sys.stdout
    data = getattr(stream, "buffer", None)
    if data is None or stream.isatty():
        _write(stream, text)
        return
    stream.flush()
    data.write(f"{text}\n".encode(sys.getfilesystemencoding(), "surrogateescape"))
    data.flush()
