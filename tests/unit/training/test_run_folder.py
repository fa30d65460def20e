"""The files of a run."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

from stdcli.errors import ResourceError, StdcliError
from stdcli.training.checkpoint import DamagedError
from stdcli.training.run_folder import STEP, RunFolder, changes, mean_of, versions


def lines(run: RunFolder) -> list[dict]:
    return [json.loads(line) for line in run.metrics_path.read_text().splitlines()]


def test_facts_come_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "new")
    assert not run.exists()
    run.write_metadata({"task": "x", "path": Path("a/b"), "loss": math.nan})
    assert run.exists()
    assert run.read_metadata() == {"task": "x", "path": "a/b", "loss": None}
    assert [p.name for p in run.root.iterdir()] == ["run.json"]


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_damaged_facts_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(StdcliError, match=r"not (a )?JSON"):
        RunFolder(tmp_path).read_metadata()


def test_reports_are_lines_of_json(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.report({STEP: 1, "loss/total": 0.5})
    run.report({STEP: 2, "loss/total": math.nan})
    assert lines(run) == [{STEP: 1, "loss/total": 0.5}, {STEP: 2, "loss/total": None}]


def test_rewinding_drops_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.rewind_reports(5)
    assert not run.metrics_path.exists()
    run.report({"codec/step": 900})
    for step in (25, 50, 75):
        run.report({STEP: step})
    with run.metrics_path.open("a") as file:
        file.write('{"progress/st')
    run.rewind_reports(50)
    assert lines(run) == [{"codec/step": 900}, {STEP: 25}, {STEP: 50}]


def test_the_last_two_checkpoints_are_kept_by_number(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (500, 1_000_000, 999_999):
        run.save(step, {"w": torch.tensor([step])})
    assert [step for step, _ in run.checkpoints()] == [999_999, 1_000_000]
    (tmp_path / "checkpoints" / "step-000007.tmp").write_bytes(b"")
    (tmp_path / "checkpoints" / "step-best.safetensors").write_bytes(b"")
    assert [path.name for _, path in run.checkpoints()] == [
        "step-999999.safetensors",
        "step-1000000.safetensors",
    ]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_the_newest_whole_checkpoint_is_found_and_damaged_ones_are_told(tmp_path: Path) -> None:
    run, told = RunFolder(tmp_path), []
    assert run.newest(warn=told.append) is None
    first, second = (run.save(step, {"w": torch.tensor([step])}) for step in (1, 2))
    assert run.newest(warn=told.append)[0] == second and not told
    flip(second)
    path, tensors, metadata = run.newest(warn=told.append)
    assert (path, tensors["w"].tolist(), metadata) == (first, [1], {"step": "1"})
    assert len(told) == 1 and f"{second} is damaged" in told[0]
    assert run.last_good() == first
    run.forget_after(1)
    assert [step for step, _ in run.checkpoints()] == [1]
    flip(first)
    with pytest.raises(DamagedError) as caught:
        run.newest(warn=told.append)
    assert "--overwrite begins anew" in caught.value.hint and run.last_good() is None
    assert first.exists()


def test_a_checkpoint_with_nan_is_not_a_good_one(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    first = run.save(1, {"w": torch.tensor([1.0])})
    run.save(2, {"w": torch.tensor([1.0, math.inf])})
    assert run.last_good() == first


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_plain_file_is_no_checkpoint(tmp_path: Path, kind: str) -> None:
    run = RunFolder(tmp_path / "run")
    run.save(1, {"w": torch.tensor([1.0])})
    odd = run.root / "checkpoints" / "step-000002.safetensors"
    if kind == "link":
        odd.symlink_to(tmp_path / "elsewhere")
    else:
        odd.mkdir() if kind == "folder" else os.mkfifo(odd)
    with pytest.raises(StdcliError):
        run.newest(warn=print)


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "nowhere").checkpoints() == []


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError) as caught:
        RunFolder(tmp_path / "file").write_metadata({})
    assert caught.value.where == str(tmp_path / "file" / "run.json")
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(ResourceError, match=r"metrics\.jsonl"):
        RunFolder(tmp_path).report({})


def test_changes_name_the_place_and_both_values() -> None:
    before = {"a": 1, "b": {"c": [1, 2], "d": None}, "gone": 3}
    after = {"a": 1, "b": {"c": [1, 3], "d": None}, "new": {"x": 1}}
    assert changes(before, after) == [
        ("b.c", [1, 2], [1, 3]),
        ("gone", 3, None),
        ("new", None, {"x": 1}),
    ]
    assert changes(after, after) == []


def test_means_leave_out_what_is_not_finite() -> None:
    means = mean_of([{"a": 1.0, "b": math.nan}, {"a": 4.0, "b": math.nan}, {"a": math.inf, "b": math.nan}])
    assert means["a"] == 2.5
    assert math.isnan(means["b"])


def test_a_mean_is_over_the_reports_that_have_the_key() -> None:
    reports = [{"often": 1.0}, {"often": 2.0, "seldom": 8.0}, {"seldom": 4.0, "often": 6.0}]
    assert mean_of(reports) == {"often": 3.0, "seldom": 6.0}


def test_versions_name_what_computes() -> None:
    assert {"stdcli", "python", "torch", "diffusers"} <= versions().keys()
    assert versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_links_in_a_run_are_refused_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    run, mine = RunFolder(tmp_path / "run"), tmp_path / "mine"
    mine.mkdir()
    run.root.mkdir()
    for name in ("a", "step-000001.safetensors"):
        (mine / name).write_text("{}")
    for name, use in (
        ("run.json", run.read_metadata),
        ("run.json", lambda: run.write_metadata({})),
        ("metrics.jsonl", lambda: run.rewind_reports(0)),
        ("metrics.jsonl", lambda: run.report({})),
        ("checkpoints", run.checkpoints),
        ("checkpoints", lambda: run.save(2, {"a": torch.zeros(1)})),
        (".run.json.part", lambda: run.write_metadata({})),
    ):
        (run.root / name).symlink_to(mine if name == "checkpoints" else mine / "a")
        with pytest.raises(StdcliError):
            use()
        (run.root / name).unlink()
    assert {path.name: path.read_text() for path in mine.iterdir()} == {
        "a": "{}",
        "step-000001.safetensors": "{}",
    }
    assert [path.name for path in run.root.iterdir()] == []


def test_reports_that_cannot_be_read_are_dropped_as_torn(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    good = b'{"progress/step": 1}\n'
    (tmp_path / "metrics.jsonl").write_bytes(
        good + b'\xff{"progress/step": 1}\n[1]\n{"progress/step": "x"}\n' + b"[" * 9999 + b'\n{"progress/'
    )
    run.rewind_reports(1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == good
