"""Stopped, killed, finished, damaged and foreign runs: what the same command makes of them."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from stdcli.bank.reader import Bank
from stdcli.config.distill import DistillConfig
from stdcli.distill import requirements
from stdcli.distill.distill_run import open_run
from stdcli.distill.methods.std import Std
from stdcli.errors import ConfigError
from stdcli.runtime.free_memory import Room
from stdcli.training.run_files import hold_run
from stdcli.training.run_folder import RunFolder
from stdcli.training.train_step import TrainStep
from tests.tiny_models import save_tiny_embedded
from tests.tiny_runs import (
    Bench,
    arguments,
    bytes_of,
    checkpoint,
    distill,
    forked,
    reports,
    same,
    weights,
)

STOPPED_AT = 4  # between the checkpoints at 3 and 6
TARGET = {"std__target": "mix", "std__target_weights": "average"}  # two averages


@pytest.fixture(scope="module")
def straight(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("straight") / "run"
    assert distill(out, "--bank", bench.bank(), "--quiet", **TARGET) == 0
    return out


def assert_same(straight: Path, other: Path) -> None:
    assert bytes_of(straight / "student") == bytes_of(other / "student")
    assert same(checkpoint(straight, 6), checkpoint(other, 6))
    for one, two in zip(reports(straight)[-1:], reports(other)[-1:], strict=True):
        assert one["progress/step"] == two["progress/step"] == 6


def interrupt_at(number: int, patched: pytest.MonkeyPatch, *, by: int = signal.SIGINT) -> None:
    step = TrainStep.take

    def take(self: TrainStep, at: int) -> dict[str, float]:
        facts = step(self, at)
        if at == number - 1:
            signal.raise_signal(by)
        return facts

    patched.setattr(TrainStep, "take", take)


@pytest.mark.slow
def test_the_same_command_again_gives_the_same_bytes(straight: Path, bench: Bench, tmp_path: Path) -> None:
    assert distill(tmp_path / "run", "--bank", bench.bank(), "--quiet", **TARGET) == 0
    assert_same(straight, tmp_path / "run")


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(
    straight: Path, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patched:
        interrupt_at(STOPPED_AT, patched, by=signal.SIGTERM)
        assert distill(out, "--bank", bench.bank(), **TARGET) == 130
    err = capsys.readouterr().err
    assert f"stopped at step {STOPPED_AT}; the same command goes on with {out}" in err
    assert json.loads((out / "run.json").read_text())["state"] == "running"
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == ["step-000003.safetensors", "step-000004.safetensors"] and not (out / "student").exists()
    with pytest.MonkeyPatch.context() as patched:  # a second time, on the very step of a checkpoint
        interrupt_at(5, patched, by=signal.SIGHUP)
        assert distill(out, "--bank", bench.bank(), **TARGET) == 130
    assert distill(out, "--bank", bench.bank(), **TARGET, train__log_every=1) == 0
    assert "going on from step 5" in capsys.readouterr().err
    assert_same(straight, out)


def test_every_file_of_a_run_has_the_mode_of_a_new_file(straight: Path, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    usual = (tmp_path / "new").stat().st_mode
    files = [path for path in straight.rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    assert {path.name: path.stat().st_mode for path in files if path.stat().st_mode != usual} == {}


def test_a_run_stopped_before_its_student_was_saved_saves_it(
    straight: Path, bench: Bench, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight, out)
    shutil.rmtree(out / "student")
    assert distill(out, "--bank", bench.bank(), "--quiet", **TARGET) == 0
    assert_same(straight, out)


def test_a_finished_run_is_left_alone(
    straight: Path, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert distill(out, "--bank", bench.bank(), **TARGET) == 0
    assert capsys.readouterr().out == f"finished already: {out / 'student'}\n"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    shutil.rmtree(out / "checkpoints")  # they are only needed to go on
    assert distill(out, "--bank", bench.bank(), "--quiet", **TARGET) == 0


@pytest.mark.slow
def test_a_moved_bank_is_the_same_bank(straight: Path, bench: Bench, tmp_path: Path) -> None:
    out, bank = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(straight, out)
    shutil.rmtree(out / "student")
    shutil.copytree(bench.bank(), bank)
    assert distill(out, "--bank", bank, "--quiet", **TARGET) == 0
    assert_same(straight, out)


def test_another_setting_is_refused(straight: Path, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    before = bytes_of(straight)
    assert distill(straight, "--bank", bench.bank(), **TARGET, train__learning_rate=2e-3) == 2
    assert "train.learning_rate: 0.001 in the run that is there, 0.002 now" in capsys.readouterr().err
    assert bytes_of(straight) == before


def test_a_finished_run_is_made_longer(
    straight: Path, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight, out)
    assert distill(out, "--bank", bench.bank(), **TARGET, train__steps=7) == 0
    err = capsys.readouterr().err
    assert "going on from step 6" in err and "the outcome will not be that of 7 steps from the start" in err
    assert json.loads((out / "run.json").read_text())["steps"] == 7
    assert bytes_of(out / "student") != bytes_of(straight / "student")
    last = reports(out)[-1]
    assert last["progress/step"] == 7 and last["lr/student"] == pytest.approx(
        1e-3 * (1 + math.cos(math.pi * 5 / 6)) / 2
    )


def test_longer_is_the_same_as_from_the_start_where_the_rate_is_constant(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constant = {"train__schedule": "constant", **TARGET}
    for out, *steps in ((tmp_path / "twice", 2, 3), (tmp_path / "once", 3)):
        for count in steps:
            assert distill(out, "--bank", bench.bank(), **constant, train__steps=count) == 0
    assert "from the start" not in capsys.readouterr().err
    assert bytes_of(tmp_path / "once" / "student") == bytes_of(tmp_path / "twice" / "student")
    assert same(checkpoint(tmp_path / "once", 3), checkpoint(tmp_path / "twice", 3))


def test_a_run_starts_from_a_student_and_goes_on_without_it(
    straight: Path, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step at a vanishing rate leaves the student that it began with."""
    earlier, out = tmp_path / "earlier", tmp_path / "run"
    shutil.copytree(straight / "student", earlier)
    flags = ["--bank", bench.bank(), "--init", earlier]
    options = {"train__learning_rate": 1e-12, "train__schedule": "constant", "train__warmup_steps": 0}
    assert distill(out, *flags, **options, train__steps=1) == 0
    assert f"starting as the student {earlier}" in capsys.readouterr().err
    before, after = weights(straight), weights(out)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert any(bool(value.abs().max() > 1e-4) for name, value in after.items() if "lora_B" in name)
    shutil.rmtree(earlier)  # needed at the start alone
    assert distill(out, *flags, "--quiet", **options, train__steps=2) == 0


def test_the_disk_that_is_told_is_that_of_three_checkpoints_and_the_student(
    straight: Path, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert distill(out, "--bank", bench.bank(), "--dry-run", "--json", **TARGET) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["disk_bytes"]
    kept = sum(value.nbytes for value in checkpoint(straight, 6).values())
    assert told == 3 * kept + sum(2 * value.numel() for value in weights(straight).values())
    assert not out.exists()


def test_what_does_not_fit_is_told_before_it_is_loaded_or_written(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(requirements, "measure_room", lambda: Room(1000, 1000, 0, limited=False))
        assert distill(tmp_path / "run", "--bank", bench.bank(), "--student", "full") == 7
    err = capsys.readouterr().err
    assert "not enough memory to train full weights" in err and "loading" not in err
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(1000))
    assert distill(tmp_path / "run", "--bank", bench.bank()) == 7
    assert "the disk is too small for the run" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_unfinished_run_keeps_its_length(
    straight: Path, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = unfinished(straight, tmp_path / "run")
    for steps in (4, 8):
        assert distill(out, "--bank", bench.bank(), **TARGET, train__steps=steps) == 2
        assert f"train.steps: 6 in the run that is there, {steps} now" in capsys.readouterr().err


def test_two_at_once_and_files_of_others(
    straight: Path, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight, out)
    before = bytes_of(out)
    with hold_run(RunFolder(out)):
        assert distill(out, "--bank", bench.bank(), "--overwrite", **TARGET) == 2
        assert "another process is training this run" in capsys.readouterr().err
    (out / "student" / "notes.txt").write_text("mine")
    assert distill(out, "--bank", bench.bank(), "--overwrite", **TARGET) == 2
    assert "student/notes.txt" in capsys.readouterr().err
    facts = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(facts | {"state": "running"}))  # going on would replace it too
    assert distill(out, "--bank", bench.bank(), **TARGET) == 2
    assert bytes_of(out).keys() - before.keys() == {"student/notes.txt"}
    assert all(bytes_of(out)[name] == data for name, data in before.items() if name != "run.json")


def test_another_bank_is_refused(
    straight: Path, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "run", bench.bank(guidance=1.0)
    shutil.copytree(straight, out)
    shutil.rmtree(out / "student")
    assert distill(out, "--bank", other, **TARGET) == 2
    err = capsys.readouterr().err
    assert "this run began otherwise" in err and "shards: " in err
    assert all(Bank(bank).manifest.fingerprint() in err for bank in (bench.bank(), other))


def test_another_number_of_processes_is_refused(straight: Path) -> None:
    facts = RunFolder(straight).read_metadata()
    assert facts["learned"]["processes"] == 1 and len(facts["learned"]["shards"]) == 64
    config = DistillConfig.model_validate(facts["config"])
    with pytest.raises(ConfigError) as caught:
        open_run(RunFolder(straight), config, facts["learned"] | {"processes": 2}, overwrite=False)
    assert "processes: 1 in the run that is there, 2 now" in caught.value.render()


def test_a_folder_with_other_files_is_refused(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "novel.txt").write_text("chapter 1")
    assert distill(tmp_path, "--bank", bench.bank()) == 2
    assert distill(tmp_path, "--bank", bench.bank(), "--overwrite") == 2
    assert "not empty and holds no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["novel.txt"]


def unfinished(straight: Path, out: Path) -> Path:
    """A copy of a run as a crash before its last steps leaves it."""
    shutil.copytree(straight, out)
    shutil.rmtree(out / "student")
    (out / "checkpoints" / "step-000006.safetensors").unlink()
    facts = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(facts | {"state": "running"}))
    return out


def test_a_crashed_run_goes_on_from_its_last_checkpoint(straight: Path, bench: Bench, tmp_path: Path) -> None:
    out = unfinished(straight, tmp_path / "run")
    assert distill(out, "--bank", bench.bank(), "--quiet", **TARGET) == 0
    assert_same(straight, out)
    assert [row["progress/step"] for row in reports(out)] == [2, 4, 6]


def test_without_checkpoints_a_run_is_not_begun_anew_unasked(
    straight: Path, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = unfinished(straight, tmp_path / "run")
    shutil.rmtree(out / "checkpoints")
    assert distill(out, "--bank", bench.bank(), **TARGET) == 2
    assert "no checkpoint left" in capsys.readouterr().err
    assert distill(out, "--bank", bench.bank(), "--overwrite", "--quiet", **TARGET) == 0
    assert_same(straight, out)


def damage(path: Path) -> Path:
    """One bit of it, as a disk may."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return path


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(
    straight: Path, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight, out)
    shutil.rmtree(out / "student")
    path = damage(out / "checkpoints" / "step-000006.safetensors")
    assert distill(out, "--bank", bench.bank(), **TARGET) == 0
    err = capsys.readouterr().err
    assert f"warning: {path} is damaged" in err and "going on from step 3" in err
    assert_same(straight, out)


def test_without_a_whole_checkpoint_nothing_is_begun_unasked(
    straight: Path, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = unfinished(straight, tmp_path / "run")
    path = out / "checkpoints" / "step-000003.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert distill(out, "--bank", bench.bank(), **TARGET) == 1
    err = capsys.readouterr().err
    assert "damaged checkpoint" in err and str(path) in err and path.exists()


def test_a_checkpoint_of_another_student_is_told(
    straight: Path, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = unfinished(straight, tmp_path / "run")
    facts = json.loads((out / "run.json").read_text())
    facts["config"]["student"]["rank"] = 3
    (out / "run.json").write_text(json.dumps(facts))
    assert distill(out, "--bank", bench.bank(), **TARGET, student__rank=3) == 1
    assert "not of such a run" in capsys.readouterr().err


def test_a_bank_of_another_teacher_names_both_hashes(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_tiny_embedded(tmp_path / "other", seed=7)
    assert distill(tmp_path / "run", "--bank", bench.bank(), "--model", other) == 3
    err = capsys.readouterr().err
    there = Bank(bench.bank()).manifest.model["unet_sha256"]
    assert "these paths are of another teacher" in err and f"unet_sha256: {there} there, " in err
    assert not (tmp_path / "run").exists()


def test_defect_19_a_prediction_is_never_relabelled(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(bench.model("embedded"), other)
    path = other / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    there = config["prediction_type"]
    now = "epsilon" if there == "v_prediction" else "v_prediction"
    path.write_text(json.dumps(config | {"prediction_type": now}))
    assert distill(tmp_path / "run", "--bank", bench.bank(), "--model", other) == 3
    assert f"prediction: {there} there, {now} here" in capsys.readouterr().err


@pytest.mark.slow
def test_a_moved_teacher_is_the_same_teacher(straight: Path, bench: Bench, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(bench.model("embedded"), moved)
    out = tmp_path / "run"
    assert distill(out, "--bank", bench.bank(), "--model", moved, "--quiet", **TARGET) == 0
    assert bytes_of(straight / "student") == bytes_of(out / "student")


def test_nan_names_step_samples_dtype_and_the_last_good_checkpoint(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, target, asked = tmp_path / "run", Std.target, []

    def broken(self, roles, batch):
        asked.append(batch.sample_ids.tolist())
        if len(asked) == 5:
            damage(out / "checkpoints" / "step-000004.safetensors")
        value = target(self, roles, batch)
        return value * math.nan if len(asked) == 5 else value

    monkeypatch.setattr(Std, "target", broken)
    assert distill(out, "--bank", bench.bank(), train__checkpoint_every=2) == 9
    err = " ".join(capsys.readouterr().err.split())
    assert "loss/student is not finite" in err and "step 4, float32, samples " in err
    assert ", ".join(map(str, asked[-1])) in err
    assert f"last good checkpoint: {out / 'checkpoints' / 'step-000002.safetensors'}" in err
    assert all(bool(value.isfinite().all()) for value in checkpoint(out, 2).values())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"step_counts": "2,8"}, "step_counts: 8 steps are not in 1..6"),
        ({"steps": 3}, "steps: 3 is not among step_counts [2, 4]"),
        ({"adversary__weight": 1, "adversary__real": "style"}, "style_data: is needed"),
    ],
)
def test_settings_that_do_not_fit(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict, told: str
) -> None:
    assert distill(tmp_path / "run", "--bank", bench.bank(), **settings) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_fsdp_is_refused_with_one_line(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert distill(tmp_path / "run", "--bank", bench.bank()) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert errors == ["error: FSDP is not supported yet"]


def assert_survives(bench: Bench, straight: Path, out: Path, *, kills: int, seed: int) -> None:
    command = arguments(out, "--bank", bench.bank(), "--quiet", **TARGET)
    report = forked(kind="kills", command=command, kills=kills, seed=seed, out=str(out))
    assert report["end"] == 0 and report["torn"] == []
    assert report["partial"] > 0, "no kill fell into the run"
    assert_same(straight, out)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_killed_runs(straight: Path, bench: Bench, tmp_path: Path) -> None:
    assert_survives(bench, straight, tmp_path / "run", kills=3, seed=1)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_many_killed_runs(straight: Path, bench: Bench, tmp_path: Path) -> None:
    assert_survives(bench, straight, tmp_path / "run", kills=10, seed=2)
