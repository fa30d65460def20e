"""Where results go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stdcli.errors import ConfigError, MediaError
from stdcli.inference.outputs import find_inputs, is_numbered, output_paths, sidecar_path, write_sidecar
from stdcli.media.sources import MediaSource


def image(path: Path) -> MediaSource:
    path.touch()
    return MediaSource(path, "image")


def test_beside_the_input_with_its_own_suffix(tmp_path):
    sources = [image(tmp_path / "a.JPG"), image(tmp_path / "b.gif"), MediaSource(tmp_path / "c.avi", "video")]
    names = [path.name for path in output_paths(sources, None, overwrite=False)]
    assert names == ["a.std.jpg", "b.std.png", "c.std.mp4"]


def test_file_for_one_folder_for_many(tmp_path):
    one, two = image(tmp_path / "a.png"), image(tmp_path / "b.png")
    assert output_paths([one], str(tmp_path / "x.webp"), overwrite=False) == [tmp_path / "x.webp"]
    folder = tmp_path / "out"
    assert output_paths([one, two], str(folder), overwrite=False) == [
        folder / "a.std.png",
        folder / "b.std.png",
    ]
    with pytest.raises(ConfigError, match="2 inputs cannot go to one file"):
        output_paths([one, two], str(tmp_path / "x.png"), overwrite=False)


def test_two_inputs_of_one_name_are_refused(tmp_path):
    (tmp_path / "sub").mkdir()
    sources = [image(tmp_path / "a.png"), image(tmp_path / "sub/a.png")]
    with pytest.raises(ConfigError, match="two inputs would be written to one file"):
        output_paths(sources, str(tmp_path / "out"), overwrite=False)


def test_no_input_is_ever_replaced(tmp_path):
    one = image(tmp_path / "a.png")
    with pytest.raises(MediaError, match="input itself"):
        output_paths([one], str(one.path), overwrite=True)


def test_a_slash_makes_a_folder_of_a_name(tmp_path):
    one = image(tmp_path / "a.png")
    assert output_paths([one], f"{tmp_path}/out/", overwrite=False) == [tmp_path / "out/a.std.png"]
    assert output_paths([one], f"{tmp_path}/out.png/", overwrite=False) == [tmp_path / "out.png/a.std.png"]


@pytest.mark.parametrize("name", ["x.txt", "x.mp4", "x.gif", "x"])
def test_a_picture_needs_a_picture_format(tmp_path, name):
    with pytest.raises(MediaError, match="no picture format"):
        output_paths([image(tmp_path / "a.png")], str(tmp_path / name), overwrite=False)


@pytest.mark.parametrize("name", ["x.txt", "x.png", "x.gif"])
def test_a_clip_needs_a_container(tmp_path, name):
    with pytest.raises(MediaError):
        output_paths([MediaSource(tmp_path / "a.mp4", "video")], str(tmp_path / name), overwrite=False)


def test_neither_styles_nor_files_of_others_are_replaced(tmp_path):
    one, style = image(tmp_path / "a.png"), tmp_path / "style.png"
    style.touch()
    with pytest.raises(MediaError, match="input itself"):
        output_paths([one], str(style), overwrite=True, protected=[style])
    (tmp_path / "x.png.json").write_text('{"precious": 1}')
    with pytest.raises(MediaError, match="exists already"):
        output_paths([one], str(tmp_path / "x.png"), overwrite=False)
    output_paths([one], str(tmp_path / "x.png"), overwrite=False, metadata=False)
    (tmp_path / "x.png.json").write_text('{"task": "stylize", "config": {}, "versions": {}}')
    output_paths([one], str(tmp_path / "x.png"), overwrite=False)


def test_earlier_results_are_no_inputs_of_folders_and_globs(tmp_path, monkeypatch):
    for name in ("a.png", "a.std.png"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for asked in (str(tmp_path), "*.png", f"{tmp_path}/*.png"):
        assert [source.path.name for source in find_inputs(asked)] == ["a.png"]
    assert [source.path.name for source in find_inputs("a.std.png")] == ["a.std.png"]


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "x.png.json").mkdir()
    with pytest.raises(MediaError):
        write_sidecar(tmp_path / "x.png.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["x.png.json"]


def test_sidecar_name():
    """One per result, whatever the results' suffixes."""
    assert sidecar_path(Path("x/a.std.png")) == Path("x/a.std.png.json")
    assert sidecar_path(Path("x/y.std/%05d.png"), numbered=True) == Path("x/y.std.json")


@pytest.mark.parametrize(
    ("name", "kind", "output", "path", "record", "numbered"),
    [
        ("50%discount.jpg", "image", None, "50%discount.std.jpg", "50%discount.std.jpg.json", False),
        ("a.jpg", "image", "100%done.png", "100%done.png", "100%done.png.json", False),
        ("100%done.mp4", "video", None, "100%done.std.mp4", "100%done.std.mp4.json", False),
        ("a.mp4", "video", "100%done.mkv", "100%done.mkv", "100%done.mkv.json", False),
        ("a.mp4", "video", "50%discount/", "50%discount/a.std.mp4", "50%discount/a.std.mp4.json", False),
        ("a.mp4", "video", "out/%d.png", "out/%d.png", "out.json", True),
        ("in/%05d.png", "sequence", None, "in.std/%05d.png", "in.std.json", True),
        ("in/%05d.png", "sequence", "50%done.mov", "50%done.mov", "50%done.mov.json", False),
    ],
)
def test_a_percent_sign_numbers_only_results_that_are_numbered(
    tmp_path, name, kind, output, path, record, numbered
):
    source = MediaSource(tmp_path / name, kind)
    asked = None if output is None else f"{tmp_path}/{output}"
    assert output_paths([source], asked, overwrite=False) == [tmp_path / path]
    assert is_numbered(source, tmp_path / path) is numbered
    assert sidecar_path(tmp_path / path, numbered=numbered) == tmp_path / record


@pytest.mark.parametrize("output", ["%d.png", "%05d.png", "frame%d-x.png"])
def test_a_picture_is_no_series(tmp_path, output):
    with pytest.raises(ConfigError, match="numbered results are for clips"):
        output_paths([image(tmp_path / "a.png")], f"{tmp_path}/{output}", overwrite=False)


@pytest.mark.parametrize("folder", ["", "new/"])
@pytest.mark.parametrize(
    ("kind", "output", "metadata", "length"),
    [
        ("image", "{}.png", False, 255),
        ("image", "{}.png", True, 250),
        ("video", "{}.mp4", False, 247),
        ("video", "{}.mp4", True, 247),
        ("sequence", "{}/%d.png", False, 251),
        ("sequence", "{}/%d.png", True, 250),
    ],
)
def test_every_name_that_will_be_needed_is_looked_at(tmp_path, folder, kind, output, metadata, length):
    """Record (+5), unfinished clip (+4) and what an interruption leaves (+8): 255 bytes each."""
    source = MediaSource(tmp_path / "a.png", kind)
    if folder and kind == "image":
        (tmp_path / folder).mkdir()

    def plan(excess: int) -> None:
        outer, slash, inner = output.partition("/")
        stem = "n" * (length + excess - len(outer) + len("{}"))
        output_paths(
            [source],
            f"{tmp_path}/{folder}{outer.format(stem)}{slash}{inner}",
            overwrite=False,
            metadata=metadata,
        )

    if kind == "sequence" or not folder or kind == "image":
        plan(0)
    with pytest.raises(MediaError, match="no file can have this name") as caught:
        plan(1)
    assert "-o" in caught.value.hint


def test_ten_thousand_inputs_are_looked_at_a_few_times_each(tmp_path, monkeypatch):
    """By counting questions to the disk, which were a hundred million with results that are there."""
    count, asked = 200, []
    for k in range(count):
        (tmp_path / f"{k}.png").touch()
        (tmp_path / f"{k}.std.png").touch()
    for name in ("stat", "lstat"):
        ask = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, ask=ask, **k: asked.append(a) or ask(*a, **k))
    sources = [MediaSource(tmp_path / f"{k}.png", "image") for k in range(count)]
    paths = output_paths(sources, None, overwrite=True, metadata=False)
    assert paths == [tmp_path / f"{k}.std.png" for k in range(count)]
    assert len(asked) < 20 * count
