"""A disk that fails at every call in turn leaves the old content or the new, and nothing beside."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stdcli.bank import bank_files as files_module
from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import conditions_name, shard_name, sidecar_name
from stdcli.bank.shard import shard_problem, write_shard
from stdcli.disk import writing
from stdcli.errors import BankCorruptError, BankError, ResourceError, StdcliError
from tests.tiny_banks import MANIFEST, contents, make_paths, write_tiny_bank

CALLS = {
    "open": (writing, "open_new"),
    "write": (io.BufferedWriter, "write"),
    "fsync": (os, "fsync"),
    "rename": (Path, "replace"),
}
"""What a write goes through."""


class Disk:
    """A disk that counts the calls of one kind and fails at one of them.

    Attributes:
        log: (kind, name of the file) of every call so far.
    """

    def __init__(self, kind: str = "", number: int = -1, code: int = errno.EIO) -> None:
        self.kind, self.number, self.code = kind, number, code
        self.counts = dict.fromkeys(CALLS, 0)
        self.log: list[tuple[str, str]] = []

    def call(self, kind: str, name: str) -> None:
        self.log.append((kind, name))
        self.counts[kind] += 1
        if kind == self.kind and self.counts[kind] == self.number:
            raise OSError(self.code, os.strerror(self.code))


@contextmanager
def failing(disk: Disk) -> Iterator[Disk]:
    """Writers go through `disk`."""
    with pytest.MonkeyPatch.context() as patch:
        real_open, real_fsync, real_replace = writing.open_new, os.fsync, Path.replace

        class File:
            def __init__(self, path: Path, opened: io.BufferedWriter) -> None:
                self.path, self.opened = path, opened

            def __enter__(self) -> File:
                return self

            def __exit__(self, *_: object) -> None:
                self.opened.close()

            def __getattr__(self, name: str) -> object:
                return getattr(self.opened, name)

            def write(self, data: bytes) -> None:
                half = len(data) // 2  # what a full disk takes of it
                self.opened.write(data[:half])
                disk.call("write", self.path.name)
                self.opened.write(data[half:])

        def opening(path: Path) -> File:
            disk.call("open", path.name)
            return File(path, real_open(path))

        def fsync(handle: int) -> None:
            disk.call("fsync", Path(f"/proc/self/fd/{handle}").readlink().name)
            real_fsync(handle)

        def rename(path: Path, to: Path) -> Path:
            disk.call("rename", to.name)
            return real_replace(path, to)

        patch.setattr(writing, "open_new", opening)
        patch.setattr(os, "fsync", fsync)
        patch.setattr(Path, "replace", rename)
        yield disk


pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc to name open files by")


def numbered(kinds: dict[str, int]) -> list[tuple[str, int]]:
    return [(kind, number) for kind, count in kinds.items() for number in range(1, count + 1)]


SHARD_CALLS = numbered({"open": 3, "write": 3, "fsync": 6, "rename": 3})
"""Of one shard: three files; each is written in one piece, and synced as is its folder."""


def test_a_shard_takes_the_calls_that_the_others_fail(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path, shards=())
    with failing(Disk()) as disk:
        write_shard(files, MANIFEST, 0, make_paths(MANIFEST, [0, 1, 2]))
    assert numbered(disk.counts) == SHARD_CALLS


def test_a_shard_counts_only_when_all_it_needs_is_on_the_disk(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path, shards=())
    with failing(Disk()) as disk:
        write_shard(files, MANIFEST, 0, make_paths(MANIFEST, [0, 1, 2]))
    steps = [step for step in disk.log if step[0] != "open" and step[0] != "write"]
    one = "cond-00000.safetensors", "shard-00000.safetensors", "shard-00000.json"
    folders = "conditions", "shards", "shards"
    expected = []
    for name, folder in zip(one, folders, strict=True):
        expected += [("fsync", f".{name}.part"), ("rename", name), ("fsync", folder)]
    assert steps == expected


@pytest.mark.parametrize(("kind", "number"), SHARD_CALLS)
@pytest.mark.parametrize("is_there", [False, True], ids=["new", "rebuilt"])
def test_a_failing_disk_leaves_no_half_shard(tmp_path: Path, kind: str, number: int, is_there: bool) -> None:
    """The shard is the old one, the new one, or found to be neither; the next attempt makes it new."""
    files = write_tiny_bank(tmp_path / "bank", shards=(1,))
    if is_there:
        write_shard(files, MANIFEST, 0, make_paths(MANIFEST, [10, 11, 12]))
    paths = make_paths(MANIFEST, [0, 1, 2])
    before, whole = contents(files.root), contents(write_tiny_bank(tmp_path / "whole").root)
    with failing(Disk(kind, number)), pytest.raises(BankError) as caught:
        write_shard(files, MANIFEST, 0, paths)
    assert caught.value.exit_code == 3 and os.strerror(errno.EIO) in caught.value.what
    after, names = contents(files.root), (conditions_name(0), shard_name(0), sidecar_name(0))
    parts = [after.get(name) for name in names]
    old, new = [before.get(name) for name in names], [whole[name] for name in names]
    assert all(part in pair for part, *pair in zip(parts, old, new, strict=True))
    assert {name: after[name] for name in after if name not in names} == {
        name: before[name] for name in before if name not in names
    }
    is_whole = shard_problem(files, MANIFEST, 0, deep=True) is None
    assert is_whole == (parts == new or (is_there and parts == old))
    write_shard(files, MANIFEST, 0, paths)
    assert contents(files.root) == before | dict(zip(names, new, strict=True))


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [
        (errno.ENOSPC, ResourceError, 7),
        (errno.EDQUOT, ResourceError, 7),
        (errno.EACCES, BankError, 3),
        (errno.EROFS, BankError, 3),
    ],
)
@pytest.mark.parametrize("call", CALLS)
def test_why_a_disk_refuses(
    tmp_path: Path, code: int, kind: type[StdcliError], exit_code: int, call: str
) -> None:
    files = BankFiles(tmp_path)
    files.write_json("a/b.json", {"old": 1})
    with failing(Disk(call, 1, code)), pytest.raises(kind) as caught:
        files.write_json("a/b.json", {"new": 2})
    error = caught.value
    assert error.exit_code == exit_code
    assert error.what == f"cannot be written: {os.strerror(code)}"
    assert error.where == str(tmp_path / "a/b.json")
    assert (error.hint is not None) == (exit_code == 7)
    assert files.read_json("a/b.json") == {"old": 1} and files.leftovers() == []


def test_a_large_file_fails_at_every_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_PIECE_BYTES", 100)
    files, tensors = BankFiles(tmp_path), {"a": torch.arange(200.0)}
    facts = files.write_tensors("a.safetensors", tensors)
    data = (tmp_path / "a.safetensors").read_bytes()
    assert facts == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    pieces = -(-len(data) // 100)
    assert pieces >= 8
    for number in range(1, pieces + 1):
        with failing(Disk("write", number, errno.ENOSPC)), pytest.raises(ResourceError):
            files.write_tensors("a.safetensors", {"a": torch.zeros(200)})
        assert (tmp_path / "a.safetensors").read_bytes() == data
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], tensors["a"])


def test_a_killed_writer_is_not_counted(tmp_path: Path) -> None:
    """What it left is no file of the bank, and is replaced by the next writer."""
    files = BankFiles(tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/.shard-00000.json.part").write_text('{"ha')
    assert files.leftovers() == ["shards/.shard-00000.json.part"]
    assert files.names("shards") == [] and not files.exists("shards/shard-00000.json")
    files.write_json("shards/shard-00000.json", {"new": 1})
    assert files.leftovers() == [] and files.names("shards") == ["shards/shard-00000.json"]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("")
    with pytest.raises(BankError, match="cannot be written"):
        BankFiles(tmp_path).write_json("shards/a.json", {})


@pytest.mark.parametrize(
    ("read", "data", "told"),
    [
        ("read_json", b'{"a": 1', "not JSON"),
        ("read_json", b"\xff\xfe", "not UTF-8 text"),
        ("read_json", b"[1]", "not a JSON object"),
        ("read_json", None, "cannot be read"),
        ("read_lines", b'{"a": 1}\n{"b"', "not JSON"),
        ("read_lines", b'{"a": 1}\n3\n', "not a JSON object"),
        ("read_lines", None, "cannot be read"),
        ("map_tensors", b"\x01\x02", "damaged or missing"),
        ("map_tensors", None, "no such file"),
        ("sha256", None, "cannot be read"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, read: str, data: bytes | None, told: str) -> None:
    if data is not None:
        (tmp_path / "x").write_bytes(data)
    with pytest.raises(BankCorruptError, match=told) as caught:
        getattr(BankFiles(tmp_path), read)("x")
    assert caught.value.where == str(tmp_path / "x") + (":2" if read == "read_lines" and data else "")


def test_a_tensor_that_is_not_there(tmp_path: Path) -> None:
    files = BankFiles(tmp_path)
    files.write_tensors("x", {"a": torch.zeros(2)})
    with pytest.raises(BankCorruptError, match="not as a bank has it"), files.open_tensors("x") as tensors:
        tensors.get_tensor("b")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    files, rows = BankFiles(tmp_path), [{"a": 2**63 - 1, "b": "ü"}, {"a": 0.1}]
    files.write_lines("rows.jsonl", rows)
    assert files.read_lines("rows.jsonl") == rows
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_bytes().splitlines()] == rows
    files.write_tensors("t", {"a": torch.arange(6).view(2, 3).T})
    with files.open_tensors("t") as tensors:
        assert torch.equal(tensors.get_tensor("a"), torch.arange(6).view(2, 3).T)
    assert files.size("t") == (tmp_path / "t").stat().st_size and files.size("none") is None
    files.remove("t")
    files.remove("t")
    assert not files.exists("t")


def test_nothing_is_read_or_written_through_links(tmp_path: Path) -> None:
    mine, files = tmp_path / "mine", BankFiles(tmp_path / "bank")
    (mine / "shards").mkdir(parents=True)
    (mine / "shards/a.json").write_text('{"a": 1}')
    files.root.mkdir()
    (files.root / "shards").symlink_to(mine / "shards")
    (files.root / "b.json").symlink_to(mine / "shards/a.json")
    before = contents(mine)
    for name in ("shards/a.json", "b.json"):
        for use in (files.read_json, files.exists, files.size, files.sha256, files.remove, files.map_tensors):
            with pytest.raises(BankCorruptError, match="a link"):
                use(name)
        with pytest.raises(BankCorruptError, match="a link"):
            files.write_json(name, {})
    (files.root / ".c.json.part").symlink_to(mine / "shards/a.json")
    with pytest.raises(BankError, match="a link has this name"):
        files.write_json("c.json", {})
    assert contents(mine) == before and (files.root / "b.json").is_symlink()
