"""Reading ahead of the work and writing behind it, each in a thread of its own, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

CAPACITY = 2
"""Items that may wait on either side: enough to bridge a slow moment, few enough to fit in memory."""


def read_ahead(items: Iterator[T], capacity: int = CAPACITY) -> Iterator[T]:
    """The same items, fetched by another thread while the caller works.

    Errors of `items` reach the caller in their place. Closing early stops the thread; it does not close
    `items`.

    Args:
        items: used by one thread at a time.
        capacity: items fetched before they are asked for.
    """
    end = object()
    with ThreadPoolExecutor(1, "read") as pool:
        waiting = deque(pool.submit(next, items, end) for _ in range(capacity))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(next, items, end))
                yield item
        finally:
            for future in waiting:
                future.cancel()


class WriteBehind:
    """Calls made in order by another thread, as a context manager.

    Leaving normally waits for all of them; leaving by an exception drops those not begun.

    Args:
        capacity: calls that may wait before `submit` does.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._waiting: deque[Future[Any]] = deque()
        self._broken = False
        self._pool = ThreadPoolExecutor(1, "write")

    def __enter__(self) -> WriteBehind:
        return self

    def submit(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Have `call(*arguments)` made after those before.

        Raises:
            Exception: whatever an earlier call raised; nothing after it was made.
        """
        while len(self._waiting) >= self._capacity:
            self._settle()
        self._waiting.append(self._pool.submit(self._call, call, *arguments))

    def flush(self) -> None:
        """Wait for all calls.

        Raises:
            Exception: whatever one of them raised; nothing after it was made.
        """
        while self._waiting:
            self._settle()

    def _call(self, call: Callable[..., Any], *arguments: Any) -> None:
        if self._broken:
            return
        try:
            call(*arguments)
        except BaseException:
            self._broken = True
            raise

    def _settle(self) -> None:
        self._waiting.popleft().result()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self._broken = self._broken or kind is not None
            self._pool.shutdown()
