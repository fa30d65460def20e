"""Reading pictures, splitting them by name, cropping them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from stdcli.data.split import is_held_out
from stdcli.errors import MediaError
from stdcli.teacher.pictures import (
    MAX_ASPECT,
    SHORT_SIDES_PX,
    PictureSet,
    list_pictures,
    load_pictures,
)
from tests.tiny_pictures import HELD_OUT, noise_set, write_flat


def coordinates() -> PictureSet:
    """One picture whose red is the row and whose green is the column."""
    sizes = []
    for side in SHORT_SIDES_PX:
        height, width = side, 256
        picture = torch.zeros(3, height, width, dtype=torch.uint8)
        picture[0] = torch.arange(height)[:, None] % 256
        picture[1] = torch.arange(width)[None]
        sizes.append(picture)
    return PictureSet(("coordinates.png",), (tuple(sizes),))


def test_the_split_is_written_in_stone() -> None:
    """SHA-256("abc") begins with ba7816bf8f01cfea = 13436514500253700074, from FIPS 180-2."""
    assert int("ba7816bf8f01cfea", 16) == 13436514500253700074
    assert not is_held_out("abc")  # ... 4
    names = [f"p{i:02d}.png" for i in range(60)]
    assert [name for name in names if is_held_out(name)] == ["p02.png", "p14.png", "p30.png", "p45.png"]


def test_a_tenth_is_held_out() -> None:
    share = sum(is_held_out(f"{i}.jpg") for i in range(5000)) / 5000
    assert share == pytest.approx(0.1, abs=4 * (0.09 / 5000) ** 0.5)


def test_the_two_sides_share_nothing_and_miss_nothing(tmp_path: Path) -> None:
    write_flat(tmp_path / "in", train=(0, 0, 255), held_out=(255, 0, 0))
    files = list_pictures(tmp_path / "in")
    train, held = (load_pictures(files, held_out=side) for side in (False, True))
    assert set(held.names) == set(HELD_OUT)
    assert sorted(train.names + held.names) == [path.name for path in files]
    assert all(size[0].max() == 0 for sizes in train.sizes for size in sizes)  # no red
    assert all(size[2].max() == 0 for sizes in held.sizes for size in sizes)  # no blue


def test_pictures_are_found_in_folders_below_and_other_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/z.JPG", "a.png", "notes.txt", "c.webp"):
        (tmp_path / name).write_bytes(b"")
    assert [p.relative_to(tmp_path).as_posix() for p in list_pictures(tmp_path)] == [
        "a.png",
        "b/z.JPG",
        "c.webp",
    ]


def test_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no picture in this folder"):
        list_pictures(tmp_path)


def test_every_size_has_its_short_side(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "wide.png")
    Image.new("RGB", (20, 400)).save(tmp_path / "tower.png")
    pictures = load_pictures(list_pictures(tmp_path), held_out=False)
    tower, wide = ([tuple(s.shape) for s in sizes] for sizes in pictures.sizes)
    assert wide == [(3, side, round(side * 1.5)) for side in SHORT_SIDES_PX]
    assert tower == [(3, MAX_ASPECT * side, side) for side in SHORT_SIDES_PX]


def test_unreadable_pictures_are_listed_with_the_reason(tmp_path: Path) -> None:
    write_flat(tmp_path / "in", train=(1, 2, 3), held_out=(1, 2, 3))
    (tmp_path / "in" / "p05.png").write_bytes(b"no picture")
    (tmp_path / "in" / "p02.png").write_bytes(b"")
    files = list_pictures(tmp_path / "in")
    train, held = (load_pictures(files, held_out=side) for side in (False, True))
    assert [name for name, _ in train.skipped] == ["p05.png"]
    assert [name for name, _ in held.skipped] == ["p02.png"]
    assert "picture" in train.skipped[0][1]
    assert "p05.png" not in train.names


def test_progress_counts_each_file_once(tmp_path: Path) -> None:
    class Counter:
        total = None
        done = 0

        def advance(self, n: int = 1) -> None:
            self.done += n

    write_flat(tmp_path / "in", train=(1, 2, 3), held_out=(1, 2, 3))
    files, counter = list_pictures(tmp_path / "in"), Counter()
    for side in (False, True):
        load_pictures(files, held_out=side, progress=counter)
    assert counter.done == len(files)


def test_a_crop_is_a_piece_of_the_picture_or_its_mirror_image() -> None:
    pictures = coordinates()
    seen = set()
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        crop = pictures.crop(0, size_idx=0, crop_px=16, generator=generator)
        red, green = (crop[:2] * 255).round().int()
        assert torch.equal(red, red[:1, :1] + torch.arange(16)[:, None].expand(16, 16))
        step = int(green[0, 1] - green[0, 0])
        assert step in (1, -1)
        assert torch.equal(green, green[:1, :1] + step * torch.arange(16)[None].expand(16, 16))
        seen.add(step)
    assert seen == {1, -1}


def test_crops_reach_the_borders() -> None:
    pictures = coordinates()
    generator = torch.Generator().manual_seed(0)
    tops = {
        int(pictures.crop(0, size_idx=0, crop_px=188, generator=generator)[0, 0, 0] * 255 + 0.5)
        for _ in range(200)
    }
    assert tops == {0, 1, 2, 3, 4}


def test_a_crop_as_large_as_the_picture() -> None:
    pictures = noise_set(1, seed=0)
    whole = pictures.crop(0, size_idx=0, crop_px=192, generator=torch.Generator().manual_seed(0))
    assert whole.shape == (3, 192, 192)


def test_the_square_is_the_middle() -> None:
    square = coordinates().square(0, size_idx=0) * 255
    assert square.shape == (3, 192, 192)
    assert square[1, 0, 0].round() == (256 - 192) // 2
    assert square[0, 0, 0] == 0
