"""Parsers of quantities."""

import pytest

from stdcli.config.quantities import split_scale


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
