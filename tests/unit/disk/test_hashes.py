"""Hashes that are kept: never those of another content, whatever happened to the file or to what is kept."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from stdcli.disk import hashes
from stdcli.disk.hashes import cache_path, hash_file, is_known

OLD_S = 10**9


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "KEPT_FROM_BYTES", 100)
    monkeypatch.setattr(hashes, "_here", {})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that has lain there for a while, as far as the clock can tell."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"a" * 1000)
    now_ns = time.time_ns
    monkeypatch.setattr(hashes.time, "time_ns", lambda: now_ns() + 10**10)
    return path


def true_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests taken from now on, by a process that knows nothing yet."""
    monkeypatch.setattr(hashes, "_here", {})
    seen: list[str] = []
    original = hashlib.file_digest

    def counted(file, kind):
        seen.append(file.name)
        return original(file, kind)

    monkeypatch.setattr(hashes.hashlib, "file_digest", counted)
    return seen


def test_the_next_process_does_not_read_a_file_again(file, monkeypatch) -> None:
    assert not is_known(file)
    assert hash_file(file) == true_hash(file)
    seen = reads(monkeypatch)
    assert is_known(file)
    link = file.with_name("link")
    link.symlink_to(file)  # as in the Hub's cache
    assert hash_file(file) == hash_file(link) == true_hash(file)
    assert seen == []
    assert cache_path() == Path(os.environ["XDG_CACHE_HOME"]) / "stdcli" / "hashes.json"


def test_a_changed_file_is_never_taken_for_the_old(file, monkeypatch) -> None:
    """Also at the same size and time, in place or as a new file of that name."""
    os.utime(file, (OLD_S, OLD_S))
    before = hash_file(file)
    time.sleep(0.02)  # the clock of changes moves on
    file.write_bytes(b"b" * 1000)
    os.utime(file, (OLD_S, OLD_S))
    reads(monkeypatch)
    assert hash_file(file) == true_hash(file) != before
    fresh = file.with_name("fresh")
    fresh.write_bytes(b"c" * 1000)
    os.utime(fresh, (OLD_S, OLD_S))
    fresh.replace(file)
    assert hash_file(file) == true_hash(file)


def test_a_file_that_has_just_changed_is_not_kept(tmp_path, monkeypatch) -> None:
    path = tmp_path / "fresh"
    path.write_bytes(b"a" * 1000)
    assert hash_file(path) == true_hash(path)
    assert not cache_path().exists() and not hashes._here


def test_a_file_that_changes_while_it_is_read_is_not_kept(file, monkeypatch) -> None:
    original = hashlib.file_digest

    def disturbed(opened, kind):
        time.sleep(0.02)
        with file.open("ab") as more:
            more.write(b"more")
        return original(opened, kind)

    monkeypatch.setattr(hashes.hashlib, "file_digest", disturbed)
    hash_file(file)
    assert not cache_path().exists()


def test_small_files_leave_no_trace(file) -> None:
    file.write_bytes(b"a" * 99)
    assert hash_file(file) == true_hash(file)
    assert not cache_path().exists() and is_known(file)


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"%s": 3}', '{"%s": {"mark": "x", "sha256": "y"}}'])
def test_a_damaged_cache_is_made_anew(file, monkeypatch, damage) -> None:
    hash_file(file)
    cache_path().write_text(damage.replace("%s", str(file)))
    seen = reads(monkeypatch)
    assert hash_file(file) == true_hash(file)
    assert len(seen) == 1 and str(file) in json.loads(cache_path().read_text())


def test_a_digest_that_is_none_is_not_believed(file, monkeypatch) -> None:
    hash_file(file)
    kept = json.loads(cache_path().read_text())
    kept[str(file)]["sha256"] = "0"
    cache_path().write_text(json.dumps(kept))
    reads(monkeypatch)
    assert hash_file(file) == true_hash(file)


def test_so_many_files_are_kept(tmp_path, file, monkeypatch) -> None:
    monkeypatch.setattr(hashes, "KEPT_FILES", 2)
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(path.name.encode() * 1000)
        hash_file(path)
    assert list(json.loads(cache_path().read_text())) == [str(path) for path in paths[1:]]


def test_a_home_that_cannot_be_written_to_is_no_fault(file, tmp_path, monkeypatch) -> None:
    (tmp_path / "plain").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "plain"))
    assert hash_file(file) == true_hash(file)


def test_no_home_at_all_is_no_fault(file, monkeypatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert hash_file(file) == true_hash(file)
