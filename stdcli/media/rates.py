"""Which exact frame rate a list of timestamps has, if any.

Containers round timestamps to their own clock (Matroska: to the millisecond), so 30000/1001 arrives as 0, 33,
67, 100 ... A rate fits when every frame k lies within one tick of first + k / rate. Pure arithmetic on
fractions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

NTSC = tuple(Fraction(1000 * nominal, 1001) for nominal in (12, 15, 24, 30, 48, 60, 120, 240))
STATED_PRECISION = Fraction(1, 100)
SURELY_EXACT = (
    8  # equal gaps between so many frames are no accident of rounding, for any rate of the 1001 family
)


def constant_rate(times: Sequence[int], tick_s: Fraction, stated: Sequence[Fraction]) -> Fraction | None:
    """The rate that all timestamps fit.

    Where several rates fit, which happens on coarse clocks and short clips, the choice is, in this order: the
    exact one if many gaps are all equal and the file states it; the one of the 1001 family that the file
    states; the simplest fraction that the file states; the exact one if all gaps are equal; the simplest
    fraction.

    Args:
        times: at least one timestamp, in ticks, ascending.
        tick_s: the clock's tick, in seconds.
        stated: rates the file claims, in frames per second to two decimals; they only break ties.

    Returns:
        Frames per second; None if no rate fits, or if a single frame comes without a stated rate.
    """
    if len(times) < 2:
        return _named(stated[0]) if stated else None
    gaps = {later - earlier for earlier, later in itertools.pairwise(times)}
    if min(gaps) <= 0:
        return None
    shortest, longest = _fitting_gaps(times)
    if shortest > longest or longest <= 0:
        return None
    exact = 1 / (min(gaps) * tick_s) if len(gaps) == 1 else None
    if exact and len(times) >= SURELY_EXACT and _is_stated(exact, stated):
        return exact
    slowest = 1 / (longest * tick_s)
    fastest = 1 / (shortest * tick_s) if shortest > 0 else Fraction(1000)
    for rate in NTSC:
        if slowest <= rate <= fastest and _is_stated(rate, stated):
            return rate
    for claim in stated:
        low, high = max(slowest, claim - STATED_PRECISION / 2), min(fastest, claim + STATED_PRECISION / 2)
        if low <= high:
            return simplest_between(low, high)
    return exact or simplest_between(slowest, fastest)


def _fitting_gaps(times: Sequence[int]) -> tuple[Fraction, Fraction]:
    """The shortest and the longest frame interval, in ticks, that fit; shortest > longest if none does."""
    mean = Fraction(times[-1] - times[0], len(times) - 1)
    slack = min(Fraction(1), mean / 3)  # of a tick or two, one is no rounding but a lost frame
    offsets = [time - times[0] for time in times]
    shortest = max((offset - slack) / k for k, offset in enumerate(offsets) if k)
    longest = min((offset + slack) / k for k, offset in enumerate(offsets) if k)
    return shortest, longest


def simplest_between(low: Fraction, high: Fraction) -> Fraction:
    """The fraction of smallest denominator in [low, high], 0 < low <= high (Stern-Brocot)."""
    whole = math.ceil(low)
    if whole <= high:
        return Fraction(whole)
    floor = whole - 1
    return floor + 1 / simplest_between(1 / (high - floor), 1 / (low - floor))


def _is_stated(rate: Fraction, stated: Sequence[Fraction]) -> bool:
    return any(abs(rate - claim) < STATED_PRECISION for claim in stated)


def _named(claim: Fraction) -> Fraction:
    return next((rate for rate in NTSC if _is_stated(rate, [claim]) and claim.denominator > 1), claim)
