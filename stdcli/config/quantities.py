"""Quantities as people write them: "64MiB", "512x768", "4:8", "style.safetensors:0.8".

Each parser takes a string and raises ValueError with a message fit for the user. Only strings: YAML reads
`4:8` without quotes as the number 248 (base 60), so a number here is a mistake that must not pass.
"""

from __future__ import annotations

import math
import re

_BYTES = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kKMGT]i?B|B)")
_UNIT_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(text: str) -> int:
    """Number of bytes in a size such as "64MiB" (powers of 1024), "2GB" (powers of 1000) or "512B".

    Raises:
        ValueError: not of that form, or no whole number of bytes.
    """
    match = _BYTES.fullmatch(_string(text, '"64MiB"'))
    if match is None:
        raise ValueError(f'{text!r} is not a size in bytes; write it like "64MiB", "2GB" or "512B"')
    unit = match["unit"]
    base = 1024 if "i" in unit else 1000
    size = float(match["number"]) * base ** _UNIT_POWERS.get(unit[0].lower(), 0)
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) in pixels of a size such as "512x768".

    Raises:
        ValueError: not of that form, or a side of 0.
    """
    match = re.fullmatch(r"(\d+)[xX×](\d+)", _string(text, '"512x768"'))
    if match is None:
        raise ValueError(f'{text!r} is not a size in pixels; write it like "512x768" (width x height)')
    width, height = int(match[1]), int(match[2])
    if width == 0 or height == 0:
        raise ValueError(f"{text!r} has a side of 0 pixels")
    return width, height


def parse_range(text: str) -> tuple[float, float]:
    """(low, high) of a range such as "4:8"; both ends belong to it.

    Raises:
        ValueError: not of that form, an end that is not finite, or low > high.
    """
    parts = _string(text, '"4:8"').split(":")
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        raise ValueError(f'{text!r} is not a range; write it like "4:8" (low:high)') from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{text!r} has an end that is not a finite number")
    if low > high:
        raise ValueError(f"{text!r} runs backwards; write the lower end first")
    return low, high


def split_scale(text: str) -> tuple[str, float]:
    """(path, scale) of an adapter such as "style.safetensors:0.8"; the scale is 1.0 when none is written.

    Raises:
        ValueError: empty path, or a scale that is not finite.
    """
    path, colon, scale = _string(text, '"style.safetensors:0.8"').rpartition(":")
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


def _string(value: object, example: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text; write it in quotes, like {example}")
    return value
