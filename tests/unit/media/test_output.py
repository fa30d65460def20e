"""Nothing is lost and nothing is half written, whatever fails."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from stdcli.errors import MediaError, ResourceError
from stdcli.media.image import Picture, read_image, write_image
from stdcli.media.output import check_output

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


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(MediaError, match="folder is a file") as caught:
        check_output(tmp_path / "file" / "a.png", overwrite=True)
    assert caught.value.where == str(tmp_path / "file")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_device_is_never_replaced(tmp_path, overwrite):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(MediaError, match="a device, not a file"):
        check_output(tmp_path / "a.png", overwrite=overwrite)


def test_a_name_too_long_is_refused(tmp_path):
    with pytest.raises(MediaError, match="no file can have this name: File name too long"):
        check_output(tmp_path / f"{'a' * 300}.png", overwrite=False)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder where even root may not write")
def test_a_folder_that_takes_no_file_is_refused():
    with pytest.raises(MediaError, match="folder cannot be written to") as caught:
        check_output(Path("/proc/a.png"), overwrite=False)
    assert (caught.value.where, caught.value.hint) == ("/proc", "choose another folder")


def test_a_full_disk_is_noticed_before_any_work(tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("stdcli.media.output.open_new", fail)
    with pytest.raises(ResourceError, match="No space left") as caught:
        check_output(tmp_path / "a.png", overwrite=False)
    assert caught.value.hint.startswith("free some space")


def test_trying_the_folder_leaves_nothing(tmp_path):
    check_output(tmp_path / "a.png", overwrite=False)
    assert list(tmp_path.iterdir()) == []


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
