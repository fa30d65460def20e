"""Tiny teachers, banks of their paths, and the command that distills them: each made once per session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from stdcli.cli.main import main
from tests.tiny_accelerator import forget_accelerator
from tests.tiny_banks import write_pictures
from tests.tiny_models import save_tiny_embedded, save_tiny_sdxl

ROOT = Path(__file__).parents[1]
SETTINGS: dict[str, Any] = {
    "train.steps": 6,
    "train.batch_size": 2,
    "train.warmup_steps": 1,
    "train.learning_rate": 1e-3,
    "train.log_every": 2,
    "train.sample_every": 0,
    "train.checkpoint_every": 3,
    "std.window": 12,
    "student.rank": 2,
    "step_counts": "2,4",
    "steps": 2,
    "dtype": "float32",
    "device": "cpu",
}
SIDE_PX = 64  # latents of 8 x 8
PROMPTS = ("an oil painting", "a pencil drawing", "glass")


@dataclass
class Bench:
    """Where it all lies.

    Attributes:
        root: folder of the session.
    """

    root: Path
    _made: dict[str, Path] = field(default_factory=dict)

    def model(self, family: str, *, seed: int = 0) -> Path:
        """A tiny teacher, `embedded` or `sdxl`."""
        save = {"embedded": save_tiny_embedded, "sdxl": save_tiny_sdxl}[family]
        return self._once(f"{family}-{seed}", lambda folder: save(folder, seed=seed))

    @property
    def photos(self) -> Path:
        return self._once("photos", lambda folder: write_pictures(folder, [f"{c}.png" for c in "abcde"]))

    @property
    def art(self) -> Path:
        return self._once("art", lambda folder: write_pictures(folder, ["x.png", "y.png"], seed=1))

    def bank(self, family: str = "embedded", *, seed: int = 0, guidance: float = 3.0, **more: Any) -> Path:
        """A bank of ten solver steps, of which strength 0.6 takes six."""
        name = "-".join(["bank", family, str(seed), str(guidance), *map(str, more.values())])
        return self._once(name, lambda out: self._build(family, out, seed=seed, guidance=guidance, **more))

    def _build(self, family: str, out: Path, *, seed: int, guidance: float, **more: Any) -> None:
        command = ["bank", "build", "--model", self.model(family, seed=seed), "--data", self.photos]
        command += ["--resolution", SIDE_PX, "--num-solver-steps", 10, "--strength", 0.6]
        command += ["--guidance-range", guidance, "--dtype", "float32", "--device", "cpu", "-o", out]
        if family == "sdxl":
            prompts = self.root / "prompts.txt"
            prompts.write_text("\n".join(PROMPTS))
            command += ["--prompts", prompts]
        else:
            command += ["--style-data", self.art]
        command += [part for key, value in more.items() for part in ("--set", f"{key}={value}")]
        assert main([*map(str, command), "--quiet"]) == 0

    def _once(self, name: str, make) -> Path:
        if name not in self._made:
            make(self.root / name)
            self._made[name] = self.root / name
        return self._made[name]


def arguments(out: Path, *flags: Any, **settings: Any) -> list[str]:
    """Of `stdcli distill`; settings by their dotted keys with `__` for the dot."""
    named = SETTINGS | {key.replace("__", "."): value for key, value in settings.items()}
    sets = [part for key, value in named.items() for part in ("--set", f"{key}={value}")]
    return ["distill", "-o", str(out), *map(str, flags), *sets]


def distill(out: Path, *flags: Any, **settings: Any) -> int:
    """Run the command in this process; its exit code."""
    forget_accelerator()
    try:
        return main(arguments(out, *flags, **settings))
    finally:
        forget_accelerator()


def forked(**told: Any) -> dict[str, Any]:
    """The report of `tests.forked_runs`."""
    command = [sys.executable, "-m", "tests.forked_runs"]
    done = subprocess.run(
        command,
        input=json.dumps(told),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"err": done.stderr}


def environment(**more: str) -> dict[str, str]:
    """Of other processes."""
    own = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return os.environ | own | {"ACCELERATE_USE_CPU": "1", "GLOO_SOCKET_IFNAME": "lo"} | more


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Of the student that a run left."""
    return load_file(out / "student" / "pytorch_lora_weights.safetensors")


def checkpoint(out: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"step-{step:06d}.safetensors")


def reports(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def recipe(out: Path) -> dict[str, Any]:
    return json.loads((out / "student" / "recipe.json").read_text())


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
