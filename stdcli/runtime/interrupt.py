"""What stops a command from outside: Ctrl-C, SIGTERM (`docker stop`), SIGHUP (a closed terminal).

All three are one thing: between two steps a request to save and stop, elsewhere a KeyboardInterrupt. A signal
that was ignored when the command began (`nohup`, a background job of a script) stays ignored.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

OTHERS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that do what SIGINT does; Windows has no SIGHUP."""


@dataclass
class StopRequest:
    """Whether the user asked the command to stop."""

    requested: bool = False


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP interrupt as Ctrl-C does; the one place that begins to listen to them.

    Signals that are ignored, or that somebody handles already, are left so. Outside the main thread, where
    signals do not arrive, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    mine = [number for number in OTHERS if signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def deferred_interrupt() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP inside the block into a request: the state can be saved.

    The second one interrupts at once, as ever. SIGTERM and SIGHUP are left alone where they would not
    interrupt, and all are outside the main thread, where signals do not arrive.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    usual = {number: signal.getsignal(number) for number in OTHERS}
    usual = {number: handler for number, handler in usual.items() if callable(handler)}
    if (handler := signal.getsignal(signal.SIGINT) or signal.default_int_handler) is not signal.SIG_IGN:
        usual[signal.SIGINT] = handler

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        _leave_dead_terminal()
        restore()

    for number in usual:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()


def _interrupt(number: int, frame: FrameType | None) -> None:
    _leave_dead_terminal()
    raise KeyboardInterrupt


def _leave_dead_terminal() -> None:
    """Let what is still said go nowhere if the terminal is gone: an error there would cost the saving."""
    for descriptor in (1, 2):
        with suppress(OSError):
            is_device = stat.S_ISCHR(os.fstat(descriptor).st_mode)
            if is_device and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
