"""How long a bank takes, learnt from the very batches that build it: nothing is computed to find out."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

ENOUGH = 2  # evaluations: the first of a process is slower than all others


def _ignore() -> None:
    pass


@dataclass
class Pace:
    """Seconds of batches, by how many paths they have.

    Of a batch size that nothing is known of, the first batch tells, as soon as two evaluations are done; the
    second one, which has no first use of anything in it, corrects it. No others are looked at.

    Attributes:
        evaluations: of the teacher per path.
        seconds: paths of a batch -> seconds for the whole of it, pictures, codec and all evaluations.
        write_s: seconds to write one path; 0 while unknown.
        on_news: called whenever `seconds` or `write_s` has changed.
        clock: seconds, never decreasing.
    """

    evaluations: int
    seconds: dict[int, float] = field(default_factory=dict)
    write_s: float = 0.0
    on_news: Callable[[], object] = _ignore
    clock: Callable[[], float] = time.perf_counter
    _begun: Counter[int] = field(default_factory=Counter)
    _marks: list[float] = field(default_factory=list)  # asked for, ready to walk, after each evaluation
    _size: int = 0
    _is_told: bool = False

    def start(self, size: int) -> None:
        """A batch of so many paths is asked for."""
        self._size, self._marks = size, [self.clock()]
        self._is_told = size in self.seconds
        self._begun[size] += 1

    def step(self) -> None:
        """The batch is ready to be walked, or one more evaluation of it is done."""
        self._marks.append(self.clock())
        if not self._is_told and len(self._marks) == 2 + min(ENOUGH, self.evaluations):
            self._learn(self._predicted())

    def stop(self) -> None:
        """The batch is done."""
        if self._begun[self._size] == 2:
            self._learn(self.clock() - self._marks[0])
        elif not self._is_told:
            self._learn(self._predicted() + self.clock() - self._marks[-1])

    def wrote(self, seconds: float, paths: int) -> None:
        """A shard of so many paths is on the disk; the first one tells."""
        if not self.write_s:
            self.write_s = seconds / paths
            self.on_news()

    def total_s(self, shards: Iterable[int], *, batch_size: int) -> float | None:
        """Seconds for shards of so many paths each, whose batches end with them; None while unknown.

        A batch of a size that was not seen is taken to need its share of the largest one's time.
        """
        if not self.seconds:
            return None
        largest = max(self.seconds)
        per_path_s = self.seconds[largest] / largest
        total_s = 0.0
        for count in shards:
            whole, rest = divmod(count, batch_size)
            for size, times in ((batch_size, whole), (rest, 1)):
                total_s += times * self.seconds.get(size, size * per_path_s)
            total_s += count * self.write_s
        return total_s

    def to_json(self) -> dict[str, Any]:
        """What is known, for the next process."""
        return {"batches": {str(size): s for size, s in self.seconds.items()}, "write": self.write_s}

    def recall(self, data: Any) -> None:
        """Take over what `to_json` gave; anything else is as if nothing were known."""
        batches, write_s = (data.get("batches"), data.get("write")) if isinstance(data, dict) else (None, 0)
        if isinstance(batches, dict):
            pairs = ((size, s) for size, s in batches.items() if size.isdecimal() and _is_seconds(s))
            self.seconds |= {int(size): s for size, s in pairs if int(size)}
        if _is_seconds(write_s):
            self.write_s = write_s

    def _predicted(self) -> float:
        """Seconds of the batch under way if all evaluations took what those after the first took."""
        ready_s, first_s = self._marks[1] - self._marks[0], self._marks[2] - self._marks[1]
        later = len(self._marks) - 3
        each_s = (self._marks[-1] - self._marks[2]) / later if later else first_s
        return ready_s + self.evaluations * each_s

    def _learn(self, seconds: float) -> None:
        self.seconds[self._size] = seconds
        self.on_news()


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def length(seconds: float) -> str:
    """A time as people say it: `2.4 h`, `3.1 min`, `14 s`."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.2g} s"
