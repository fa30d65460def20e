"""Writing: whole or absent, never through a link, also where a folder cannot be made durable."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

import pytest

from stdcli.disk.writing import (
    open_append,
    open_new,
    replace_durably,
    sync_file,
    sync_folder,
    temporary_of,
    write_durably,
)

POSIX = pytest.mark.skipif(os.name != "posix", reason="file systems as POSIX has them")


def fail_folders(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fsync answer of folders as a file system would that cannot do it, or that fails."""
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@POSIX
@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EBADF"])
def test_shares_that_cannot_sync_a_folder(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_folders(getattr(errno, name), monkeypatch)
    write_durably(tmp_path / "a", b"1")
    replace_durably(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"] and (tmp_path / "b").read_bytes() == b"1"


@POSIX
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_is_told(tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_folders(code, monkeypatch)
    with pytest.raises(OSError, match=os.strerror(code)):
        sync_folder(tmp_path)
    with pytest.raises(OSError, match=os.strerror(code)):
        write_durably(tmp_path / "a", b"1")


def test_a_file_that_cannot_be_synced_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="broken"):
        write_durably(tmp_path / "a", b"1")
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_name_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    out = tmp_path / "out"
    for target in ("mine", "not there"):
        temporary_of(out).symlink_to(tmp_path / target)
        for write in (lambda: write_durably(out, b"1"), lambda: open_new(temporary_of(out))):
            with pytest.raises(OSError, match="a link has this name"):
                write()
        temporary_of(out).unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"] and (
        tmp_path / "mine"
    ).read_text() == "mine"


def test_what_a_killed_writer_left_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    temporary_of(out).write_text("a longer half")
    os.link(temporary_of(out), tmp_path / "mine")  # a second name of it
    write_durably(out, (b"new", b"er"))
    assert out.read_bytes() == b"newer" and (tmp_path / "mine").read_text() == "a longer half"
    assert not temporary_of(out).exists()


def test_a_link_in_the_place_of_the_file_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out").symlink_to("mine")
    write_durably(tmp_path / "out", b"1")
    assert (tmp_path / "mine").read_text() == "mine" and not (tmp_path / "out").is_symlink()


@POSIX
def test_appending(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    os.mkfifo(tmp_path / "pipe")
    for name, code in (("link", errno.ELOOP), ("pipe", errno.ENXIO)):
        with pytest.raises(OSError, match=re.escape(os.strerror(code))):
            open_append(tmp_path / name)
    assert (tmp_path / "mine").read_text() == "mine"
    for _ in range(2):
        with open_append(tmp_path / "new") as file:
            file.write(b"x\n")
    assert (tmp_path / "new").read_bytes() == b"x\nx\n"


@POSIX
def test_modes_are_what_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_durably(tmp_path / "a", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@POSIX
@pytest.mark.parametrize(("mode", "after"), [(0o600, 0o644), (0o664, 0o664), (0o640, 0o640)])
def test_only_private_files_are_opened_to_others(tmp_path: Path, mode: int, after: int) -> None:
    """Libraries write 0600; a folder may give its files other modes than the umask does."""
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "a").chmod(mode)
    before = os.umask(0o022)
    try:
        sync_file(tmp_path / "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == after
