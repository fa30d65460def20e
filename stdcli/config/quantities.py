"""Quantities as people write them: "style.safetensors:0.8".

A parser takes a string and raises ValueError with a message fit for the user. Only strings: YAML reads `4:8`
without quotes as the number 248 (base 60), so a number here is a mistake that must not pass.
"""

from __future__ import annotations

import math


def split_scale(text: str) -> tuple[str, float]:
    """(path, scale) of an adapter such as "style.safetensors:0.8"; the scale is 1.0 when none is written.

    Raises:
        ValueError: empty path, or a scale that is not finite.
    """
    if not isinstance(text, str):
        raise ValueError(f'{text!r} is not text; write it in quotes, like "style.safetensors:0.8"')
    path, colon, scale = text.rpartition(":")
    try:
        number = float(scale)
    except ValueError:  # no scale: a plain path, or the colon of a drive letter
        path, colon, number = text, "", 1.0
    if not colon:
        path, number = text, 1.0
    if not path:
        raise ValueError(f"{text!r} names no file before the scale")
    if not math.isfinite(number):
        raise ValueError(f"{text!r} has a scale that is not a finite number")
    return path, number
