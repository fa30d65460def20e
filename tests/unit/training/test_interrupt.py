"""Ctrl-C, SIGTERM and SIGHUP wait for the step at hand; a second one does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from stdcli.runtime.interrupt import deferred_interrupt, stopped_by_signals

STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def listening() -> Iterator[None]:
    with stopped_by_signals():
        yield


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("second", STOPS)
@pytest.mark.usefixtures("listening")
def test_the_first_is_noted_and_the_second_interrupts(number: int, second: int) -> None:
    before = [signal.getsignal(stop) for stop in STOPS]
    reached = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupt() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        reached.append(1)
        signal.raise_signal(second)
        reached.append(2)
    assert reached == [1]
    assert [signal.getsignal(stop) for stop in STOPS] == before


@pytest.mark.usefixtures("listening")
def test_the_usual_handlers_are_back_afterwards() -> None:
    before = [signal.getsignal(stop) for stop in STOPS]
    with deferred_interrupt() as stop:
        assert all(signal.getsignal(stop) not in before for stop in STOPS)
    assert [signal.getsignal(stop) for stop in STOPS] == before
    assert not stop.requested


@pytest.mark.parametrize("number", STOPS[1:])
def test_elsewhere_they_interrupt_as_ctrl_c_does(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), stopped_by_signals():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", STOPS)
def test_what_is_ignored_stays_so(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stopped_by_signals(), deferred_interrupt() as stop:
            signal.raise_signal(number)
            assert not stop.requested
            assert signal.getsignal(number) is signal.SIG_IGN
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_another_thread_changes_nothing() -> None:
    before = [signal.getsignal(stop) for stop in STOPS]
    seen = []

    def work() -> None:
        with stopped_by_signals(), deferred_interrupt():
            seen.append([signal.getsignal(stop) for stop in STOPS] == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


CLOSED = """
import os, signal, sys
from stdcli.runtime.interrupt import deferred_interrupt, stopped_by_signals
with stopped_by_signals(), deferred_interrupt() as stop:
    os.write(1, b"ready")
    while not stop.requested:
        signal.pause()
sys.stderr.write("saved" + chr(10))
sys.stderr.flush()
open(sys.argv[1], "w").write("saved")
"""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals")
def test_a_closed_terminal_leaves_time_to_save(tmp_path) -> None:
    """Its end is a SIGHUP, and from then on an error for whoever writes to it."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", CLOSED, str(tmp_path / "state")]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert os.read(ours, 5) == b"ready"
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "state").read_text() == "saved"
