"""Definite paintings: whom they belong to, where they lie, what is made of them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stdcli.diffusion.colors import color_statistics, match_colors
from stdcli.errors import MediaError
from stdcli.teacher.paintings import blur, load_paintings, with_layout
from tests.tiny_pictures import HELD_OUT

HELD_PHOTO, HELD_STYLE = HELD_OUT
PLACES = [
    ("a.png", "p00.png", (4, 2, 40), "p01.png"),
    ("b.png", "p00.png", (0, 0, 48), "p03.png"),
    ("c.png", HELD_PHOTO, (0, 0, 48), "p01.png"),
    ("d.png", HELD_PHOTO, (0, 0, 48), HELD_STYLE),
]
ROWS = [
    {"file": file, "photo": f"content/{photo}", "x": x, "y": y, "side": side, "style": f"style/{style}"}
    for file, photo, (x, y, side), style in PLACES
]


def write_index(folder: Path, rows: list[dict], columns: list[str] | None = None) -> None:
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns or list(ROWS[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    names = {row[key] for row in ROWS for key in ("photo", "style")} | {f"painted/{r['file']}" for r in ROWS}
    for name in sorted(names):
        (root / name).parent.mkdir(exist_ok=True)
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC).save(root / name)
    write_index(root / "painted", ROWS)
    return root / "painted"


def small(path: Path, box: tuple[int, int, int, int]) -> torch.Tensor:
    crop = Image.open(path).convert("RGB").crop(box).resize((256, 256), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1)[None].float() / 255


def test_sides_are_told_apart_by_photo_and_style(folder: Path) -> None:
    train, held = (load_paintings(folder, held_out=side) for side in (False, True))
    assert len(train) == 2 and train.style_names == ("p01.png", "p03.png")
    assert train.style_of.tolist() == [0, 1]
    assert len(held) == 1 and held.style_names == (HELD_OUT[1],)


def test_photos_get_the_colors_and_paintings_the_layout_too(folder: Path) -> None:
    train = load_paintings(folder, held_out=False)
    style = small(folder.parent / "style/p01.png", (8, 0, 56, 48))
    assert (train.styles[0].float() / 255 - style).abs().max() < 1e-6
    photo = match_colors(small(folder.parent / "content/p00.png", (4, 2, 44, 42)), style)
    assert (train.photos[0].float() / 255 - photo[0].clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6
    painting = match_colors(small(folder / "a.png", (8, 0, 56, 48)), style)
    target = train.targets[0][None].float() / 255
    assert (target - with_layout(painting, photo)).abs().max() <= 0.5 / 255 + 1e-6
    layouts = [blur(picture, 8.0) for picture in (target, photo, painting)]
    assert (layouts[0] - layouts[1]).abs().mean() < 0.5 * (layouts[2] - layouts[1]).abs().mean()
    means = [color_statistics(picture).mean for picture in (photo, style)]
    assert torch.allclose(*means, atol=0.02)


def test_blurring_is_a_gaussian() -> None:
    picture = torch.zeros(1, 2, 41, 41)
    picture[:, :, 20, 20] = 1
    found = blur(picture, 2.0)[0, 1].double()
    at = torch.arange(-20, 21.0).double()
    weights = torch.exp(-(at**2) / 8)
    truth = weights[:, None] * weights / (weights.sum() ** 2)
    assert (found - truth).abs().max() < 2e-4
    assert torch.equal(blur(picture, 0.0), picture)
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert torch.allclose(blur(flat, 8.0), flat)  # a reach beyond the picture, too


def test_layout_is_what_a_gaussian_of_eight_pixels_leaves() -> None:
    """Of a wave of 32 pixels it leaves exp(-2 (8 pi / 32)^2), which the other picture replaces."""
    wave = torch.cos(2 * torch.pi * torch.arange(256) / 32).expand(1, 3, 256, 256)
    found = with_layout(0.5 + 0.3 * wave, torch.full_like(wave, 0.5))
    left = 1 - np.exp(-2 * (8 * np.pi / 32) ** 2)
    inner = (..., slice(64, -64))
    assert torch.allclose(found[inner], 0.5 + 0.3 * left * wave[inner], atol=0.005)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": 30}, "square of the index is not in its photo"),
        ({"side": 0}, "square of the index is not in its photo"),
        ({"y": "low"}, "row of the index has no square"),
        ({"photo": "content/p99.png"}, "p99.png"),
    ],
)
def test_rows_that_cannot_be_read_are_named(folder: Path, tmp_path: Path, change: dict, message: str) -> None:
    painted = tmp_path / "painted"
    painted.mkdir()
    for name in ("content", "style"):
        (tmp_path / name).symlink_to(folder.parent / name)
    (painted / "a.png").symlink_to(folder / "a.png")
    write_index(painted, [ROWS[0] | change])
    with pytest.raises(MediaError, match=message):
        load_paintings(painted, held_out=False)


def test_an_index_is_needed_and_its_columns(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="need an index"):
        load_paintings(tmp_path, held_out=False)
    write_index(tmp_path, ROWS, ["file", "photo", "style"])
    with pytest.raises(MediaError, match="lacks columns"):
        load_paintings(tmp_path, held_out=False)
    write_index(tmp_path, [])
    with pytest.raises(MediaError, match="no paintings of this side"):
        load_paintings(tmp_path, held_out=False)
