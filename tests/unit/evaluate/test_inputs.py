"""Contents and styles read, shrunk and named."""

import hashlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stdcli.errors import MediaError
from stdcli.evaluate.inputs import Content, read_contents, read_styles
from stdcli.evaluate.measured_files import by_name
from stdcli.media.image import Picture, write_image
from stdcli.media.video import VideoInfo, VideoWriter


def write(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    write_image(path, Picture(rgb))
    return rgb


def test_photos_are_shrunk_never_enlarged(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 40, 80)
    small = write(tmp_path / "b.png", 10, 12, seed=1)
    one, two = read_contents([tmp_path], size_px=32, frames=3)
    assert (one.id, two.id) == ("a", "b")
    assert one.frames.shape == (1, 16, 32, 3) and not one.is_clip
    assert np.array_equal(two.frames[0], small)
    assert one.sha256 == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert read_contents([tmp_path / "a.png"], size_px=None, frames=3)[0].frames.shape == (1, 40, 80, 3)


def test_names_that_come_again_get_numbers(tmp_path: Path) -> None:
    for seed, folder in enumerate(("x", "y")):
        write(tmp_path / folder / "A photo.png", 8, 8, seed)
    assert [style.id for style in read_styles([tmp_path / "x", tmp_path / "y"])] == ["a-photo", "a-photo-2"]


def test_a_clip_is_read_from_its_beginning(tmp_path: Path) -> None:
    path, rate = tmp_path / "clip.mp4", Fraction(30000, 1001)
    with VideoWriter(path, VideoInfo(32, 16, rate, 9)) as writer:
        for index in range(9):
            writer.write(np.full((16, 32, 3), 20 * index, np.uint8))
    (clip,) = read_contents([path], size_px=None, frames=5)
    assert (clip.name, clip.total) == ("clip", 9)
    assert clip.is_clip and clip.fps == rate and clip.frames.shape == (5, 16, 32, 3)
    assert np.abs(clip.frames.mean((1, 2, 3)) - 20 * np.arange(5)).max() < 3
    with pytest.raises(MediaError, match="a style is a picture"):
        read_styles([path])


def test_numbered_pictures_are_a_clip(tmp_path: Path) -> None:
    frames = [write(tmp_path / f"{index:03d}.png", 8, 8, index) for index in range(1, 5)]
    (clip,) = read_contents([tmp_path / "%03d.png"], size_px=None, frames=3)
    assert (clip.id, clip.name, clip.total) == (tmp_path.resolve().name.lower(), tmp_path.resolve().name, 4)
    assert clip.fps == 25 and np.array_equal(clip.frames, np.stack(frames[:3]))
    assert clip.sha256 == hashlib.sha256(np.stack(frames[:3]).tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("result", "sources", "found"),
    [
        ("photo.std", ["photo", "pho"], "photo"),
        ("a-b_1", ["a", "a-b", "b"], "a-b"),
        ("a", ["a"], "a"),
        ("ab_1", ["a"], None),
        ("b", ["a"], None),
    ],
)
def test_a_result_is_of_the_longest_name_it_begins_with(result: str, sources: list[str], found: str) -> None:
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    given = [Content(name, pixels, name, name=name) for name in sources]
    paired = by_name([Content("r", pixels, "r", name=result)], given)
    assert (paired and paired[0].name) == found
