"""`stdcli teacher train`: what it says and how it ends; that it trains is shown in tests/integration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stdcli.cli.main import main
from stdcli.config.load import resolve
from stdcli.config.teacher import TeacherConfig
from tests.tiny_pictures import write_flat


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    write_flat(tmp_path / "in", train=(0, 0, 200), held_out=(200, 0, 0))
    return tmp_path / "in"


def train(*args: object) -> int:
    return main(["teacher", "train", *map(str, args)])


def write_run(out: Path, config: TeacherConfig, *, finished: bool = False) -> None:
    out.mkdir()
    facts = {"task": "teacher", "state": "running", "config": config.model_dump(mode="json")}
    (out / "run.json").write_text(json.dumps(facts))
    if finished:
        (out / "model").mkdir()


def test_an_output_folder_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--data", "x") == 2
    assert "--out" in capsys.readouterr().err


def test_pictures_are_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("-o", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ("error: no pictures to train on\n  data: is missing\n  hint: --data FOLDER\n")
    assert not (tmp_path / "out").exists()


def test_no_such_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--data", tmp_path / "nowhere", "-o", tmp_path / "out") == 5
    assert f"at: {tmp_path / 'nowhere'}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_too_few_pictures(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted(pictures.iterdir())[4:]:
        path.unlink()
    assert train("--data", pictures, "-o", tmp_path / "out", "--device", "cpu") == 5
    err = capsys.readouterr().err
    assert "too few pictures to train on" in err
    assert "got 3, 1 held out, expected at least 8" in err
    assert not (tmp_path / "out").exists()  # so that the same folder serves for the next try
    assert train("--data", pictures, "-o", tmp_path / "out", "--dry-run") == 5
    assert "got 3, 1 held out, expected at least 8" in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_recipe_that_fits_no_path(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    sets = ["--set", "recipe.steps=900", "--set", "recipe.strength=0.1"]
    assert train("--data", pictures, "-o", tmp_path / "out", *sets, *more) == 2
    assert "recipe: 900 steps do not fit" in capsys.readouterr().err


def test_a_dry_run_refuses_devices_and_models_that_are_not_there(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ("--data", pictures, "-o", tmp_path / "out", "--dry-run")
    assert train(*usual, "--device", "cuda:99") == 7
    assert train(*usual, "--set", f"init={pictures}") == 4
    assert "not a diffusers folder" in capsys.readouterr().err


def test_wrong_settings_are_all_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [
        "pairs.photo_px=20",
        "pairs.art_share=2",
        "train.dtype=float16",
        "network.channels=48,64",
    ]
    assert train("-o", tmp_path, *(part for text in sets for part in ("--set", text))) == 2
    err = capsys.readouterr().err
    for problem in (
        "pairs.photo_px: must be a multiple of 8",
        "pairs.art_share: must be less than or equal to 1",
        "train.dtype: float16 needs loss scaling",
        "network.channels.0: must be a multiple of 32",
    ):
        assert problem in err


def test_a_wrong_setting_leads_to_the_help_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("-o", tmp_path, "--dtype", "float16") == 2
    err = capsys.readouterr().err
    assert "train.dtype: float16 needs loss scaling, which is not done here" in err
    assert "(from flag)" in err
    assert "hint: stdcli teacher train --help" in err


def test_a_crop_fits_the_depth_of_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("-o", tmp_path, "--set", "pairs.photo_px=112") == 2
    assert "pairs.photo_px: must be a multiple of 32, for a UNet of 3 levels" in capsys.readouterr().err


def test_a_dry_run_prints_settings_and_plan(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--data", pictures, "-o", tmp_path / "out", "--steps", 50, "--dry-run") == 0
    out = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    rows = [line.split() for line in out.splitlines()]
    assert ["train.steps", "50", "flag"] in rows
    assert ["train.batch_size", str(TeacherConfig().train.batch_size), "default"] in rows
    assert ["checkpoints", *"50 of 50 steps, 20 photos x 20 artworks to do".split()] in rows


def test_a_dry_run_for_machines(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--data", pictures, "-o", tmp_path / "out", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["dry_run"] is True
    assert plan["config"]["train"] == TeacherConfig().train.model_dump()
    assert [row["state"] for row in plan["rows"]] == ["to do"] * 3


def test_a_finished_run_ends_at_once(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    write_run(out, TeacherConfig(data=str(pictures)), finished=True)
    assert train("--data", pictures, "-o", out) == 0
    assert capsys.readouterr().out == f"finished already: {out / 'model'}\n"
    assert train("--data", pictures, "-o", out, "-q") == 0
    assert capsys.readouterr().out == f"{out / 'model'}\n"
    assert train("--data", tmp_path / "gone", "-o", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["was_finished"] is True


def test_other_settings_than_the_folders(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    write_run(out, TeacherConfig(data=str(pictures)))
    assert train("--data", pictures, "-o", out, "--seed", 3, "--set", "codec.temper=0.25") == 2
    err = capsys.readouterr().err
    assert f"codec.temper: {TeacherConfig().codec.temper} in the run that is there, 0.25 now" in err
    assert "seed: 0 in the run that is there, 3 now" in err
    assert "--overwrite" in err


def test_the_cpu_preset_is_the_default() -> None:
    preset = resolve("teacher", preset="embedded-cpu").config.model_dump()
    assert preset.pop("train") == TeacherConfig().train.model_dump() | {"dtype": "float32"}
    assert preset == TeacherConfig().model_dump(exclude={"train"})
