"""Standard output and error that are closed, broken or full: no reason to stop what a command was run for.

What cannot be written is dropped. A reader that went away wanted no more, which is no failure; a full disk
under standard output is told when the work is done.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from stdcli.errors import ResourceError

AWAY = {errno.EPIPE, errno.ECONNRESET, errno.EBADF, errno.ESHUTDOWN, errno.ENXIO}
"""What the system answers where nobody reads, or where there never was anything."""
_HANDLES = 3


class _Lasting:
    """A text stream, or bytes stream, that outlives what it writes to.

    Attributes:
        lost: why something could not be written; None while all was.
    """

    def __init__(self, stream: Any, parent: _Lasting | None = None) -> None:
        self._stream, self._parent = stream, parent or self
        self.lost: OSError | None = None

    def write(self, data: Any) -> int:
        if self._parent.lost is None:
            try:
                return self._stream.write(data)
            except OSError as error:
                self._parent._give_up(error)
        return len(data)

    def flush(self) -> None:
        if self._parent.lost is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._parent._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Let what is still in buffers go nowhere, or the interpreter would fail of it as it ends."""
        self.lost = error
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    @property
    def buffer(self) -> _Lasting:
        """The bytes below the text."""
        return _Lasting(self._stream.buffer, self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_streams() -> Iterator[Callable[[], None]]:
    """Keep standard streams from stopping the block, whatever becomes of what is written to them.

    Yields:
        To be called when all is printed; it raises ResourceError if some of standard output could not be
        written, and not for want of a reader.
    """
    _fill_closed()
    before = sys.stdout, sys.stderr
    out, err = (_Lasting(_nowhere() if stream is None else stream) for stream in before)

    def check() -> None:
        out.flush()
        if out.lost is not None and out.lost.errno not in AWAY:
            raise ResourceError(f"standard output cannot be written to: {out.lost.strerror or out.lost}")

    sys.stdout, sys.stderr = out, err
    try:
        yield check
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _fill_closed() -> None:
    """Open what was closed when the process began: the next file would get its number and what is printed."""
    for handle in range(_HANDLES):
        try:
            os.fstat(handle)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")
