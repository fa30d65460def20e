"""What the jobs of `tests.golden.unmoved` work on: pictures, a clip, tiny models, their students.

Made once, from this tree: both trees get the same folder, so that only their code can make a difference.
"""

from __future__ import annotations

import csv
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from PIL import Image

from stdcli.distill.student import save_student
from tests.tiny_banks import write_pictures
from tests.tiny_models import (
    add_style_adapter,
    save_tiny_embedded,
    save_tiny_lora,
    save_tiny_sd15,
    save_tiny_sdxl,
)
from tests.tiny_pictures import HELD_OUT, write_ramps
from tests.tiny_students import recipe_of, student_of, train

PROMPTS = ("an oil painting", "a pencil drawing", "glass")
SUITE = """
task: eval
title: Teacher and student
size: 64
metrics: [palette, texture, edges, ssim]
dtype: float32
device: cpu
methods:
  - name: teacher
    steps: [3, 2]
    settings: {student: none, model: ../../inputs/models/embedded}
  - name: student
    steps: 2
    settings: {student: ../../inputs/students/embedded, model: ../../inputs/models/embedded}
"""


def make_inputs(folder: Path) -> None:
    """Fill an empty folder; about ten seconds."""
    write_pictures(folder / "photos", [f"{name}.png" for name in "abcde"])
    write_pictures(folder / "art", ["x.png", "y.png"], seed=1)
    _write_odd_pictures(folder)
    _write_clip(folder)
    _write_models(folder)
    _write_paintings(folder / "painter")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    (folder / "suite.yaml").write_text(SUITE)
    for name in ("broken.png", "broken.mp4", "broken.safetensors"):
        (folder / name).write_bytes(b"this is none")


def _write_odd_pictures(folder: Path) -> None:
    rng = np.random.default_rng(2)
    rgba = Image.fromarray(rng.integers(0, 256, (4, 5, 4), dtype=np.uint8))
    rgba.resize((61, 75), Image.Resampling.BICUBIC).save(folder / "cutout.png")
    mask = np.zeros((70, 84), np.uint8)
    mask[20:50, 30:61] = 255
    Image.fromarray(mask).save(folder / "mask.png")


def _write_clip(folder: Path) -> None:
    """Twelve frames that move to the right over a still ground, and the same as numbered pictures."""
    ground = np.asarray(Image.open(folder / "photos/a.png").resize((96, 64)))
    frames = np.stack([ground] * 12)
    for n, frame in enumerate(frames):
        frame[20:40, 4 * n : 4 * n + 24] = (220, 60, 30)
    iio.imwrite(folder / "clip.mp4", frames, fps=12, codec="libx264", output_params=["-threads", "1"])
    (folder / "shot").mkdir()
    for n, frame in enumerate(frames[:4]):
        Image.fromarray(frame).save(folder / f"shot/{n:05d}.png")


def _write_models(folder: Path) -> None:
    models = folder / "models"
    save_tiny_embedded(models / "embedded")
    add_style_adapter(save_tiny_sd15(models / "sd15"))
    add_style_adapter(save_tiny_sdxl(models / "sdxl"))
    add_style_adapter(save_tiny_sd15(models / "sd15-v", prediction_type="v_prediction"), plus=True)
    for family in ("embedded", "sd15", "sdxl"):
        student = train(student_of(models / family))
        place = folder / "students" / family
        save_student(place, student, recipe=recipe_of(models / family), dtype=torch.float32)
    save_tiny_lora(folder / "lora/sd15.safetensors", models / "sd15", style="kohya", alpha=1.0)
    save_tiny_lora(folder / "lora/sdxl.safetensors", models / "sdxl", style="kohya-sgm", alpha=1.0)
    broken = save_tiny_embedded(models / "nan")
    (path,) = (broken / "unet").glob("*.safetensors")
    _spoil(path)


def _spoil(path: Path) -> None:
    """Make every weight of a file not a number."""
    from safetensors.torch import load_file, save_file

    save_file({name: torch.full_like(value, torch.nan) for name, value in load_file(path).items()}, path)


def _write_paintings(folder: Path) -> None:
    """Photos, styles and paintings with the list that says which belongs to which."""
    for seed, name in enumerate(("content", "style", "painted")):
        write_ramps(folder / name, seed=seed)
    with (folder / "painted/index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "photo", "x", "y", "side", "style"))
        names = (f"p{n:02d}.png" for n in range(20))
        writer.writerows(
            (name, f"content/{name}", 3, 1, 40, "style/p05.png") for name in names if name not in HELD_OUT
        )
