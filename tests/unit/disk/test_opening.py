"""What is opened: plain files, reached by links only where links may lead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stdcli.disk.opening import check_file, open_file, own_path
from stdcli.errors import BankCorruptError, ModelError

POSIX = pytest.mark.skipif(os.name != "posix", reason="named pipes and devices")


@POSIX
@pytest.mark.parametrize("look", [check_file, open_file])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path, look) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to("pipe")
    for name, got in (("pipe", "a named pipe"), ("to_pipe", "a named pipe"), (".", "a folder")):
        with pytest.raises(ModelError, match="not a plain file") as told:
            look(tmp_path / name, ModelError)
        assert told.value.got == got
    with pytest.raises(ModelError) as told:
        look(Path(os.devnull), ModelError)
    assert told.value.got == "a device"


@pytest.mark.parametrize("look", [check_file, open_file])
def test_links(tmp_path: Path, look) -> None:
    (tmp_path / "real").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "round").symlink_to("round")
    with open_file(tmp_path / "link", ModelError) as file:
        assert file.read() == b"abc"
    assert check_file(tmp_path / "link", ModelError).st_size == 3
    with pytest.raises(ModelError) as told:
        look(tmp_path / "link", ModelError, links=False)
    assert (told.value.what, told.value.got) == ("not a plain file", "a link")
    with pytest.raises(ModelError) as told:
        look(tmp_path / "round", ModelError)
    assert told.value.got == "a link"


@pytest.mark.parametrize("look", [check_file, open_file])
@pytest.mark.parametrize("name", ["none", "file/below", "nul\0byte", "long" * 99])
def test_names_that_lead_nowhere(tmp_path: Path, look, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError) as told:
        look(tmp_path / name, ModelError)
    assert told.value.what == "no such file" or told.value.what.startswith("cannot be read: ")


def test_a_file_that_becomes_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the opening."""
    (tmp_path / "real").touch()
    (tmp_path / "name").symlink_to("real")
    monkeypatch.setattr("stdcli.disk.opening.check_file", lambda *_, **__: None)
    with pytest.raises(ModelError) as told:
        open_file(tmp_path / "name", ModelError, links=False)
    assert told.value.got == "a link"


def test_places_in_folders_of_ours(tmp_path: Path) -> None:
    (tmp_path / "root/shards").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "root/linked").symlink_to(tmp_path / "mine")
    (tmp_path / "root/shards/dangling").symlink_to("nothing")
    (tmp_path / "alias").symlink_to("root")
    assert own_path(tmp_path / "root", "shards/a", BankCorruptError) == tmp_path / "root/shards/a"
    assert own_path(tmp_path / "alias", "new/a", BankCorruptError) == tmp_path / "alias/new/a"
    for name in ("linked", "linked/a", "shards/dangling"):
        with pytest.raises(BankCorruptError, match="a link") as told:
            own_path(tmp_path / "root", name, BankCorruptError)
        assert str(tmp_path / "root") in told.value.where
    for name in ("", "..", "../mine", "shards/../../mine", "/etc", "a//b", "./a", "a\0b"):
        with pytest.raises(BankCorruptError, match="leads out of its folder"):
            own_path(tmp_path / "root", name, BankCorruptError)
