"""What may differ when a run is taken up again, and what may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stdcli.config.teacher import TeacherConfig
from stdcli.console import Console
from stdcli.errors import ConfigError, MediaError
from stdcli.teacher.data import load_data
from stdcli.teacher.teacher_run import check_pictures, open_run, plan_stages
from stdcli.training.run_folder import RunFolder
from tests.tiny_pictures import write_flat


def config(**train: Any) -> TeacherConfig:
    plain = {"steps": 100, "cooldown": 0.2, "batch_size": 16, "learning_rate": 5e-4}
    return TeacherConfig.model_validate({"data": "in", "train": plain | train})


def begin(root: Path, *, checkpoint: int | None = None) -> RunFolder:
    run = RunFolder(root)
    open_run(run, config(), overwrite=False)
    if checkpoint is not None:
        path = root / "checkpoints" / f"step-{checkpoint:06d}.safetensors"
        path.parent.mkdir()
        path.write_bytes(b"")
    return run


def test_a_new_run_records_its_settings(tmp_path: Path) -> None:
    begin(tmp_path / "out")
    metadata = json.loads((tmp_path / "out/run.json").read_text())
    assert metadata["task"] == "teacher"
    assert metadata["state"] == "running"
    assert TeacherConfig.model_validate(metadata["config"]) == config()


def test_the_same_settings_go_on(tmp_path: Path) -> None:
    run = begin(tmp_path / "out")
    before = run.read_metadata()
    assert open_run(run, config(), overwrite=False) == before


def test_other_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    run = begin(tmp_path / "out")
    before = run.read_metadata()
    with pytest.raises(ConfigError, match="other settings") as caught:
        open_run(run, config(learning_rate=1e-3, batch_size=3), overwrite=False)
    assert caught.value.problems == [
        ("train.batch_size", "16 in the run that is there, 3 now"),
        ("train.learning_rate", "0.0005 in the run that is there, 0.001 now"),
    ]
    assert run.read_metadata() == before


@pytest.mark.parametrize(
    "changed",
    [
        {"device": "cpu"},
        {"data": "elsewhere"},
        {"style_data": "art"},
        {"train": {"threads": 4, "log_every": 7}},
    ],
    ids=["device", "data", "style_data", "cadence"],
)
def test_what_cannot_change_the_outcome_may_differ(tmp_path: Path, changed: dict[str, Any]) -> None:
    run = begin(tmp_path / "out")
    base = config().model_dump()
    other = TeacherConfig.model_validate(base | changed | {"train": base["train"] | changed.get("train", {})})
    assert open_run(run, other, overwrite=False)["config"] == other.model_dump(mode="json")


@pytest.mark.parametrize(
    ("checkpoint", "steps", "may"),
    [
        (None, 200, True),
        (80, 200, True),
        (81, 200, False),
        (80, 90, False),
        (72, 90, True),
        (99, 200, False),
        (100, 90, False),
        (100, 200, True),
    ],
)
def test_the_length_may_change_until_the_rate_falls(
    tmp_path: Path, checkpoint: int | None, steps: int, may: bool
) -> None:
    """With 100 steps and a cool-down of a fifth the rate falls from step 80 on, with 90 from step 72 on.

    After the last step there may be more.
    """
    run = begin(tmp_path / "out", checkpoint=checkpoint)
    if may:
        open_run(run, config(steps=steps), overwrite=False)
    else:
        with pytest.raises(ConfigError) as caught:
            open_run(run, config(steps=steps), overwrite=False)
        assert caught.value.problems == [("train.steps", f"100 in the run that is there, {steps} now")]


def test_settings_of_another_version_are_other_settings(tmp_path: Path) -> None:
    run = begin(tmp_path / "out")
    metadata = run.read_metadata()
    del metadata["config"]["train"]
    run.write_metadata(metadata)
    with pytest.raises(ConfigError, match="other settings") as caught:
        open_run(run, config(), overwrite=False)
    assert caught.value.problems[0][0] == "train.steps"


def test_a_run_of_another_task_is_refused_even_to_overwrite(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "out")
    run.write_metadata({"task": "distill"})
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="another task") as caught:
            open_run(run, config(), overwrite=overwrite)
        assert (caught.value.got, caught.value.expected) == ("distill", "teacher")


def test_a_folder_of_other_things_is_refused_even_to_overwrite(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="not empty and holds no run"):
            open_run(RunFolder(tmp_path), config(), overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(ConfigError, match="needs a folder"):
        open_run(RunFolder(tmp_path / "out"), config(), overwrite=True)


def test_overwriting_deletes_the_run_and_nothing_else(tmp_path: Path) -> None:
    run = begin(tmp_path, checkpoint=50)
    for name in ("codec.safetensors", "metrics.jsonl", "thesis.txt"):
        (tmp_path / name).write_text("x")
    open_run(run, config(batch_size=3), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "thesis.txt"]
    assert run.read_metadata()["config"]["train"]["batch_size"] == 3


def test_other_pictures_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_flat(folder, train=(0, 0, 200), held_out=(200, 0, 0))
    data = load_data(folder, folder, console=Console("quiet"))
    metadata = {"pictures": data.metadata()}
    check_pictures({}, data)
    check_pictures(metadata, data)
    (folder / "p00.png").unlink()
    with pytest.raises(ConfigError, match="not those of this run") as caught:
        check_pictures(metadata, load_data(folder, folder, console=Console("quiet")))
    assert caught.value.problems[0] == (
        "data",
        "the run has 18 photos to train on, this folder 17",
    )


def test_the_plan_says_what_is_done(tmp_path: Path) -> None:
    write_flat(tmp_path / "in", train=(0, 0, 200), held_out=(200, 0, 0))
    settings = config().model_copy(update={"data": str(tmp_path / "in")})
    out = tmp_path / "out"

    def plan(**options: bool) -> list[tuple[str, str]]:
        stages = plan_stages(settings, out=out, overwrite=options.get("overwrite", False))
        return [(work, state) for _, work, state in stages]

    assert [state for _, state in plan()] == ["to do"] * 3
    assert not out.exists()
    begin(out, checkpoint=60)
    (out / "codec.safetensors").write_bytes(b"")
    assert [state for _, state in plan()] == ["done", "to do", "to do"]
    assert plan()[1][0] == "40 of 100 steps, 20 photos x 20 artworks"
    assert [state for _, state in plan(overwrite=True)] == ["to do"] * 3
    with pytest.raises(MediaError):
        plan_stages(config(), out=out, overwrite=False)
