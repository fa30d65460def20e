"""Strict reading of YAML and JSON files."""

from pathlib import Path

import pytest

from stdcli.config.mappings import read_mapping
from stdcli.errors import ConfigError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "mapping"),
    [
        ("a.yaml", "a: 1\nb: {c: [x]}\n", {"a": 1, "b": {"c": ["x"]}}),
        ("a.yaml", "# only a comment\n", {}),
        ("a.yaml", "1: x\n", {"1": "x"}),
        ("a.yml", "é: ü\n", {"é": "ü"}),
        ("a.json", '{"a": {"b": null}}', {"a": {"b": None}}),
    ],
)
def test_mappings(tmp_path: Path, name: str, content: str, mapping: dict) -> None:
    assert read_mapping(write(tmp_path, name, content)) == mapping


@pytest.mark.parametrize(
    ("name", "content", "what", "line"),
    [
        ("a.yaml", "a: 1\nb: [\n", "not YAML", ":3"),
        ("a.yaml", "a: 1\nb: 2\na: 3\n", "the key 'a' occurs twice", ":3"),
        ("a.yaml", "x:\n  a: 1\n  a: 3\n", "the key 'a' occurs twice", ":3"),
        ("a.yaml", "a: !!python/object/apply:os.getcwd []\n", "not YAML", ":1"),
        ("a.yaml", "- 1\n", "not a mapping", ""),
        ("a.yaml", "\x00", "cannot be read", ""),
        ("a.yaml", b"\xff\xfe\xfd", "not UTF-8", ""),
        ("a.json", '{"a": 1,}', "not JSON", ":1"),
        ("a.json", '{"a": 1, "a": 2}', "the key 'a' occurs twice", ""),
        ("a.json", "[]", "not a mapping", ""),
        ("a.json", "null", "not a mapping", ""),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, content: str | bytes, what: str, line: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(ConfigError) as caught:
        read_mapping(path)
    assert what in caught.value.what
    assert caught.value.where == f"{path}{line}"


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_mapping(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="not a plain file"):
        read_mapping(tmp_path)
