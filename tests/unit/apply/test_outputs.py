"""Where results go."""

from __future__ import annotations

from pathlib import Path

import pytest

from stdcli.apply.outputs import output_paths, sidecar_path
from stdcli.errors import ConfigError, MediaError
from stdcli.media.sources import Source


def image(path: Path) -> Source:
    path.touch()
    return Source(path, "image")


def test_beside_the_input_with_its_own_suffix(tmp_path):
    sources = [image(tmp_path / "a.JPG"), image(tmp_path / "b.gif"), Source(tmp_path / "c.avi", "video")]
    names = [path.name for path in output_paths(sources, None, overwrite=False)]
    assert names == ["a.std.jpg", "b.std.png", "c.std.mp4"]


def test_file_for_one_folder_for_many(tmp_path):
    one, two = image(tmp_path / "a.png"), image(tmp_path / "b.png")
    assert output_paths([one], tmp_path / "x.webp", overwrite=False) == [tmp_path / "x.webp"]
    folder = tmp_path / "out"
    assert output_paths([one, two], folder, overwrite=False) == [folder / "a.std.png", folder / "b.std.png"]
    with pytest.raises(ConfigError, match="2 inputs cannot go to one file"):
        output_paths([one, two], tmp_path / "x.png", overwrite=False)


def test_two_inputs_of_one_name_are_refused(tmp_path):
    (tmp_path / "sub").mkdir()
    sources = [image(tmp_path / "a.png"), image(tmp_path / "sub/a.png")]
    with pytest.raises(ConfigError, match="two inputs would be written to one file"):
        output_paths(sources, tmp_path / "out", overwrite=False)


def test_no_input_is_ever_replaced(tmp_path):
    one = image(tmp_path / "a.png")
    with pytest.raises(MediaError, match="input itself"):
        output_paths([one], one.path, overwrite=True)


def test_sidecar_name():
    assert sidecar_path(Path("x/a.std.png")) == Path("x/a.std.json")
