"""How steady clips are. Run it by name, with clips and a style of your own:

    STDCLI_BENCH_VIDEOS=FOLDER STDCLI_BENCH_STYLE=PICTURE pytest tests/benchmarks/test_steadiness.py -s

Warping error: that of `stdcli.metrics.warping` under its default protocol. A blurred clip has less of it, so
the table also gives detail: the mean gradient of the last frames over that of mode "off".
"""

from __future__ import annotations

import os
import sys
import time
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stdcli.config.schema import StylizeConfig
from stdcli.diffusion.colors import color_statistics, match_colors, pool_colors
from stdcli.errors import MediaError
from stdcli.inference.image_to_image import ImageToImage
from stdcli.inference.settings import resolve_sampling
from stdcli.inference.temporal_blend import TemporalBlend
from stdcli.media.arrays import resize
from stdcli.media.image import read_image
from stdcli.media.probe import probe
from stdcli.media.tensors import to_tensor, to_uint8
from stdcli.media.video import iter_frames
from stdcli.metrics.optical_flow import dis_flows
from stdcli.metrics.warping import WarpProtocol, warping_error
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec

DEFAULT = StylizeConfig().temporal  # the mode that is held to the limit
LIMIT = 0.5  # of the error of fresh noise for every frame
NUM_FRAMES, SIDE_PX, BATCH = 24, 256, 4

FOLDER, STYLE = os.environ.get("STDCLI_BENCH_VIDEOS"), os.environ.get("STDCLI_BENCH_STYLE")
pytestmark = pytest.mark.skipif(not (FOLDER and STYLE), reason="STDCLI_BENCH_VIDEOS and STDCLI_BENCH_STYLE")
CLIPS = sorted(path for path in Path(FOLDER or ".").iterdir() if path.suffix in (".mp4", ".webm", ".mov"))


def read_clip(path: Path) -> list[np.ndarray]:
    """The first frames, uint8, the longer side as computed, sides multiples of 8."""
    try:
        info = probe(path)
    except MediaError:  # no constant rate of its own
        info = probe(path, fps=Fraction(25))
    frames = list(islice(iter_frames(path, info), NUM_FRAMES))
    scale = SIDE_PX / max(frames[0].shape[:2])
    height, width = (round(side * scale / 8) * 8 for side in frames[0].shape[:2])
    return [resize(frame, height, width) for frame in frames]


def detail(frames: np.ndarray) -> float:
    gray = frames[-8:].astype(float).mean(3)
    return np.hypot(np.diff(gray, axis=1)[:, :, :-1], np.diff(gray, axis=2)[:, :-1]).mean()


@pytest.fixture(scope="module")
def bundle():
    return load_model(ModelSpec("embedded", device="cpu", dtype="float32"))


def restyled(bundle, source: list[np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Results by name, and seconds per frame of those that take any."""
    settings = resolve_sampling(StylizeConfig(style=(STYLE,)), bundle.network.recipe, bundle.network.schedule)
    style = read_image(Path(STYLE)).rgb
    scale = (source[0][..., 0].size / style[..., 0].size) ** 0.5
    small = resize(style, *(round(side * scale) for side in style.shape[:2]))
    wanted = color_statistics(to_tensor(small) / 2 + 0.5)
    pixels = torch.cat([to_tensor(frame) for frame in source])
    content = pool_colors([color_statistics(pixels / 2 + 0.5)])
    size, images = source[0].shape[:2], [Image.fromarray(style)]
    condition, _ = bundle.condition(styles=images, size_px=size, guidance=1.0)

    def run(start: int, count: int, seed: int) -> torch.Tensor:
        stylizer = ImageToImage(bundle, settings, condition, None, wanted, seed, content)
        return stylizer(pixels[start : start + count])

    results = {
        "source": np.stack(source),
        "colours": to_uint8(match_colors(pixels / 2 + 0.5, wanted, content=content) * 2 - 1),
        "fresh": to_uint8(torch.cat([run(index, 1, 1000 + index) for index in range(len(source))])),
    }
    seconds = {}
    began_s = time.perf_counter()
    results["off"] = to_uint8(torch.cat([run(index, BATCH, 0) for index in range(0, len(source), BATCH)]))
    seconds["off"] = (time.perf_counter() - began_s) / len(source)
    for mode in ("blend", "flow"):
        began_s, memory = time.perf_counter(), TemporalBlend(mode)
        parts = (slice(start, start + BATCH) for start in range(0, len(source), BATCH))
        steadied = [memory.steady(results["source"][part], results["off"][part]) for part in parts]
        results[mode] = np.concatenate(steadied)
        seconds[mode] = seconds["off"] + (time.perf_counter() - began_s) / len(source)
    return results, seconds


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_warping_error(bundle, path):
    source = read_clip(path)
    pytest.importorskip("cv2")
    flows = dis_flows(np.stack(source))
    results, seconds = restyled(bundle, source)
    errors = {name: warping_error(frames, flows, WarpProtocol()) for name, frames in results.items()}
    sys.stdout.write(f"\n{path.stem}: {', '.join(f'{name} {error:.4f}' for name, error in errors.items())}\n")
    for mode, seconds_per_frame in seconds.items():
        ratio, kept = errors[mode] / errors["fresh"], detail(results[mode]) / detail(results["off"])
        sys.stdout.write(
            f"  {mode}: {ratio:.2f} of fresh, detail {kept:.2f}, {1 / seconds_per_frame:.2f} frames/s\n"
        )
    floor = errors["colours"] / errors["fresh"]
    if floor > LIMIT:
        sys.stdout.write(f"  the colours alone, without any noise: {floor:.2f} of fresh, over {LIMIT}\n")
    assert errors[DEFAULT] <= max(LIMIT, floor) * errors["fresh"]
