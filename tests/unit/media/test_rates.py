"""The exact rate behind rounded timestamps."""

from fractions import Fraction

import pytest

from stdcli.media.rates import constant_rate, simplest_between

NTSC_30, NTSC_24 = Fraction(30000, 1001), Fraction(24000, 1001)
MILLISECOND = Fraction(1, 1000)


def rounded(rate: Fraction, count: int, tick_s: Fraction, first: int = 0) -> list[int]:
    return [first + round(k / rate / tick_s) for k in range(count)]


def as_stated(rate: Fraction) -> list[Fraction]:
    return [Fraction(f"{float(rate):.2f}")]


RATES = [
    Fraction(r)
    for r in ("30000/1001", "24000/1001", "60000/1001", "24", "25", "12.5", "30", "50", "60", "15", "1")
]


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("count", [2, 5, 48, 700])
@pytest.mark.parametrize("tick_s", [MILLISECOND, Fraction(1, 90000)], ids=str)
def test_a_rate_is_found_again_after_rounding(rate, count, tick_s):
    assert constant_rate(rounded(rate, count, tick_s, first=80), tick_s, as_stated(rate)) == rate


@pytest.mark.parametrize("rate", [NTSC_30, Fraction(30)], ids=str)
def test_a_long_clip_needs_no_stated_rate(rate):
    """After n frames 30 and 29.97 are n / 30030 s apart: 2000 frames settle it on a millisecond clock."""
    found = constant_rate(rounded(rate, 2000, MILLISECOND), MILLISECOND, [])
    assert abs(found - rate) / rate < Fraction(1, 60_000)


def test_timestamps_win_over_what_the_file_states():
    assert constant_rate(rounded(Fraction(25), 100, MILLISECOND), MILLISECOND, [Fraction("29.97")]) == 25


def test_an_exact_clock_gives_the_exact_rate_even_if_unusual():
    times = list(range(0, 384 * 50, 384))
    assert constant_rate(times, Fraction(1, 11456), [Fraction("29.83")]) == Fraction(179, 6)


def test_a_rate_beside_the_1001_family_is_not_taken_for_it():
    times = list(range(0, 400 * 50, 400))
    assert constant_rate(times, Fraction(1, 11988), [Fraction("29.97")]) == Fraction(2997, 100)


@pytest.mark.parametrize("index", [1, 20, 39])
@pytest.mark.parametrize(("rate", "tick_s"), [(25, MILLISECOND), (60, MILLISECOND), (30, Fraction(1, 30))])
def test_a_missing_frame_is_a_variable_rate(index, rate, tick_s):
    times = rounded(Fraction(rate), 41, tick_s)
    del times[index]
    assert constant_rate(times, tick_s, [Fraction(rate)]) is None


def test_two_frames_at_one_time_are_a_variable_rate():
    assert constant_rate([0, 40, 40, 80], MILLISECOND, [Fraction(25)]) is None


def test_a_single_frame_has_the_stated_rate_if_any():
    assert constant_rate([0], MILLISECOND, [Fraction("29.97")]) == NTSC_30
    assert constant_rate([0], MILLISECOND, [Fraction("23.98")]) == NTSC_24
    assert constant_rate([0], MILLISECOND, [Fraction("24")]) == 24
    assert constant_rate([0], MILLISECOND, []) is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [("2.9", "3.1", "3"), ("0.3", "0.34", "1/3"), ("0.618", "0.6181", "89/144"), ("7/3", "7/3", "7/3")],
)
def test_simplest_fraction_between(low, high, expected):
    low, high = Fraction(low), Fraction(high)
    brute = next(
        Fraction(n, d) for d in range(1, 200) for n in range(1, 4 * d) if low <= Fraction(n, d) <= high
    )
    assert simplest_between(low, high) == brute == Fraction(expected)
