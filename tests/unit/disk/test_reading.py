"""Text and JSON that anybody may have written: read as it is, or one ordinary error."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stdcli.disk import reading
from stdcli.disk.reading import depth_of, iter_lines, iter_objects, parse_json, read_object, read_text
from stdcli.errors import BankCorruptError, ModelError


def test_what_is_right_is_read(tmp_path: Path) -> None:
    value = {"a": [1, -2.5, None, {"b": "ä\u2028"}], "c": 2**64 - 1}
    (tmp_path / "x").write_text(json.dumps(value, ensure_ascii=False), "utf-8")
    assert read_object(tmp_path / "x", ModelError) == value
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbf{}\r\n")
    assert read_object(tmp_path / "x", ModelError) == {}
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree")
    assert read_text(tmp_path / "x", ModelError) == "one\ntwo\nthree"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a": "\xff"}', "not UTF-8 text"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 text"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "nested too deeply"),
        (b'{"a":' * 50 + b"[" * 51 + b"]" * 51 + b"}" * 50, "nested too deeply"),
        (b"[" * 200_000, "nested too deeply"),
        (b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 41 + b"}", "not JSON that can be used"),
        (b'{"a": ' + b"9" * 9000 + b"}", "not JSON that can be used"),
    ],
)
def test_what_is_not_is_told(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(BankCorruptError) as told:
        read_object(tmp_path / "x", BankCorruptError)
    assert told.value.what == what and str(tmp_path / "x") in told.value.where


def test_depth_is_counted_exactly() -> None:
    assert [depth_of(value) for value in (1, [], {"a": 1}, [[], {"a": [1]}])] == [0, 1, 1, 3]
    for text in ("[" * 100 + "]" * 100, "[" + "[],{}," * 100 + "1]", '"' + "[" * 5000 + '"'):
        assert parse_json(text, "here", ModelError) == json.loads(text)


def test_size_is_limited_to_the_byte(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a" * 11)
    assert len(read_text(tmp_path / "x", ModelError, limit=11)) == 11
    with pytest.raises(ModelError, match="too large"):
        read_text(tmp_path / "x", ModelError, limit=10)


def test_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b'{"a": 1}\r\n\n{"a": "\xe2\x80\xa8"}\n{}')
    assert list(iter_objects(path, ModelError)) == [(1, {"a": 1}), (3, {"a": "\u2028"}), (4, {})]
    for line, what in ((b"\xff", "not UTF-8 text"), (b"[", "not JSON"), (b"3", "not a JSON object")):
        path.write_bytes(b"{}\n" + line + b"\n")
        with pytest.raises(ModelError, match=what) as told:
            list(iter_objects(path, ModelError))
        assert told.value.where == f"{path}:2"
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 4)
    path.write_bytes(b"abcd\nabc\n")
    with pytest.raises(ModelError, match="a line is too long"):
        list(iter_lines(path, ModelError))
    path.write_bytes(b"abc\nabcd")
    assert list(iter_lines(path, ModelError)) == [(1, b"abc"), (2, b"abcd")]


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    for read in (read_text, read_object, lambda *given: list(iter_lines(*given))):
        with pytest.raises(ModelError, match="not a plain file"):
            read(tmp_path / "x", ModelError)
