"""`stdcli demo`: what it refuses and how it ends; the commands that it runs have tests of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stdcli.cli import demo as module
from stdcli.cli.main import main
from stdcli.demo import sample_inputs as demo_inputs
from stdcli.errors import Interrupted, ModelError

DEMO = ("--frames", "2", "--device", "cpu")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Samples are empty files, and commands are noted instead of run."""
    found: list[list[str]] = []

    def write(folder: Path, *, frames: int) -> tuple[list[Path], Path]:
        (folder / "clip.mp4").write_text(str(frames))
        return [folder / "a.png", folder / "b.png"], folder / "clip.mp4"

    monkeypatch.setattr(demo_inputs, "write_samples", write)
    inner(monkeypatch, lambda args: found.append(args) or 0)
    return found


def inner(monkeypatch: pytest.MonkeyPatch, act: Callable[[list[str]], int]) -> None:
    monkeypatch.setattr(module, "run", lambda command, args, name: act([*name.split(), *args]))


def demo(*args: object) -> int:
    return main(["demo", *DEMO, *map(str, args)])


def test_it_hands_its_options_on(commands: list[list[str]], tmp_path: Path) -> None:
    assert demo("-o", tmp_path / "out", "--offline", "--seed", 3, "--json") == 0
    assert len(commands) == 3
    for command in commands:
        assert command[:2] == ["stdcli", "stylize"]
        assert command[-7:] == ["--overwrite", "--seed", "3", "--device", "cpu", "--offline", "--json"]


def test_a_device_that_is_not_there_is_noticed_first(
    commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["demo", "-o", str(out), "--device", "cuda:99", "--json"]) == 7
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["error"]["type"] == "ResourceError"
    assert main(["demo", "-o", str(out), "--device", "abacus"]) == 2
    assert not out.exists()


@pytest.mark.parametrize(("error", "code"), [(ModelError("broken"), 4), (Interrupted("interrupted"), 130)])
def test_what_goes_wrong_inside_is_told_once(
    commands: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
) -> None:
    def fail(args: list[str]) -> int:
        raise error

    inner(monkeypatch, fail)
    assert demo("-o", tmp_path / "out", "--json") == code
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert [json.loads(line)["error"]["what"] for line in told] == [str(error.what)]


def test_a_folder_of_other_things_is_left_alone(
    commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clip.mp4").write_text("precious")
    assert demo("-o", tmp_path) == 5
    assert "--overwrite" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_text() == "precious"
    assert commands == []
    assert demo("-o", tmp_path, "--overwrite") == 0
    assert (tmp_path / "clip.mp4").read_text() == "2"


def test_its_own_folder_is_used_again(commands: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert demo("-o", tmp_path / "out") == 0
    assert demo("-o", tmp_path / "out") == 0
    assert len(commands) == 6


def test_a_file_is_no_folder(
    commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dog.jpg").write_text("precious")
    assert demo("-o", tmp_path / "dog.jpg") == 5
    assert demo("-o", tmp_path / "dog.jpg" / "out") == 5
    assert "bug" not in capsys.readouterr().err


def test_samples_that_cannot_be_written_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").write_text("precious")
    assert demo("-o", tmp_path, "--overwrite") == 5
    assert "cannot be written" in capsys.readouterr().err
