"""Deleting: files of ours go; links, and all that is behind them, stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from stdcli.disk.removing import remove_cached, remove_file, remove_folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_plain_file_goes_and_none_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    remove_file(tmp_path / "a")
    remove_file(tmp_path / "a")
    remove_file(tmp_path / "none/a")
    remove_folder(tmp_path / "none")
    assert names(tmp_path) == []


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a").touch()
    (tmp_path / "file").symlink_to("mine/a")
    (tmp_path / "folder").symlink_to("mine")
    before = names(tmp_path)
    for remove, name in (
        (remove_file, "file"),
        (remove_file, "folder"),
        (remove_file, "mine"),
        (remove_folder, "folder"),
        (remove_folder, "file"),
        (remove_folder, "mine/a"),
    ):
        with pytest.raises(OSError, match="has this name"):
            remove(tmp_path / name)
        with pytest.raises(OSError, match="has this name"):
            remove(tmp_path / name, **({"is_ours": lambda _: True} if remove is remove_folder else {}))
    assert names(tmp_path) == before


def test_a_whole_folder_goes_but_nothing_behind_its_links(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a").touch()
    (tmp_path / "ours/in").mkdir(parents=True)
    (tmp_path / "ours/in/b").touch()
    (tmp_path / "ours/in/link").symlink_to(tmp_path / "mine")
    remove_folder(tmp_path / "ours")
    assert names(tmp_path) == ["mine", "mine/a"]


def test_only_names_of_ours_go(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    (ours / "in").mkdir(parents=True)
    (ours / "theirs").mkdir()
    for name in ("0", "1", "notes.txt", "in/2", "theirs/2"):
        (ours / name).touch()
    (tmp_path / "mine").touch()
    (ours / "3").symlink_to("../mine")
    remove_folder(ours, is_ours=lambda name: name in ("0", "1", "3", "in", "in/2"))
    assert names(tmp_path) == ["mine", "ours", "ours/3", "ours/notes.txt", "ours/theirs", "ours/theirs/2"]
    for name in ("3", "notes.txt", "theirs/2"):
        (ours / name).unlink()
    remove_folder(ours, is_ours=lambda name: True)
    assert names(tmp_path) == ["mine"]


def test_a_cached_file_goes_with_its_blob_but_not_with_a_file_elsewhere(tmp_path: Path) -> None:
    cache = tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots/1").mkdir(parents=True)
    (tmp_path / "mine").touch()
    for name, target in (("x", cache / "blobs/b"), ("y", tmp_path / "mine")):
        target.touch()
        (cache / "snapshots/1" / name).symlink_to(target)
        remove_cached(cache / "snapshots/1" / name, cache=cache)
    assert names(tmp_path) == [
        "mine",
        *(f"models--a--b{part}" for part in ("", "/blobs", "/snapshots", "/snapshots/1")),
    ]
