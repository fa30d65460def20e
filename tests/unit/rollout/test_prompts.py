"""Captions and lists of prompts: read as they are meant, or named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stdcli.data.files import File
from stdcli.errors import ConfigError
from stdcli.rollout.prompts import Prompts, read_prompts

BOM = b"\xef\xbb\xbf"


def caption(folder: Path, data: bytes) -> str | None:
    (folder / "a.txt").write_bytes(data)
    return Prompts(sidecars=True).of(File(folder / "a.png", "a.png", "image", ""), 0.0)


def test_captions_are_text_without_a_mark(tmp_path: Path) -> None:
    for data, text in (
        (BOM + b"a hill", "a hill"),
        (b"a\r\nhill \n", "a\nhill"),
        ("\u00e4".encode(), "\u00e4"),
    ):
        assert caption(tmp_path, data) == text


@pytest.mark.parametrize("data", [b"caf\xe9", "a hill".encode("utf-16")])
def test_a_caption_that_is_no_utf8_is_named_as_such(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ConfigError, match="a caption cannot be read") as told:
        caption(tmp_path, data)
    ((place, what),) = told.value.problems
    assert place == "prompts" and "not UTF-8 text" in what and str(tmp_path / "a.txt") in what


def test_a_caption_that_is_missing_or_a_pipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a sample has no prompt"):
        Prompts(sidecars=True).of(File(tmp_path / "a.png", "a.png", "image", ""), 0.0)
    if os.name == "posix":
        os.mkfifo(tmp_path / "a.txt")
        with pytest.raises(ConfigError, match="a caption cannot be read"):
            Prompts(sidecars=True).of(File(tmp_path / "a.png", "a.png", "image", ""), 0.0)


def test_lists_of_prompts(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(BOM + b"one\r\n\r\n two\n")
    assert read_prompts(str(tmp_path / "p.txt")).listed == ("one", "two")
    (tmp_path / "p.jsonl").write_bytes(BOM + b'{"file_name": "a.png", "text": "one"}\n')
    assert read_prompts(str(tmp_path / "p.jsonl")).by_name == {"a.png": "one"}
    for data in (b"", b"\xff", b"[1]", b'{"text": "x"}', b"[" * 99_999):
        (tmp_path / "p.jsonl").write_bytes(data)
        with pytest.raises(ConfigError, match="no prompts here"):
            read_prompts(str(tmp_path / "p.jsonl"))
