"""New folders: whole or absent, one run at a time, nothing left of killed ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stdcli.disk.writing import write_durably
from stdcli.errors import MediaError
from stdcli.runtime.durable import new_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from stdcli.runtime.durable import new_folder
with new_folder(Path(sys.argv[1])) as fresh:
    (fresh / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def put(folder: Path, text: str) -> None:
    """Make a folder of one file."""
    with new_folder(folder) as fresh:
        (fresh / "a").write_text(text)


def names(folder: Path) -> list[str]:
    """What is in a folder, hidden things too."""
    return sorted(path.name for path in folder.iterdir())


def test_a_second_run_leaves_the_first_alone(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as fresh:
        (fresh / "a").write_text("first")
        with pytest.raises(MediaError, match="another run is making this output"):
            put(tmp_path / "out", "second")
        (fresh / "b").write_text("first")
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["a", "b"]
    put(tmp_path / "out", "second")
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_what_a_killed_run_left_goes(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], timeout=60)
    assert done.returncode == -signal.SIGKILL and ".out.part" in names(tmp_path)
    put(tmp_path / "out", "whole")
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["a"]


def test_what_appears_meanwhile_is_looked_at(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def check() -> None:
        if out.exists():
            raise MediaError("the output exists")

    with pytest.raises(MediaError, match="exists"), new_folder(out, check=check):
        out.mkdir()
        (out / "theirs").touch()
    assert names(tmp_path) == ["out"] and names(out) == ["theirs"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk/real").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk/real")
    for text in ("first", "second"):
        put(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "disk/real/a").read_text() == text
    assert names(tmp_path) == ["disk", "link"] and names(tmp_path / "disk") == ["real"]


def test_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    put(Path(), "x")
    assert names(tmp_path) == ["here"] and names(tmp_path / "here") == ["a"]


@pytest.mark.parametrize("length", [249, 250, 255])
def test_a_name_as_long_as_can_be(tmp_path: Path, length: int) -> None:
    folder, other = tmp_path / ("n" * length), tmp_path / ("n" * (length - 1) + "m")
    for content in ("one", "two"):
        with new_folder(folder) as fresh, new_folder(other) as fresh_other:
            (fresh / "a").write_text(content)
            (fresh_other / "a").write_text("other")
        assert (folder / "a").read_text() == content
    write_durably(folder / ("f" * length), b"data")
    assert sorted(path.name for path in folder.iterdir()) == ["a", "f" * length]
    assert sorted(tmp_path.iterdir()) == sorted([folder, other])
