"""Which folders are read, and when they are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stdcli.console import Console
from stdcli.errors import ConfigError, MediaError
from stdcli.teacher.data import MIN_PICTURES, find_folders, load_data
from tests.tiny_pictures import HELD_OUT, write_flat

QUIET = Console("quiet")


def flat(folder: Path) -> Path:
    write_flat(folder, train=(0, 0, 200), held_out=(200, 0, 0))
    return folder


def test_a_folder_of_photos_and_artworks(tmp_path: Path) -> None:
    (tmp_path / "content").mkdir()
    assert find_folders(str(tmp_path), None) == (tmp_path, tmp_path)
    (tmp_path / "style").mkdir()
    assert find_folders(str(tmp_path), None) == (tmp_path / "content", tmp_path / "style")


def test_artworks_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert find_folders(str(tmp_path / "a"), str(tmp_path / "b")) == (tmp_path / "a", tmp_path / "b")


def test_artworks_given_twice(tmp_path: Path) -> None:
    for name in ("content", "style", "other"):
        (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match="artworks given twice") as caught:
        find_folders(str(tmp_path), str(tmp_path / "other"))
    assert caught.value.problems[0][0] == "style_data"


def test_no_folder_given() -> None:
    with pytest.raises(ConfigError, match="--data"):
        find_folders(None, None)


@pytest.mark.parametrize(("data", "style_data"), [("nowhere", None), (".", "nowhere")])
def test_a_folder_that_is_not_there(tmp_path: Path, data: str, style_data: str | None) -> None:
    style = None if style_data is None else str(tmp_path / style_data)
    with pytest.raises(MediaError, match="no such folder") as caught:
        find_folders(str(tmp_path / data), style)
    assert caught.value.where == str(tmp_path / "nowhere")


def test_one_folder_serves_as_both_and_is_read_once(tmp_path: Path) -> None:
    folder = flat(tmp_path / "in")
    data = load_data(folder, folder, console=QUIET)
    assert data.content is data.art
    assert data.metadata()["photos"] == {"train": 18, "held_out": 2, "unreadable": []}


def test_too_few_pictures_are_counted(tmp_path: Path) -> None:
    folder = flat(tmp_path / "in")
    for path in sorted(folder.iterdir())[MIN_PICTURES + 1 :]:  # p02 is held out
        path.unlink()
    load_data(folder, folder, console=QUIET)
    (folder / "p00.png").write_bytes(b"")
    with pytest.raises(MediaError, match="too few pictures") as caught:
        load_data(folder, folder, console=QUIET)
    assert caught.value.got.startswith(f"{MIN_PICTURES - 1}, 1 held out, 1 unreadable (p00.png: ")
    assert caught.value.expected == f"at least {MIN_PICTURES}"


def test_unreadable_pictures_are_told_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = flat(tmp_path / "in")
    for name in ("p00.png", HELD_OUT[0]):
        (folder / name).write_bytes(b"no picture")
    data = load_data(folder, folder, console=QUIET)
    assert "2 unreadable (p00.png: " in capsys.readouterr().err
    assert [name for name, _ in data.metadata()["photos"]["unreadable"]] == ["p00.png", HELD_OUT[0]]


def test_the_digest_tells_training_pictures_apart(tmp_path: Path) -> None:
    folder = flat(tmp_path / "in")
    before = load_data(folder, folder, console=QUIET)
    shutil.move(folder, tmp_path / "moved")
    folder = tmp_path / "moved"
    assert load_data(folder, folder, console=QUIET).digest == before.digest
    (folder / HELD_OUT[0]).unlink()
    assert load_data(folder, folder, console=QUIET).digest == before.digest
    (folder / "p00.png").unlink()
    assert load_data(folder, folder, console=QUIET).digest != before.digest
