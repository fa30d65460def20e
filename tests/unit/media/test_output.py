"""Nothing is lost and nothing is half written, whatever fails."""

import errno
import os

import numpy as np
import pytest

from stdcli.errors import MediaError, ResourceError
from stdcli.media.image import Picture, read_image, write_image

PICTURE = Picture(np.full((8, 9, 3), 77, np.uint8))


def test_an_existing_file_is_kept_unless_told(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    with pytest.raises(MediaError, match="exists already") as caught:
        write_image(path, PICTURE)
    assert "--overwrite" in caught.value.hint
    assert path.read_bytes() == b"precious"
    write_image(path, PICTURE, overwrite=True)
    assert np.array_equal(read_image(path).rgb, PICTURE.rgb)


@pytest.mark.parametrize("link", ["same", "symlink", "hardlink"])
def test_the_input_is_never_replaced(tmp_path, link):
    source = tmp_path / "a.png"
    write_image(source, PICTURE)
    before = source.read_bytes()
    target = source if link == "same" else tmp_path / "b.png"
    if link == "symlink":
        target.symlink_to(source)
    elif link == "hardlink":
        target.hardlink_to(source)
    with pytest.raises(MediaError, match="input itself"):
        write_image(target, Picture(PICTURE.rgb + 1), overwrite=True, source=source)
    assert source.read_bytes() == before


def test_a_folder_or_a_missing_folder_is_refused(tmp_path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(MediaError, match="is a folder"):
        write_image(tmp_path / "folder.png", PICTURE, overwrite=True)
    with pytest.raises(MediaError, match="does not exist") as caught:
        write_image(tmp_path / "no" / "a.png", PICTURE)
    assert caught.value.hint.startswith("mkdir -p ")


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    ("error", "kind"),
    [(OSError(errno.EIO, "I/O error"), MediaError), (OSError(errno.ENOSPC, "full"), ResourceError)],
)
def test_a_failing_disk_leaves_what_was_there(tmp_path, monkeypatch, step, existing, error, kind):
    path = tmp_path / "a.png"
    if existing:
        path.write_bytes(b"precious")

    def fail(*_args, **_options):
        raise error

    target = {"write": "PIL.Image.Image.save", "fsync": "os.fsync", "rename": "pathlib.Path.replace"}[step]
    monkeypatch.setattr(target, fail)
    with pytest.raises(kind, match="cannot be written"):
        write_image(path, PICTURE, overwrite=True)
    assert list(tmp_path.iterdir()) == ([path] if existing else [])
    assert not existing or path.read_bytes() == b"precious"


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.Image.Image.save", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "a.png", PICTURE)
    assert list(tmp_path.iterdir()) == []


def _interrupt(_image, file, **_options):
    file.write(b"half")
    raise KeyboardInterrupt


def test_a_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    fsync = os.fsync
    monkeypatch.setattr("os.fsync", lambda descriptor: (path.write_bytes(b"precious"), fsync(descriptor)))
    with pytest.raises(MediaError, match="exists already"):
        write_image(path, PICTURE)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_result_has_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_image(tmp_path / "a.png", PICTURE)
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode
