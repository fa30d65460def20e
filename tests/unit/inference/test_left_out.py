"""A folder with kinds of pictures that are not read: the same list for every command that takes folders."""

import sys

import pytest
from PIL import Image

from stdcli.config.schema import StylizeConfig
from stdcli.data.files import find_files
from stdcli.evaluate.inputs import read_contents, read_styles
from stdcli.inference.targets import plan
from stdcli.teacher.pictures import list_pictures, load_pictures


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    inside = tmp_path / "photos"
    inside.mkdir()
    for k, name in enumerate(("a.jfif", "b.avif", "c.png")):
        kind = {"a.jfif": "JPEG"}.get(name)
        Image.new("RGB", (16, 12), (40 * k, 90, 120)).save(inside / name, kind)
    for name in ("d.heic", "e.nef", "notes.txt"):
        (inside / name).write_bytes(b"of another kind")
    return inside


def test_stylize_names_what_it_leaves_out(folder):
    config = StylizeConfig(style=[str(folder / "c.png")])
    work = plan(config, [str(folder)], output=None, overwrite=False, metadata=True)
    results = ["a.std.jfif", "b.std.png", "c.std.png"]
    assert [target.path.name for target in work.targets] == results and work.refused == []
    assert "d.heic, e.nef" in work.left_out and 'pip install "stdcli[heif]"' in work.left_out


def test_eval_names_what_it_leaves_out(folder):
    left_out = []
    assert len(read_contents([folder], size_px=None, frames=1, left_out=left_out)) == 3
    assert len(read_styles([folder], left_out=left_out)) == 3
    assert [path.name for path in left_out] == ["d.heic", "e.nef"] * 2


def test_banks_name_what_they_leave_out(folder):
    found = find_files([str(folder)])
    assert [file.name for file in found.files] == ["a.jfif", "b.avif", "c.png"]
    assert [name for name, _ in found.skipped] == ["d.heic", "e.nef"]
    assert 'pip install "stdcli[heif]"' in found.skipped[0][1]


def test_teachers_name_what_they_leave_out(folder):
    files = list_pictures(folder)
    skipped = [item for held in (False, True) for item in load_pictures(files, held_out=held).skipped]
    assert skipped == [("d.heic", 'HEIC pictures need pillow-heif: pip install "stdcli[heif]"')]
