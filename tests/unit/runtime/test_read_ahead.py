"""Threads beside the work: order, bounds, errors."""

from __future__ import annotations

import threading
import time

import pytest

from stdcli.runtime.read_ahead import WriteBehind, read_ahead


def test_items_come_in_order_from_another_thread():
    threads = []

    def items():
        for k in range(20):
            threads.append(threading.current_thread())
            yield k

    assert list(read_ahead(items())) == list(range(20))
    assert threading.current_thread() not in threads


def test_no_more_is_read_ahead_than_asked_for():
    fetched = []

    def items():
        for k in range(100):
            fetched.append(k)
            yield k

    ahead = read_ahead(items(), capacity=3)
    assert next(ahead) == 0
    time.sleep(0.05)
    assert len(fetched) <= 1 + 3
    ahead.close()
    time.sleep(0.05)
    assert len(fetched) <= 1 + 3 + 1


def test_an_error_comes_in_its_place():
    def items():
        yield 1
        yield 2
        raise OSError("torn")

    ahead = read_ahead(items(), capacity=5)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(OSError, match="torn"):
        next(ahead)


def test_calls_are_made_in_order_and_waited_for():
    made = []
    with WriteBehind(capacity=2) as behind:
        for k in range(10):
            behind.submit(lambda k=k: (time.sleep(0.002), made.append(k)))
    assert made == list(range(10))


def test_few_calls_wait():
    gate, waiting = threading.Event(), []

    def submit_all(behind):
        for k in range(10):
            behind.submit(gate.wait)
            waiting.append(k)

    with WriteBehind(capacity=2) as behind:
        thread = threading.Thread(target=submit_all, args=(behind,))
        thread.start()
        time.sleep(0.05)
        count = len(waiting)
        gate.set()
        thread.join()
    assert (count, len(waiting)) == (2, 10)


def test_after_an_error_nothing_more_is_called():
    made = []

    def fail():
        raise OSError("full")

    with pytest.raises(OSError, match="full"), WriteBehind(capacity=4) as behind:
        behind.submit(fail)
        behind.submit(made.append, 1)
        behind.submit(made.append, 2)
        behind.flush()
    assert made == []


def test_leaving_by_an_error_drops_what_has_not_begun():
    gate, made = threading.Event(), []
    with pytest.raises(KeyError), WriteBehind(capacity=4) as behind:
        behind.submit(gate.wait)
        behind.submit(made.append, 1)
        threading.Timer(0.05, gate.set).start()
        raise KeyError
    assert made == []
