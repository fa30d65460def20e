"""Whether a folder holds this very run: every way in which it may not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stdcli.errors import ConfigError
from stdcli.training.resume import RunKind, check_run, open_run
from stdcli.training.run_folder import RunFolder

KIND = RunKind("task", ("student", "extra.txt"), lambda facts: {"train.every", *facts.get("more_free", [])})
SETTINGS = {"train": {"steps": 5, "every": 2}, "seed": 0}


def begun(root: Path, **facts: object) -> RunFolder:
    run = RunFolder(root)
    run.write_facts(open_run(run, KIND, SETTINGS, overwrite=False) | facts)
    return run


def changed(**train: object) -> dict:
    return {**SETTINGS, "train": {**SETTINGS["train"], **train}}


def test_a_new_run_begins(tmp_path: Path) -> None:
    facts = open_run(RunFolder(tmp_path / "a" / "b"), KIND, SETTINGS, overwrite=False)
    assert facts == {"task": "task", "state": "running", "config": SETTINGS}
    assert json.loads((tmp_path / "a" / "b" / "run.json").read_text()) == facts


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert open_run(RunFolder(tmp_path), KIND, SETTINGS, overwrite=False)["state"] == "running"


def test_the_same_run_goes_on_with_what_was_known(tmp_path: Path) -> None:
    run = begun(tmp_path, learned=7)
    assert open_run(run, KIND, SETTINGS, overwrite=False)["learned"] == 7


def test_what_decides_nothing_may_change_and_is_noted(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert open_run(run, KIND, changed(every=9), overwrite=False)["config"]["train"]["every"] == 9
    assert run.read_facts()["config"] == changed(every=9)


def test_what_is_free_may_depend_on_the_run(tmp_path: Path) -> None:
    run = begun(tmp_path, more_free=["seed"])
    check_run(run, KIND, SETTINGS | {"seed": 1}, overwrite=False)


def test_every_other_setting_is_named_with_both_values(tmp_path: Path) -> None:
    run = begun(tmp_path)
    before = run.facts_path.read_bytes()
    with pytest.raises(ConfigError) as told:
        open_run(run, KIND, changed(steps=6) | {"seed": 1, "new": None}, overwrite=False)
    assert told.value.problems == [
        ("train.steps", "5 in the run that is there, 6 now"),
        ("seed", "0 in the run that is there, 1 now"),
    ]
    assert "--overwrite" in told.value.hint and run.facts_path.read_bytes() == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_files_are_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "novel.txt").write_text("chapter 1")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        open_run(RunFolder(tmp_path), KIND, SETTINGS, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["novel.txt"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_no_folder(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="needs a folder"):
        check_run(RunFolder(tmp_path / "run"), KIND, SETTINGS, overwrite=overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_of_another_task(tmp_path: Path, overwrite: bool) -> None:
    run = begun(tmp_path, task="other")
    with pytest.raises(ConfigError) as told:
        check_run(run, KIND, SETTINGS, overwrite=overwrite)
    assert (told.value.got, told.value.expected) == ("other", "task")


def test_beginning_anew_deletes_what_the_run_left_and_nothing_else(tmp_path: Path) -> None:
    run = begun(tmp_path, learned=7)
    for name in ("checkpoints/step-000001.safetensors", "samples/a.png", "student/weights", "notes/mine.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "extra.txt").write_text("x")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    facts = open_run(run, KIND, changed(steps=6), overwrite=True)
    assert facts == {"task": "task", "state": "running", "config": changed(steps=6)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "run.json"]
