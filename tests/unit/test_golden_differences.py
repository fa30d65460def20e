"""The comparison behind `tests.golden.unmoved`: a planted difference of each kind is named, times are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from tests.golden.differences import differences

TENSORS = {"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.float16)}
REPORT = {"created": 1, "rows": [{"metric": "fps", "mean": 2.0}, {"metric": "edges", "mean": 0.5}]}


def fill(folder: Path, *, created: int = 1, fps: float = 2.0) -> None:
    """A folder with one result of each kind."""
    folder.mkdir()
    write_picture(folder / "p.png")
    write_tensors(folder / "t.safetensors", created=created)
    report = REPORT | {"created": created, "out": str(folder / "job")}
    report["rows"] = [{"metric": "fps", "mean": fps}, *REPORT["rows"][1:]]
    (folder / "r.json").write_text(json.dumps(report))
    (folder / "m.jsonl").write_text(json.dumps({"loss": 0.25, "time/step_ms": created}) + "\n")
    (folder / "c.mp4").write_bytes(b"frames")


def write_picture(path: Path, *, level: int = 7, steps: int = 4) -> None:
    told = PngInfo()
    told.add_text("recipe", json.dumps({"steps": steps}))
    Image.fromarray(np.full((4, 5, 3), level, np.uint8)).save(path, pnginfo=told)


def write_tensors(path: Path, *, created: int = 1, method: str = "std", **changes: torch.Tensor) -> None:
    save_file(TENSORS | changes, path, {"run": json.dumps({"created": created, "method": method})})


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders that differ in times and in where they are."""
    fill(tmp_path / "before")
    fill(tmp_path / "latest", created=2, fps=3.5)
    return tmp_path / "before", tmp_path / "latest"


def test_times_and_places_are_no_difference(folders: tuple[Path, Path]) -> None:
    assert list(differences(*folders)) == []


def edited(name: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


PLANTED = {
    "a level of a picture": (
        lambda folder: write_picture(folder / "p.png", level=8),
        "p.png: 100.0% of the values differ, by up to 1",
    ),
    "a text of a picture": (
        lambda folder: write_picture(folder / "p.png", steps=5),
        "p.png: text.recipe.steps 4 and 5",
    ),
    "one value of a tensor": (
        lambda folder: write_tensors(folder / "t.safetensors", b=torch.tensor([1, 1, 1, 2]).half()),
        "t.safetensors: tensor b differs",
    ),
    "the type of a tensor": (
        lambda folder: write_tensors(folder / "t.safetensors", a=torch.zeros(2, 3, dtype=torch.int32)),
        "t.safetensors: tensor a differs",
    ),
    "another tensor": (
        lambda folder: write_tensors(folder / "t.safetensors", c=torch.zeros(1)),
        "t.safetensors: tensor c new",
    ),
    "metadata": (
        lambda folder: write_tensors(folder / "t.safetensors", method="lcm"),
        "t.safetensors: metadata.run.method 'std' and 'lcm'",
    ),
    "a value": (edited("r.json", "0.5", "0.75"), "r.json: rows[1].mean 0.5 and 0.75"),
    "a key": (edited("r.json", "created", "made"), "r.json: created gone"),
    "an unknown key": (edited("r.json", '"out"', '"more": 1, "out"'), "r.json: more new"),
    "a row": (edited("r.json", ', {"metric": "edges", "mean": 0.5}', ""), "r.json: rows has 2 and 1 items"),
    "a key of a speed": (edited("r.json", '"mean": 3.5', '"median": 3.5'), "r.json: rows[0].mean gone"),
    "a loss": (edited("m.jsonl", "0.25", "0.125"), "m.jsonl: [0].loss 0.25 and 0.125"),
    "bytes": (edited("c.mp4", "frames", "trames"), "c.mp4: other bytes"),
    "a lost file": (lambda folder: (folder / "c.mp4").unlink(), "c.mp4: gone"),
    "a file more": (lambda folder: shutil.copy(folder / "c.mp4", folder / "d.mp4"), "d.mp4: new"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_difference_is_named(folders: tuple[Path, Path], kind: str) -> None:
    plant, line = PLANTED[kind]
    plant(folders[1])
    assert list(differences(*folders)) == [line]
