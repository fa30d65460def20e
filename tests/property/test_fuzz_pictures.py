"""A damaged picture is read into something valid or refused as what it is: nothing else, and in time.

Warnings are errors in all tests, so none escapes either.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stdcli.errors import MediaError
from stdcli.media.embedded_recipe import read_recipe
from stdcli.media.image import check_image, read_image
from tests.mutations import at_most, mutate

COUNT = 1000
LIMIT_S = 10.0  # a header may honestly claim 150 million pixels
KINDS = {
    "png": ("PNG", "RGB", {}),
    "png-palette": ("PNG", "P", {"transparency": 3}),
    "png-16": ("PNG", "I;16", {}),
    "jpeg": (
        "JPEG",
        "RGB",
        {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
    ),
    "jpeg-progressive": ("JPEG", "RGB", {"progressive": True}),
    "jpeg-cmyk": ("JPEG", "CMYK", {}),
    "webp": ("WEBP", "RGB", {}),
    "webp-lossless": ("WEBP", "RGBA", {"lossless": True}),
    "tiff": ("TIFF", "RGB", {}),
    "tiff-deflate": ("TIFF", "RGB", {"compression": "tiff_deflate", "description": "{}"}),
    "tiff-lzw": ("TIFF", "L", {"compression": "tiff_lzw"}),
    "gif": ("GIF", "P", {}),
    "bmp": ("BMP", "RGB", {}),
    "bmp-palette": ("BMP", "P", {}),
}


def encoded(image_format: str, mode: str, options: dict) -> bytes:
    y, x = np.mgrid[:24, :20]
    if mode == "I;16":
        image = Image.fromarray((x * 3000).astype(np.uint16))
    else:
        image = Image.fromarray(np.stack([x * 12, y * 10, (x + y) * 5], axis=2).astype(np.uint8))
        image = image.quantize(16) if mode == "P" else image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, format=image_format, **options)
    return stream.getvalue()


def is_read(path: Path) -> bool:
    try:
        picture = read_image(path)
    except MediaError as error:
        assert error.where == str(path)
        assert str(error)
        return False
    assert picture.rgb.dtype == np.uint8
    assert picture.rgb.ndim == 3 and picture.rgb.shape[2] == 3 and picture.rgb.size
    assert picture.alpha is None or (picture.alpha.dtype, picture.alpha.shape) == (
        np.uint8,
        picture.rgb.shape[:2],
    )
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_picture_is_read_or_refused(tmp_path, kind):
    seeds = {name: encoded(*options) for name, options in KINDS.items()}
    path, names = tmp_path / "damaged", list(KINDS)
    path.write_bytes(seeds[kind])
    assert is_read(path)
    count, read = -(-COUNT // len(KINDS)), 0
    for index in range(count):
        rng = np.random.default_rng((names.index(kind), index))
        path.write_bytes(mutate(seeds[kind], seeds[names[rng.integers(len(names))]], rng))
        with at_most(LIMIT_S):
            accepted = is_read(path)
            for reader in (check_image, read_recipe):  # the other ways into the same file
                try:
                    reader(path)
                except MediaError:
                    assert not accepted
        read += accepted
    assert read < count, "no mutation did any damage"
