"""Inpainting by students of 4 steps on the same masks. Run it by name, with pictures of your own:

    STDCLI_BENCH_MASKS=FOLDER STDCLI_BENCH_STYLES=FOLDER STDCLI_BENCH_LCM=STUDENT \
        pytest tests/benchmarks/test_inpainting.py -s

FOLDER of masks holds NAME.jpg beside NAME_mask.png. Beside the methods of `stdcli inpaint` stands the naive
way: the whole picture restyled by the same student, and its masked part pasted.

palette: of the masked pixels, distance to the style. seam: mean step of brightness between neighbours on both
sides of the mask's border, over that of the source. ring: mean gradient within 8 pixels inside the border, of
255, less that of the source. Where the sheet of pictures is, is printed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stdcli.cli.main import main
from stdcli.inference.repaint import fade_in
from stdcli.media.arrays import resize
from stdcli.media.image import read_image
from stdcli.metrics import palette
from stdcli.metrics.metric import Subject
from tests.tiny_subjects import NoBackbones

MASKS, STYLES, LCM = (os.environ.get(f"STDCLI_BENCH_{name}") for name in ("MASKS", "STYLES", "LCM"))
pytestmark = pytest.mark.skipif(not (MASKS and STYLES), reason="STDCLI_BENCH_MASKS and STDCLI_BENCH_STYLES")
PAIRS, RING_PX, SHEET_PX = 4, 8, 256


def gray(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(np.float64) @ (0.299, 0.587, 0.114)


def across(rgb: np.ndarray, mask: np.ndarray) -> float:
    """Mean step of brightness between neighbours of which one is masked."""
    values, steps = gray(rgb), []
    for axis in (0, 1):
        border = np.diff(mask.astype(int), axis=axis) != 0
        steps.append(np.abs(np.diff(values, axis=axis))[border])
    return float(np.concatenate(steps).mean())


def ring_change(rgb: np.ndarray, source: np.ndarray, mask: np.ndarray) -> float:
    weight = fade_in(mask[None], RING_PX)[0]
    ring = mask & (weight < 1)
    gradients = [np.hypot(*np.gradient(gray(picture)))[ring].mean() for picture in (rgb, source)]
    return float(gradients[0] - gradients[1])


def methods() -> dict[str, list[str]]:
    known = {"STD": ["--steps", "4"], "teacher, 30 steps": ["--student", "none", "--steps", "30"]}
    return known | ({"LCM": ["--steps", "4", "--student", LCM]} if LCM else {})


def test_students_on_the_same_masks(tmp_path: Path) -> None:
    styles = sorted(path for path in Path(STYLES).iterdir() if path.suffix in (".png", ".jpg"))
    masks = sorted(Path(MASKS).glob("*_mask.png"))[:PAIRS]
    figures: dict[str, list[tuple[float, ...]]] = {}
    rows = []
    for number, mask_path in enumerate(masks):
        photo = mask_path.with_name(mask_path.name.replace("_mask.png", ".jpg"))
        style = styles[(5 * number + 2) % len(styles)]
        source, mask = read_image(photo).rgb, read_image(mask_path).rgb.max(axis=2) >= 128
        results = {}
        for name, flags in methods().items():
            out = tmp_path / f"{number}-{len(results)}.png"
            painted = ["inpaint", str(photo), "--mask", str(mask_path), "--style", str(style), "-q"]
            assert main([*painted, "--feather", "0", *flags, "-o", str(out)]) == 0
            results[name] = read_image(out).rgb
        out = tmp_path / f"{number}-naive.png"
        assert main(["stylize", str(photo), "--style", str(style), "--steps", "4", "-q", "-o", str(out)]) == 0
        results["naive paste, STD"] = np.where(mask[..., None], read_image(out).rgb, source)
        reference = read_image(style).rgb
        for name, rgb in results.items():
            inside = Subject(rgb[mask][None, None], styles=(reference,))
            seam = across(rgb, mask) / across(source, mask)
            found = palette.METRIC.measure(inside, NoBackbones()), seam, ring_change(rgb, source, mask)
            figures.setdefault(name, []).append(found)
        shown = [source, np.repeat(mask[..., None] * np.uint8(255), 3, 2), reference, *results.values()]
        rows.append(np.concatenate([resize(np.ascontiguousarray(p), SHEET_PX, SHEET_PX) for p in shown], 1))
    sheet = tmp_path / "sheet.png"
    Image.fromarray(np.concatenate(rows)).save(sheet)
    sys.stdout.write(f"\n{len(masks)} pictures, {sheet}; method: palette inside, seam, ring")
    for name, values in figures.items():
        found = np.mean(values, axis=0)
        sys.stdout.write(f"\n{name}: {found[0]:.2f}, {found[1]:.2f}, {found[2]:+.2f}")
    seams = {name: np.mean([value[1] for value in values]) for name, values in figures.items()}
    assert seams["STD"] < 1.02 * seams["naive paste, STD"], "fits as well as pasting"
