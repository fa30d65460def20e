"""`stdcli stylize --student`: which student runs, what it is told, and what does not fit it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stdcli.cli.main import main
from stdcli.diffusion.levels import Level, level_below
from stdcli.distill.student import save_student
from stdcli.media.image import read_image
from stdcli.models import locate
from stdcli.models.denoiser import Denoiser
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from tests.tiny_models import save_tiny_embedded
from tests.tiny_students import recipe_of, student_of, train


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_embedded(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def run_folder(model, tmp_path_factory) -> Path:
    """A run whose student was trained from 599 in 2 or 4 steps."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.json").write_text("{}")
    student = train(student_of(model))
    save_student(folder / "student", student, recipe=recipe_of(model), dtype=torch.float32)
    return folder


@pytest.fixture
def files(tmp_path) -> list[str]:
    rng = np.random.default_rng(1)
    for name in ("photo", "style"):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((64, 48), Image.Resampling.BICUBIC).save(tmp_path / f"{name}.png")
    return [str(tmp_path / "photo.png"), "--style", str(tmp_path / "style.png")]


@pytest.fixture
def stylize(files, model, capsys):
    """Run it; returns what was told on stdout as JSON (None after a refusal) and the lines of stderr."""

    def run(*options: object, code: int = 0, name: str = str(model)) -> tuple[dict | None, str]:
        common = [*files, "--model", name, "--dtype", "float32", "--device", "cpu", "--json", "--overwrite"]
        assert main(["stylize", *common, *map(str, options)]) == code
        out, err = capsys.readouterr()
        return json.loads(out) if out else None, err

    return run


def result_of(files: list[str]) -> np.ndarray:
    return read_image(Path(files[0]).with_name("photo.std.png")).rgb


def test_a_runs_student_restyles_by_its_own_recipe(stylize, files, run_folder, model) -> None:
    told, err = stylize("--student", run_folder)
    assert (told["evaluations"], told["forwards"], told["timesteps"][0]) == (4, 4, 599)
    assert "warning" not in err
    painted = result_of(files)
    record = json.loads(Path(files[0]).with_name("photo.std.png.json").read_text())
    bundle = load_model(ModelSpec(str(model), device="cpu", dtype="float32", student=str(run_folder)))
    assert record["config"]["student"] == str(run_folder)
    assert record["model"]["student"] == bundle.network.identity["student"]
    assert "trained" not in record["settings"]
    stylize("--student", "none")
    assert not np.array_equal(result_of(files), painted)
    record = json.loads(Path(files[0]).with_name("photo.std.png.json").read_text())
    assert "student" not in record["model"]
    stylize("--student", run_folder / "student" / "pytorch_lora_weights.safetensors")
    assert np.array_equal(result_of(files), painted)


CASES = {
    "strength": (["--strength", "0.3"], ["599", "0.6", "299", "0.3", "--strength 0.6"]),
    "timesteps": (["--timesteps", "499,99"], ["599", "0.6", "499", "--strength 0.6"]),
    "steps": (["--steps", "3"], ["2 or 4 steps", "not 3"]),
    "guidance": (["--guidance", "2"], ["guidance 2 doubles the forwards", "on top of the fused one"]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_student_was_not_trained_for_is_said_in_one_line(stylize, run_folder, case) -> None:
    options, words = CASES[case]
    _, err = stylize("--student", run_folder, "--dry-run", *options)
    (line,) = [line for line in err.splitlines() if line.startswith("warning")]
    assert all(word in line for word in words), line
    told, err = stylize("--student", run_folder, "--strict", *options, code=2)
    told = told or json.loads(err)
    text = json.dumps(told)
    assert "not what this student was trained for" in text and all(word in text for word in words)


def test_what_fits_is_said_nothing_about(stylize, run_folder) -> None:
    """The trained start in other words, and the other number of steps it was trained for."""
    for options in (["--strength", "0.6"], ["--strength", "0.61"], ["--steps", "2"], ["--guidance", "1"]):
        _, err = stylize("--student", run_folder, "--strict", "--dry-run", *options)
        assert "warning" not in err


def test_another_base_is_said_with_both_hashes(stylize, run_folder, model, tmp_path) -> None:
    other = save_tiny_embedded(tmp_path / "other", seed=7)
    theirs = recipe_of(model).trained.base_sha256["unet"]
    _, err = stylize("--student", run_folder, "--dry-run", name=str(other))
    (line,) = [line for line in err.splitlines() if line.startswith("warning")]
    assert theirs[:12] in line and recipe_of(other).trained.base_sha256["unet"][:12] in line
    assert f"--model {model}" in line
    stylize("--student", run_folder, "--strict", code=2, name=str(other))


def test_without_a_recipe_there_is_a_note(stylize, run_folder, tmp_path) -> None:
    bare = Path(shutil.copytree(run_folder / "student", tmp_path / "bare"))
    (bare / "recipe.json").unlink()
    told, err = stylize("--student", bare)
    assert "brings no recipe" in err
    assert told["forwards"] == 8, "the model's own recipe: four steps with guidance 2"


def test_wrong_students_are_refused_in_a_line_each(stylize, tmp_path, run_folder) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    torn = Path(shutil.copytree(run_folder / "student", tmp_path / "torn"))
    path = torn / "pytorch_lora_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    broken = Path(shutil.copytree(run_folder / "student", tmp_path / "broken"))
    (broken / "recipe.json").write_text("{}}")
    pickled = tmp_path / "student.ckpt"
    pickled.write_bytes(b"x")
    for name, words in (
        (tmp_path / "run", "this run has no student yet"),
        (tmp_path / "empty", "no .safetensors file here"),
        (torn, "damaged, cut short"),
        (broken, "cannot read this recipe"),
        (pickled, "never loaded"),
        (tmp_path / "nowhere", "no such student"),
        ("x" * 300, "cannot be looked up"),
    ):
        told, err = stylize("--student", name, code=4)
        assert words in json.dumps(told or json.loads(err)), name


def test_the_embedded_model_brings_its_student(
    stylize, files, model, run_folder, tmp_path, monkeypatch
) -> None:
    assets = Path(shutil.copytree(model, tmp_path / "embedded"))
    monkeypatch.setattr(locate, "EMBEDDED_FOLDER", assets)
    told, _ = stylize(name="embedded")
    assert told["forwards"] == 8, "the model itself, with its guidance"
    stylize("--student", "embedded", code=4, name="embedded")
    shutil.copytree(run_folder / "student", assets / "student")
    told, err = stylize(name="embedded")
    assert (told["forwards"], told["timesteps"][0]) == (4, 599)
    assert "warning" not in err
    default = result_of(files)
    record = json.loads(Path(files[0]).with_name("photo.std.png.json").read_text())
    assert record["model"]["student"]["name"] == "embedded"
    assert str(tmp_path) not in json.dumps(record["model"])
    stylize("--student", run_folder, name="embedded")
    assert np.array_equal(result_of(files), default)
    told, _ = stylize("--student", "none", name="embedded")
    assert told["forwards"] == 8
    told, _ = stylize(name=str(model))
    assert told["forwards"] == 8, "other models have none of their own"
    assert load_model(ModelSpec("embedded", device="cpu")).network.student is None, "only stylize asks for it"


def test_a_student_trained_further_is_not_taken_for_the_old_one(files, model, run_folder, tmp_path) -> None:
    """Of several inputs those made by the same settings are passed over, unless the student is newer."""
    own = Path(shutil.copytree(run_folder, tmp_path / "run"))
    shutil.copy(files[0], tmp_path / "second.png")
    command = ["stylize", str(tmp_path / "second.png"), *files, "--model", str(model), "--student", str(own)]
    command += ["-o", str(tmp_path / "out") + "/"]
    assert main(command) == 0
    made = tmp_path / "out" / "photo.std.png"
    before = made.stat().st_mtime_ns
    assert main(command) == 0
    assert made.stat().st_mtime_ns == before
    later = before + 10**9
    os.utime(own / "student" / "pytorch_lora_weights.safetensors", ns=(later, later))
    assert main([*command]) == 5, "there, and by another student: not replaced unasked"


@pytest.fixture
def told(monkeypatch) -> list[tuple[float, float]]:
    """(time, target's time) of every forward."""
    seen: list[tuple[float, float]] = []
    original = Denoiser.__call__

    def kept(self, x, t, condition, *, target_time=None):
        seen.append((float(t), target_time))
        return original(self, x, t, condition, target_time=target_time)

    monkeypatch.setattr(Denoiser, "__call__", kept)
    return seen


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_student_that_sees_its_target_is_told_the_next_level(stylize, model, tmp_path, told, kind) -> None:
    student = train(student_of(model, kind=kind, has_target_time=True))
    save_student(tmp_path / "s", student, recipe=recipe_of(model, s_embedding=True))
    stylize("--student", tmp_path / "s")
    times = [t for t, _ in told]
    assert times == [599, 459, 299, 159]
    assert [target_time for _, target_time in told] == [*times[1:], 0]
    told.clear()
    stylize("--student", tmp_path / "s", "--guidance", "3", "--steps", "2")
    assert [target_time for _, target_time in told] == [299, 0]
    told.clear()
    stylize("--student", tmp_path / "s", "--gamma", "0.3")
    bundle = load_model(ModelSpec(str(model)))
    levels = [Level(id=1, t=t, alpha=1.0, sigma=0.0) for t in times[1:]]
    below = [level_below(bundle.network.schedule, level, 0.3).t for level in levels]
    assert below == [321, 209, 111]
    assert [target_time for _, target_time in told] == [*below, 0]
    told.clear()
    stylize("--student", tmp_path / "s", "--set", "sampler=renoise")
    assert [target_time for _, target_time in told] == [0, 0, 0, 0]
