"""kill -9 at random moments, then the same command: nothing lost, nothing twice, the very same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_banks import write_pictures
from tests.tiny_models import save_tiny_embedded

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


def killed(root: Path, *, kills: int, seed: int, command: list[str] | None = None) -> dict:
    """The report of `tests.killed_builders`."""
    told = json.dumps({"root": str(root), "kills": kills, "seed": seed, "command": command})
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed_builders"],
        input=told,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(report: dict) -> None:
    assert report["faults"] == [] and report["different"] == 0
    assert set(report["ends"]) == {0} and len(report["ends"]) >= 2
    assert report["partial"] > 0, "no kill fell into the building"


def test_killed_writers(tmp_path: Path) -> None:
    check(killed(tmp_path, kills=8, seed=1))


def command_of(root: Path) -> list[str]:
    model = save_tiny_embedded(root / "model")
    photos = write_pictures(root / "photos", [f"{letter}.png" for letter in "abcdefghijklm"])
    art = write_pictures(root / "art", ["x.png", "y.png"], seed=1)
    options = {"model": model, "data": photos, "style-data": art, "resolution": 32, "num-solver-steps": 5}
    options |= {"shard-size": 2, "dtype": "float32", "guidance-range": "2:5"}
    return ["bank", "build", *(str(part) for name, value in options.items() for part in (f"--{name}", value))]


@pytest.mark.slow
def test_killed_builds(tmp_path: Path) -> None:
    check(killed(tmp_path, kills=30, seed=2, command=command_of(tmp_path)))
