"""A student that begins as an earlier one: the same output, whatever the rank and alpha."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stdcli.distill.student import save_student
from stdcli.distill.student_start import start_from
from stdcli.errors import ConfigError, ModelError
from stdcli.models.student_files import find_student
from tests.tiny_models import save_tiny_embedded, save_tiny_sd15
from tests.tiny_students import condition_for, latents_for, recipe_of, student_of, train


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_embedded(tmp_path_factory.mktemp("model") / "m")


def saved(model: Path, folder: Path, **options: object):
    student = train(student_of(model, **options))
    save_student(folder, student, recipe=recipe_of(), dtype=torch.float32)
    return student


@torch.no_grad()
def output(student) -> torch.Tensor:
    return student(latents_for("embedded"), 500.0, condition_for("embedded"))


@pytest.mark.parametrize(
    "own", [{"rank": 3}, {"rank": 5}, {"rank": 3, "alpha": 12.0}, {"rank": 6, "alpha": 1.0, "seed": 9}]
)
def test_it_begins_with_the_same_output(model: Path, tmp_path: Path, own: dict) -> None:
    earlier = saved(model, tmp_path / "s", rank=3, alpha=1.5)
    student = student_of(model, **own)
    before = output(student)
    start_from(student, find_student(str(tmp_path / "s"), offline=True))
    assert (output(earlier) - before).abs().max() > 1e-2
    assert torch.allclose(output(student), output(earlier), atol=1e-5)


def test_full_weights_are_taken_to_the_bit(model: Path, tmp_path: Path) -> None:
    earlier = saved(model, tmp_path / "s", kind="full")
    student = student_of(model, kind="full")
    start_from(student, find_student(str(tmp_path / "s"), offline=True))
    theirs = earlier.trainable()
    assert all(torch.equal(value, theirs[name]) for name, value in student.trainable().items())


def test_an_embedder_of_the_target_time_is_taken_or_begins_at_zero(model: Path, tmp_path: Path) -> None:
    def told(student) -> torch.Tensor:
        with torch.no_grad():
            return student(latents_for("embedded"), 500.0, condition_for("embedded"), target_time=99)

    earlier = train(student_of(model, has_target_time=True))
    save_student(tmp_path / "t", earlier, recipe=recipe_of(s_embedding=True), dtype=torch.float32)
    student = student_of(model, has_target_time=True, rank=5, seed=9)
    start_from(student, find_student(str(tmp_path / "t"), offline=True))
    assert torch.allclose(told(student), told(earlier), atol=1e-5)
    blind = saved(model, tmp_path / "s")
    student = student_of(model, has_target_time=True)
    start_from(student, find_student(str(tmp_path / "s"), offline=True))
    assert torch.allclose(told(student), output(blind), atol=1e-5)
    with pytest.raises(ConfigError, match="cannot start") as caught:
        start_from(student_of(model), find_student(str(tmp_path / "t"), offline=True))
    assert caught.value.problems[0][0] == "student.s_embedding"


def test_what_does_not_fit_is_told(model: Path, tmp_path: Path) -> None:
    saved(model, tmp_path / "s", rank=3)
    found = find_student(str(tmp_path / "s"), offline=True)
    with pytest.raises(ConfigError) as caught:
        start_from(student_of(model, rank=2), found)
    assert caught.value.hint == "--rank 3"
    with pytest.raises(ConfigError, match="cannot start") as caught:
        start_from(student_of(model, kind="full"), found)
    assert caught.value.problems[0][0] == "student.kind"
    with pytest.raises(ModelError, match="does not fit"):
        start_from(student_of(save_tiny_sd15(tmp_path / "sd15")), found)
