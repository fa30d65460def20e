"""Writing pictures, and the recipe inside them."""

import json

import numpy as np
import pytest
from PIL import Image

from stdcli.errors import MediaError
from stdcli.media.embedded_recipe import read_recipe
from stdcli.media.image import Picture, read_image, write_image

RECIPE = {
    "task": "stylize",
    "config": {"seed": 7, "prompt": "Hügel; = # \\ \n 山 😀"},
    "list": [1, 2.5, None],
}
TEXT = {"stdcli": json.dumps(RECIPE)}
SUFFIXES = [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"]


def smooth(height=33, width=47):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 5, y * 7, 255 - x - y], axis=2).astype(np.uint8)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".bmp", ".PNG"])
def test_the_pixels_come_back(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    assert write_image(path, Picture(smooth())) == []
    error = np.abs(read_image(path).rgb.astype(int) - smooth())
    lossy = {".jpg": (0.8, 6), ".jpeg": (0.8, 6), ".webp": (2.0, 20)}
    mean, largest = lossy.get(suffix, (0, 0))
    assert error.mean() <= mean
    assert error.max() <= largest


def test_jpeg_keeps_full_color_resolution(tmp_path):
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (255, 0, 0), (0, 0, 255)
    write_image(tmp_path / "a.jpg", Picture(stripes))
    assert (
        np.abs(read_image(tmp_path / "a.jpg").rgb.astype(int) - stripes).mean() < 12
    )  # 4:2:0 gives about 85


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_alpha_comes_back(tmp_path, suffix):
    alpha = np.arange(33 * 47, dtype=np.uint32).reshape(33, 47).astype(np.uint8)
    assert write_image(tmp_path / f"a{suffix}", Picture(smooth(), alpha)) == []
    assert np.array_equal(read_image(tmp_path / f"a{suffix}").alpha, alpha)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_without_alpha_the_picture_is_laid_on_white_and_says_so(tmp_path, suffix):
    rgb = np.full((8, 24, 3), 40, np.uint8)
    alpha = np.repeat(np.array([[255, 0, 51]], np.uint8), 8, axis=1).repeat(8, axis=0)
    notes = write_image(tmp_path / f"a{suffix}", Picture(rgb, alpha))
    assert len(notes) == 1
    assert "no transparency" in notes[0]
    shown = read_image(tmp_path / f"a{suffix}").rgb.astype(int)
    assert np.abs(shown[4, [4, 12, 20], 0] - [40, 255, 255 - 215 / 5]).max() <= 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_recipe_comes_back(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    assert write_image(path, Picture(smooth()), text=TEXT) == []
    assert read_recipe(path) == RECIPE
    assert read_image(path).rgb.shape == (33, 47, 3)


def test_png_keeps_every_text_under_its_key(tmp_path):
    write_image(tmp_path / "a.png", Picture(smooth()), text={**TEXT, "Title": "山"})
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == {**TEXT, "Title": "山"}


@pytest.mark.parametrize(("suffix", "text"), [(".bmp", TEXT), (".jpg", {"stdcli": "x" * 70_000})])
def test_a_recipe_without_room_is_reported(tmp_path, suffix, text):
    notes = write_image(tmp_path / f"a{suffix}", Picture(smooth()), text=text)
    assert "no room" in notes[0]
    assert read_recipe(tmp_path / f"a{suffix}") is None


def test_a_picture_of_somebody_else_has_no_recipe(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0on the beach"
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(smooth()).save(tmp_path / "b.png")
    assert read_recipe(tmp_path / "a.jpg") is None
    assert read_recipe(tmp_path / "b.png") is None


def test_reading_a_recipe_from_nothing(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(MediaError, match="no such file"):
        read_recipe(tmp_path / "a.png")
    with pytest.raises(MediaError, match="not a picture"):
        read_recipe(tmp_path / "text.png")


@pytest.mark.parametrize("suffix", [".gif", ".mp4", ""])
def test_an_unknown_suffix_is_refused(tmp_path, suffix):
    with pytest.raises(MediaError, match="no picture format") as caught:
        write_image(tmp_path / f"a{suffix}", Picture(smooth()))
    assert ".png" in caught.value.expected


def test_what_a_format_cannot_hold_is_an_error(tmp_path):
    with pytest.raises(MediaError, match="cannot") as caught:
        write_image(tmp_path / "a.webp", Picture(np.zeros((1, 16384, 3), np.uint8)))
    assert "a.webp" in caught.value.where
    assert list(tmp_path.iterdir()) == []


def test_arrays_of_another_kind_are_programming_errors(tmp_path):
    for picture in (Picture(np.zeros((4, 4), np.uint8)), Picture(smooth(), np.zeros((4, 4), np.uint8))):
        with pytest.raises(ValueError, match="expected"):
            write_image(tmp_path / "a.png", picture)
