"""Whether a folder holds this very run: every way in which it may not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stdcli.errors import ConfigError, ResourceError
from stdcli.training.resume import RunKind, check_run, open_run
from stdcli.training.run_files import hold_run
from stdcli.training.run_folder import RunFolder

RUN_FILES = (r"student/weights", r"student/unet/config\.json", r"extra\.txt")
KIND = RunKind("task", RUN_FILES, lambda metadata: {"train.every", *metadata.get("more_free", [])})
SETTINGS = {"train": {"steps": 5, "every": 2}, "seed": 0}


def begun(root: Path, **metadata: object) -> RunFolder:
    run = RunFolder(root)
    run.write_metadata(open_run(run, KIND, SETTINGS, overwrite=False) | metadata)
    return run


def changed(**train: object) -> dict:
    return {**SETTINGS, "train": {**SETTINGS["train"], **train}}


def test_a_new_run_begins(tmp_path: Path) -> None:
    metadata = open_run(RunFolder(tmp_path / "a" / "b"), KIND, SETTINGS, overwrite=False)
    assert metadata == {"task": "task", "state": "running", "config": SETTINGS}
    assert json.loads((tmp_path / "a" / "b" / "run.json").read_text()) == metadata


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert open_run(RunFolder(tmp_path), KIND, SETTINGS, overwrite=False)["state"] == "running"


def test_the_same_run_goes_on_with_what_was_known(tmp_path: Path) -> None:
    run = begun(tmp_path, learned=7)
    assert open_run(run, KIND, SETTINGS, overwrite=False)["learned"] == 7


def test_what_decides_nothing_may_change_and_is_noted(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert open_run(run, KIND, changed(every=9), overwrite=False)["config"]["train"]["every"] == 9
    assert run.read_metadata()["config"] == changed(every=9)


def test_what_is_free_may_depend_on_the_run(tmp_path: Path) -> None:
    run = begun(tmp_path, more_free=["seed"])
    check_run(run, KIND, SETTINGS | {"seed": 1}, overwrite=False)


def test_every_other_setting_is_named_with_both_values(tmp_path: Path) -> None:
    run = begun(tmp_path)
    before = run.metadata_path.read_bytes()
    with pytest.raises(ConfigError) as told:
        open_run(run, KIND, changed(steps=6) | {"seed": 1, "new": None}, overwrite=False)
    assert told.value.problems == [
        ("train.steps", "5 in the run that is there, 6 now"),
        ("seed", "0 in the run that is there, 1 now"),
    ]
    assert "--overwrite" in told.value.hint and run.metadata_path.read_bytes() == before


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


MINE = [
    "student/notes.txt",
    "student/unet/mine.safetensors",
    "samples/a.png",
    "checkpoints/best.safetensors",
    "checkpoints/step-000001/x",
]


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


OURS = [
    "checkpoints/step-000001.safetensors",
    "checkpoints/.step-000002.safetensors.part",
    "checkpoints/.tmpAb3dEf",
    "samples/step-000500.png",
    "student/weights",
    "student/unet/config.json",
    "extra.txt",
    "metrics.jsonl",
]


def test_beginning_anew_deletes_what_the_run_left_and_nothing_else(tmp_path: Path) -> None:
    run = begun(tmp_path, learned=7)
    write(tmp_path, *OURS, "notes/mine.txt", "novel.txt")
    metadata = open_run(run, KIND, changed(steps=6), overwrite=True)
    assert metadata == {"task": "task", "state": "running", "config": changed(steps=6)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "novel.txt", "run.json"]
    assert (tmp_path / "notes" / "mine.txt").exists()


@pytest.mark.parametrize("name", MINE)
def test_files_of_others_in_its_folders_are_named_and_nothing_is_deleted(tmp_path: Path, name: str) -> None:
    run = begun(tmp_path)
    write(tmp_path, *OURS, name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="not the run's") as told:
        check_run(run, KIND, SETTINGS, overwrite=True)
    assert told.value.got == name and "move them elsewhere" in told.value.hint
    with pytest.raises(ConfigError):
        open_run(run, KIND, SETTINGS, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before
    open_run(run, KIND, SETTINGS, overwrite=False)  # going on deletes only what killed writers left
    assert set(before) - set(tmp_path.rglob("*")) == {tmp_path / name for name in OURS[1:3]}


@pytest.mark.parametrize("name", ["student", "samples", "checkpoints", "student/weights"])
def test_links_are_never_followed_to_delete(tmp_path: Path, name: str) -> None:
    run, mine = begun(tmp_path / "run"), tmp_path / "mine"
    write(mine, "weights", "step-000001.safetensors", "step-000001.png")
    (run.root / name).parent.mkdir(exist_ok=True)
    (run.root / name).symlink_to(mine if name in ("student", "samples", "checkpoints") else mine / "weights")
    with pytest.raises(ConfigError):
        open_run(run, KIND, SETTINGS, overwrite=True)
    assert len(list(mine.iterdir())) == 3


def test_one_process_at_a_time_trains_a_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a" / "run")
    with hold_run(run):
        with pytest.raises(ConfigError, match="another process is training") as told, hold_run(run):
            pass
        assert told.value.where == str(run.root)
        open_run(run, KIND, SETTINGS, overwrite=False)  # the lock itself is no foreign file
    assert [path.name for path in run.root.iterdir()] == ["run.json"]
    with hold_run(run):
        pass


def test_a_run_that_does_not_begin_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        with hold_run(RunFolder(tmp_path / name)):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["there"] and not any((tmp_path / "there").iterdir())


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("chapter 1")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(ResourceError, match="cannot be locked"), hold_run(RunFolder(tmp_path)):
        pass
    assert (tmp_path / "mine").read_text() == "chapter 1"


def test_settings_that_came_later_are_taken_at_their_defaults(tmp_path: Path) -> None:
    run = begun(tmp_path)
    kind = RunKind(
        "task",
        RUN_FILES,
        lambda metadata: (),
        {"train": {"steps": 1, "widths": [4], "more": {"a": 0}}, "pooled": "zero"},
    )
    check_run(run, kind, changed(widths=[4], more={"a": 0}) | {"pooled": "zero"}, overwrite=False)
    for settings in (changed(widths=[8]), changed(more={"a": 1}), SETTINGS | {"pooled": "keep"}):
        with pytest.raises(ConfigError, match="other settings"):
            check_run(run, kind, settings, overwrite=False)


@pytest.mark.parametrize("name", ["student/.DS_Store", "student/._weights", "student/Thumbs.db"])
def test_what_desktops_leave_is_nobodys(tmp_path: Path, name: str) -> None:
    run = begun(tmp_path)
    write(tmp_path, *OURS, name)
    check_run(run, KIND, SETTINGS, overwrite=True)
