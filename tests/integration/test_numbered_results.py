"""Clips written as numbered pictures: a stopped run goes on only where it began, and replaces no input."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stdcli.cli.main import main
from stdcli.inference import clips
from tests.tiny_models import save_tiny_embedded

pytestmark = pytest.mark.usefixtures("one_load")

FRAMES = 7


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_tiny_embedded(tmp_path_factory.mktemp("model")))


@pytest.fixture
def shot(tmp_path, monkeypatch) -> Path:
    """Numbered frames and a style; segments of 4 frames."""
    monkeypatch.setattr(clips, "SEGMENT_FRAMES", 4)
    (tmp_path / "shot").mkdir()
    for k in range(FRAMES):
        save(tmp_path / f"shot/{k + 1:03d}.png", seed=k)
    save(tmp_path / "style.png", seed=99)
    return tmp_path


def save(path: Path, *, seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((40, 32), Image.Resampling.BICUBIC).save(path)


def run(folder: Path, model: str, *more: str, out: str = "out/%03d.png") -> int:
    places = [str(folder / "shot/%03d.png"), "-o", str(folder / out), "--style", str(folder / "style.png")]
    return main(
        ["stylize", *places, "--model", model, "--steps", "2", "--temporal", "off", "--guidance", "1", *more]
    )


def pictures(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.png"))}


def stop(shot: Path, model: str, power_cut) -> dict[str, bytes]:
    """The whole result, of which one segment is left and another is half written."""
    assert run(shot, model) == 0
    whole = pictures(shot / "out")
    for file in (shot / "out").iterdir():
        file.unlink()
    with power_cut(1):
        assert run(shot, model) == 70
    assert (shot / "out.job").exists()
    return whole


def test_under_another_name_nothing_is_taken_for_done(shot, model, power_cut, capsys) -> None:
    stop(shot, model, power_cut)
    assert run(shot, model, out="out/b%03d.png") == 2
    assert "results" in capsys.readouterr().err
    assert run(shot, model, "--overwrite", out="out/b%03d.png") == 0
    assert len(list((shot / "out").glob("b*.png"))) == FRAMES


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_frames_that_are_gone_are_made_again(shot, model, power_cut, options) -> None:
    whole = stop(shot, model, power_cut)
    (shot / "out/002.png").unlink()
    assert run(shot, model, *options) == 0
    assert pictures(shot / "out") == whole
    assert not (shot / "out.job").exists()


def test_other_frames_do_not_continue_what_was_made_of_the_first(shot, model, power_cut, capsys) -> None:
    stop(shot, model, power_cut)
    save(shot / "shot/002.png", seed=50)
    assert run(shot, model) == 2
    assert "files" in capsys.readouterr().err


def test_a_foreign_job_does_not_allow_to_replace_frames(shot, model, power_cut) -> None:
    stop(shot, model, power_cut)
    (shot / "out/b003.png").write_bytes(b"mine")
    assert run(shot, model, out="out/b%03d.png") == 5
    assert (shot / "out/b003.png").read_bytes() == b"mine"


def test_a_run_killed_before_its_first_segment_is_repeated(shot, model) -> None:
    assert run(shot, model, "--batch", "2") == 0
    whole = pictures(shot / "out")
    for file in (shot / "out").iterdir():
        file.unlink()
    pid = os.fork()
    if pid == 0:
        clips.WriteBehind.flush = lambda self: os._exit(9)  # the whole clip is one segment: none is counted
        clips.SEGMENT_FRAMES = 100
        run(shot, model, "--batch", "2")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert 0 < len(pictures(shot / "out")) <= FRAMES
    assert run(shot, model, "--batch", "2") == 0
    assert pictures(shot / "out") == whole


@pytest.mark.parametrize("name", ["shot/%03d.png", "shot/%d.png"])
def test_frames_never_replace_the_input(shot, model, capsys, name) -> None:
    for k in range(100, 108):  # of three digits both patterns are one
        save(shot / f"shot/{k:03d}.png", seed=k)
    for k in range(1, FRAMES + 1):
        (shot / f"shot/{k:03d}.png").unlink()
    before = pictures(shot / "shot")
    assert run(shot, model, "--overwrite", out=name) == 5
    assert "is an input" in capsys.readouterr().err
    assert pictures(shot / "shot") == before


def test_names_of_frames_are_measured_before_any_work(shot, model, capsys) -> None:
    long = "n" * 247  # for numbers of four digits; the last two frames have five
    for k, file in enumerate(sorted((shot / "shot").iterdir())):
        file.rename(shot / f"shot/{k + 9995}.png")
    places = [
        str(shot / "shot/%d.png"),
        "-o",
        str(shot / f"{long}%d.png"),
        "--style",
        str(shot / "style.png"),
    ]
    assert main(["stylize", *places, "--model", model]) == 5
    assert "no file can have this name" in capsys.readouterr().err
    assert not list(shot.glob("n*"))
