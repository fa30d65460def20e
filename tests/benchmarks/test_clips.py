"""What clips cost beside the model itself. Run it by name: `pytest tests/benchmarks/test_clips.py -s`."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stdcli.cli.main import main
from stdcli.config.schema import StylizeConfig
from stdcli.inference.settings import resolve_sampling
from stdcli.media.probe import VideoInfo
from stdcli.media.video import VideoWriter
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec

MEASURED = """
import json, sys
from pathlib import Path
from stdcli.cli.main import main
assert main(sys.argv[1:]) == 0
lines = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss would count the parent's memory
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)
"""


def say(name: str, value: str) -> None:
    sys.stdout.write(f"\n{name}: {value}")


def write_clip(path: Path, *, side_px: int, frames: int) -> Path:
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 256, (9, 24, 3), dtype=np.uint8))
    wide = np.asarray(small.resize((3 * side_px, side_px), Image.Resampling.BICUBIC))
    with VideoWriter(path, VideoInfo(side_px, side_px, Fraction(25), frames)) as writer:
        for index in range(frames):
            left = index % (2 * side_px)
            writer.write(np.ascontiguousarray(wide[:, left : left + side_px]))
    return path


@pytest.fixture
def style(tmp_path) -> Path:
    path = tmp_path / "style.png"
    rng = np.random.default_rng(2)
    Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((256, 256)).save(path)
    return path


@pytest.mark.timeout(1800)
def test_memory_does_not_grow_with_the_clip(tmp_path, style):
    peaks = {}
    for seconds in (10, 100):
        clip = write_clip(tmp_path / f"{seconds}.mp4", side_px=128, frames=25 * seconds)
        arguments = ["stylize", str(clip), "--style", str(style), "--steps", "1", "--quiet"]
        command = [sys.executable, "-c", MEASURED, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[seconds] = json.loads(done.stdout.splitlines()[-1])
        say(f"peak memory, clip of {seconds} s", f"{peaks[seconds]:.0f} MiB")
    assert peaks[100] < 1.05 * peaks[10]


@pytest.mark.timeout(1800)
def test_throughput_against_bare_forwards(tmp_path, style, capsys):
    """Read, restyle, steady, write, all counted, beside the networks alone at the same batch.

    The networks are the denoiser, four times, and the codec; the denoiser's share is also told alone.
    """
    frames, side_px, batch = 96, 256, 4
    clip = write_clip(tmp_path / "clip.mp4", side_px=side_px, frames=frames)
    bundle = load_model(ModelSpec("embedded"))
    plan = resolve_sampling(StylizeConfig(steps=4), bundle.network.recipe, bundle.network.schedule).plan
    condition, _ = bundle.condition(styles=[Image.open(style)], size_px=(side_px, side_px), guidance=1.0)
    pixels = torch.zeros(batch, 3, side_px, side_px, device=bundle.network.device)
    seconds: dict[str, list[float]] = {}

    def networks(codec: bool) -> None:
        for _ in range(frames // batch):
            x = bundle.codec.encode(pixels)
            for level in plan.levels[:4]:
                bundle.network.denoiser(x, level.t, condition)
            if codec:
                bundle.codec.decode(x)
        x.cpu()

    for _ in range(3):
        for name, codec in (("denoiser", False), ("networks", True)):
            began_s = time.perf_counter()
            with torch.inference_mode():
                networks(codec)
            seconds.setdefault(name, []).append(time.perf_counter() - began_s)
        for temporal in ("off", "flow"):
            command = ["stylize", str(clip), "--style", str(style), "--steps", "4", "--batch", str(batch)]
            assert main([*command, "--temporal", temporal, "--json", "--overwrite"]) == 0
            told = json.loads(capsys.readouterr().out)
            seconds.setdefault(f"--temporal {temporal}", []).append(told["seconds"])
    middle_s = {name: statistics.median(values) for name, values in seconds.items()}
    with capsys.disabled():
        for name, value_s in middle_s.items():
            of_denoiser, of_networks = (middle_s[bare] / value_s for bare in ("denoiser", "networks"))
            rates = f"{of_networks:.2f} of the networks' rate, {of_denoiser:.2f} of the denoiser's alone"
            say(name, f"{frames / value_s:.2f} frames per second, {rates}")
    assert all(middle_s["networks"] / middle_s[f"--temporal {mode}"] >= 0.85 for mode in ("off", "flow"))
