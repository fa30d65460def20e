"""Turning a picture upright by its EXIF orientation, whatever else its EXIF holds."""

from __future__ import annotations

import warnings

from PIL import Image

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn_upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """The picture as it is to be seen; the image itself where nothing says otherwise.

    Args:
        image: opened by Pillow, its pixels loaded.
        notes: told where the metadata cannot be read at all; the pixels are whole even so.
    """
    try:
        with warnings.catch_warnings():
            if notes:
                warnings.simplefilter("ignore")
            orientation = image.getexif().get(ORIENTATION)
    except Exception as error:
        if not notes:
            notes.append(f"EXIF data ignored, it is damaged: {error}")
        return image
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)
