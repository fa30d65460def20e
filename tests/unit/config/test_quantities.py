"""Parsers of quantities."""

import pytest

from stdcli.config.quantities import parse_bytes, parse_range, parse_size, split_scale


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0B", 0),
        ("512B", 512),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("64MiB", 67_108_864),
        ("1.5 GiB", 1_610_612_736),
        ("2TB", 2_000_000_000_000),
    ],
)
def test_bytes(text: str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "64", "MiB", "-1MiB", "64Mb", "64 MiBs", "1e3MiB"])
def test_what_is_no_size_in_bytes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size in bytes"):
        parse_bytes(text)


def test_bytes_must_be_whole() -> None:
    with pytest.raises(ValueError, match=r"'0\.3B' is not a whole number of bytes"):
        parse_bytes("0.3B")


@pytest.mark.parametrize(("text", "size"), [("512x768", (512, 768)), ("1X2", (1, 2)), ("3×4", (3, 4))])
def test_size(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["512", "512x", "x512", "512x768x3", "-5x5", "5.0x5"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size in pixels; write it like \"512x768\""):
        parse_size(text)


def test_a_side_of_zero_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="side of 0 pixels"):
        parse_size("0x5")


@pytest.mark.parametrize(("text", "ends"), [("4:8", (4.0, 8.0)), ("-1:1e3", (-1.0, 1000.0)), ("2:2", (2, 2))])
def test_range(text: str, ends: tuple[float, float]) -> None:
    assert parse_range(text) == ends


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("4", "is not a range"),
        ("4:8:9", "is not a range"),
        ("a:b", "is not a range"),
        (":8", "is not a range"),
        ("8:4", "runs backwards"),
        ("0:inf", "not a finite number"),
        ("nan:1", "not a finite number"),
    ],
)
def test_what_is_no_range(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_range(text)


@pytest.mark.parametrize("parse", [parse_bytes, parse_range, parse_size, split_scale])
def test_numbers_are_refused_because_yaml_reads_4_8_in_base_60(parse) -> None:
    with pytest.raises(ValueError, match="248 is not text; write it in quotes"):
        parse(248)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8)),
        ("a.safetensors:-1", ("a.safetensors", -1.0)),
        ("org/name:5e-1", ("org/name", 0.5)),
        ("C:\\loras\\a.safetensors", ("C:\\loras\\a.safetensors", 1.0)),
        ("C:\\loras\\a.safetensors:0.5", ("C:\\loras\\a.safetensors", 0.5)),
        ("7", ("7", 1.0)),
    ],
)
def test_split_scale(text: str, parts: tuple[str, float]) -> None:
    assert split_scale(text) == parts


@pytest.mark.parametrize(("text", "reason"), [(":0.5", "names no file"), ("a:nan", "not a finite number")])
def test_what_is_no_adapter(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        split_scale(text)
