"""Quantities as people write them: "style.safetensors:0.8", "20GB".

A parser takes a string and raises ValueError with a message fit for the user. Only strings: YAML reads `4:8`
without quotes as the number 248 (base 60), so a number here is a mistake that must not pass.
"""

from __future__ import annotations

import math
import re


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


def read_bytes(text: str) -> int:
    """Bytes of a size such as "20GB", "1.5 GiB" or "4096"; k M G T are powers of 1000, Ki Mi Gi Ti of 1024.

    Raises:
        ValueError: not a size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i)?)?b?\s*", text, re.IGNORECASE)
    if not found:
        raise ValueError(f"{text!r} is not a size such as 20GB or 1.5GiB")
    number, prefix, binary = found.groups()
    power = 1 + "kmgt".index(prefix.lower()) if prefix else 0
    return round(float(number) * (1024 if binary else 1000) ** power)


def parse_worker(text: str) -> tuple[int, int]:
    """ "2/8" -> (2, 8), the third of eight.

    Raises:
        ValueError: not i/n with 0 <= i < n.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    worker = (int(found[1]), int(found[2])) if found else (0, 0)
    if not worker[0] < worker[1]:
        raise ValueError(f"{text!r} is not I/N with 0 <= I < N, such as 0/4")
    return worker


def split_weights(text: str) -> tuple[str, str]:
    """(name, path) of "csd=files/csd.pth".

    Raises:
        ValueError: not two parts around an equals sign.
    """
    name, equals, path = text.partition("=")
    if not (name.strip() and equals and path.strip()):
        raise ValueError(f"{text!r} is not NAME=FILE, such as csd=csd.pth")
    return name.strip(), path.strip()


def split_threshold(text: str) -> tuple[str | None, str, str, float]:
    """(method or None, metric, sign, limit) of "palette<=5" or "student:edges>=0.6".

    Raises:
        ValueError: not a metric, one of <= >= < >, and a finite number.
    """
    found = re.fullmatch(r"\s*(?:(.+):)?\s*([\w-]+)\s*(<=|>=|<|>)\s*(\S+)\s*", text)
    try:
        limit = float(found[4]) if found else math.nan
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise ValueError(f"{text!r} is not a threshold such as palette<=5 or student:edges>=0.6")
    return found[1], found[2], found[3], limit
