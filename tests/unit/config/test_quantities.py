"""Parsers of quantities."""

import pytest

from stdcli.config.quantities import split_scale, split_threshold, split_weights


def test_numbers_are_refused_because_yaml_reads_4_8_in_base_60() -> None:
    with pytest.raises(ValueError, match="248 is not text; write it in quotes"):
        split_scale(248)


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


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("palette<=5", (None, "palette", "<=", 5.0)),
        (" clip-i > 0.25 ", (None, "clip-i", ">", 0.25)),
        ("student, 4 steps:edges>=6e-1", ("student, 4 steps", "edges", ">=", 0.6)),
        ("a:b:ssim<-1", ("a:b", "ssim", "<", -1.0)),
    ],
)
def test_split_threshold(text: str, parts: tuple) -> None:
    assert split_threshold(text) == parts


@pytest.mark.parametrize(
    "text", ["palette", "palette=5", "palette<=", "<=5", "palette<=five", "palette<=nan", ""]
)
def test_what_is_no_threshold(text: str) -> None:
    with pytest.raises(ValueError, match="is not a threshold such as"):
        split_threshold(text)


def test_split_weights() -> None:
    assert split_weights("csd=a/b=c.pth") == ("csd", "a/b=c.pth")
    for text in ("csd", "=a", "csd=", ""):
        with pytest.raises(ValueError, match="is not NAME=FILE"):
            split_weights(text)
