"""From the name of an input to files."""

import os
import sys
from pathlib import Path

import pytest

from stdcli.errors import MediaError
from stdcli.media.sources import MediaSource, is_pattern, left_out_note, resolve_input


@pytest.fixture
def folder(tmp_path):
    for name in ("f10.png", "f2.PNG", "clip.mp4", "notes.txt", ".hidden.png", "sub/deep.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(sources):
    return [source.path.name for source in sources]


def test_a_file_is_itself(folder):
    assert resolve_input(folder / "f2.PNG") == [MediaSource(folder / "f2.PNG", "image")]
    assert resolve_input(str(folder / "clip.mp4")) == [MediaSource(folder / "clip.mp4", "video")]


def test_a_folder_is_its_pictures_and_clips_in_counting_order(folder):
    assert names(resolve_input(folder)) == ["clip.mp4", "f2.PNG", "f10.png"]


def test_a_pattern_matches(folder, monkeypatch):
    assert names(resolve_input(f"{folder}/f*.[pP][nN][gG]")) == ["f2.PNG", "f10.png"]
    monkeypatch.chdir(folder)
    assert names(resolve_input("**/*.jpg")) == ["deep.jpg"]
    assert names(resolve_input("*.png")) == ["f10.png"]
    assert names(resolve_input(".h*.png")) == [".hidden.png"]


def test_a_name_that_exists_is_no_pattern(tmp_path):
    (tmp_path / "a[1].png").touch()
    (tmp_path / "a1.png").touch()
    assert names(resolve_input(tmp_path / "a[1].png")) == ["a[1].png"]


def test_folders_that_exist_are_no_patterns(tmp_path, monkeypatch):
    for name in ("pics [2024]/in[1]/a.png", "pics [2024]/b.png", "pics 2/c.png", "x[a-b]/d.png", "xa/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names(resolve_input(f"{tmp_path}/pics [2024]/*.png")) == ["b.png"]
    assert names(resolve_input(f"{tmp_path}/pics [2024]/in[1]/?.png")) == ["a.png"]
    assert names(resolve_input(f"{tmp_path}/pics [2024]/**/*.png")) == ["b.png", "a.png"]
    monkeypatch.chdir(tmp_path)
    assert names(resolve_input("x[a-b]/*.png")) == ["d.png"]
    assert names(resolve_input("x[a-c]/*.png")) == ["e.png"]
    assert names(resolve_input("./pics [12]/*.png")) == ["c.png"]


def test_a_file_with_a_percent_sign_is_a_file(tmp_path):
    for name in ("50%discount.jpg", "100%done.mp4", "01.png"):
        (tmp_path / name).touch()
    assert resolve_input(tmp_path / "50%discount.jpg") == [MediaSource(tmp_path / "50%discount.jpg", "image")]
    kinds = {
        name: is_pattern(tmp_path / name)
        for name in ("50%discount.jpg", "100%done.mp4", "%02d.png", "01.png")
    }
    assert kinds == {"50%discount.jpg": False, "100%done.mp4": False, "%02d.png": True, "01.png": False}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.png", "no such file"),
        ("notes.txt", "suffix"),
        ("*.mov", "no picture or clip"),
        ("empty", "no picture"),
        ("x" * 300, "cannot be read: File name too long"),
        ("f2.PNG/inside.png", "no such file"),
        ("pipe.png", "a device, not a file"),
        ("**.png", "cannot be read: Invalid pattern"),
    ],
)
def test_nothing_to_read_is_an_error(folder, name, message):
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(MediaError, match=message):
        resolve_input(folder / name)


def test_near_misses_are_named(folder):
    with pytest.raises(MediaError, match="no such file") as caught:
        resolve_input(folder / "clip.pm4")
    assert caught.value.hint == "did you mean clip.mp4?"


def test_the_folder_of_nobody_is_an_error():
    with pytest.raises(MediaError, match="cannot be read"):
        resolve_input("~no-such-user/a.png")


def test_what_is_left_out_of_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    for name in ("a.JFIF", "b.jpe", "c.avif", "d.HEIC", "e.cr2", "f.txt", "a.JFIF.json"):
        (tmp_path / name).touch()
    left_out = []
    assert names(resolve_input(tmp_path, left_out=left_out)) == ["a.JFIF", "b.jpe", "c.avif"]
    note = left_out_note(left_out)
    assert note == (
        'left out, of a kind that is not read: d.HEIC, e.cr2; pip install "stdcli[heif]" reads HEIC'
    )
    for name in ("d.HEIC", "*.HEIC"):
        with pytest.raises(MediaError) as raised:
            resolve_input(tmp_path / name)
        assert raised.value.hint == 'pip install "stdcli[heif]"'
    assert left_out_note([]) is None
    assert "12.raw" not in left_out_note([Path(f"{k}.raw") for k in range(13)])
    assert left_out_note([Path(f"{k}.raw") for k in range(13)]).endswith("9.raw and 3 more")
