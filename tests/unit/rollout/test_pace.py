"""Times of banks from times of batches, by a clock that the test turns."""

from __future__ import annotations

import pytest

from stdcli.rollout.pace import Pace, length


class Machine:
    """Walks batches in exactly known times.

    Args:
        pace: told.
        evaluations: of a path.
    """

    def __init__(self, evaluations: int, **options: object) -> None:
        self.now_s = 5.0
        self.told: list[dict[int, float]] = []
        self.pace = Pace(evaluations, clock=lambda: self.now_s, on_news=self._news, **options)

    def _news(self) -> None:
        self.told.append(dict(self.pace.seconds))

    def walk(self, size: int, *, ready_s: float, steps_s: list[float], tail_s: float = 0.0) -> None:
        self.pace.start(size)
        for seconds in (ready_s, *steps_s):
            self.now_s += seconds
            self.pace.step()
        self.now_s += tail_s
        self.pace.stop()


def test_the_first_batch_tells_after_two_evaluations() -> None:
    machine = Machine(5)
    machine.walk(4, ready_s=3, steps_s=[9, 2, 2, 2, 4], tail_s=0.5)
    early, late = machine.told
    assert early == {4: 3 + 5 * 2}, "the first evaluation, with all that is made once, does not count"
    assert late == {4: 3 + 5 * 2.5 + 0.5}


def test_the_second_batch_of_a_size_corrects_it_and_no_other_does() -> None:
    machine = Machine(2)
    machine.walk(4, ready_s=30, steps_s=[9, 2])
    machine.walk(4, ready_s=3, steps_s=[2, 2], tail_s=1)
    machine.walk(4, ready_s=300, steps_s=[200, 200])
    assert machine.told == [{4: 34}, {4: 34}, {4: 8}]


def test_one_evaluation_is_told_of_at_its_end() -> None:
    machine = Machine(1)
    machine.walk(2, ready_s=1, steps_s=[4])
    assert machine.told == [{2: 5}, {2: 5}]


def test_what_is_known_is_not_measured_until_the_second_batch() -> None:
    machine = Machine(2, seconds={4: 10.0})
    machine.walk(4, ready_s=30, steps_s=[9, 2])
    assert machine.told == []
    machine.walk(4, ready_s=1, steps_s=[2, 2])
    assert machine.told == [{4: 5}]


@pytest.mark.parametrize(
    ("shards", "seconds", "expected"),
    [
        ([20, 20, 7], {8: 16.0}, 94.0),  # in proportion: 2 s a path
        ([20, 20, 7], {8: 16.0, 4: 10.0}, 2 * (2 * 16 + 10) + 14),
        ([20, 20, 7], {8: 16.0, 4: 10.0, 7: 15.0}, 2 * (2 * 16 + 10) + 15),
        ([2, 2, 1], {2: 6.0}, 15.0),  # shards smaller than a batch
        ([], {8: 16.0}, 0.0),
    ],
)
def test_a_bank_takes_what_its_batches_take(
    shards: list[int], seconds: dict[int, float], expected: float
) -> None:
    assert Pace(3, seconds=seconds).total_s(shards, batch_size=8) == expected
    slow = Pace(3, seconds=seconds)
    slow.wrote(3.0, 6)
    slow.wrote(300.0, 6)
    assert slow.total_s(shards, batch_size=8) == expected + sum(shards) / 2


def test_nothing_known_tells_nothing() -> None:
    assert Pace(3).total_s([4], batch_size=2) is None


def test_a_warm_estimate_is_within_a_fifth() -> None:
    """Twelve shards of 20 in batches of 8, 8, 4, which share a fixed cost; the last shard has 6."""
    machine = Machine(10)
    shards = [20] * 12 + [6]

    def run(size: int, warm_s: float) -> None:
        step_s = 0.3 + 0.2 * size
        machine.walk(size, ready_s=0.5 * size, steps_s=[step_s + warm_s, *[step_s] * 9], tail_s=0.1)

    began_s = machine.now_s
    sizes = [size for count in shards for size in [8] * (count // 8) + [count % 8]]
    run(sizes[0], warm_s=7.0)
    first_s = machine.pace.total_s(shards, batch_size=8)
    for size in sizes[1:]:
        run(size, warm_s=0.0)
    assert first_s == pytest.approx(machine.now_s - began_s, rel=0.2)
    assert machine.pace.total_s(shards, batch_size=8) == pytest.approx(machine.now_s - began_s - 7)


def test_kept_and_taken_over() -> None:
    pace = Pace(3, seconds={8: 16.5, 3: 7.25})
    pace.wrote(1.0, 4)
    again = Pace(3)
    again.recall(pace.to_json())
    assert (again.seconds, again.write_s) == ({8: 16.5, 3: 7.25}, 0.25)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [1],
        {},
        {"batches": 3, "write": "x"},
        {"batches": {"a": 1, "0": 1, "-1": 2, "2": -1, "3": None, "4": "5", "5": float("nan")}, "write": -1},
    ],
)
def test_what_is_no_pace_is_nothing_known(data: object) -> None:
    pace = Pace(3)
    pace.recall(data)
    assert (pace.seconds, pace.write_s) == ({}, 0.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "0.012 s"), (45.2, "45 s"), (60, "1.0 min"), (3599, "60.0 min"), (9000, "2.5 h")],
)
def test_length(seconds: float, text: str) -> None:
    assert length(seconds) == text
