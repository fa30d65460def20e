"""Colour profiles: what a picture's numbers mean, and the same colours in sRGB.

A profile is judged by what it does to colours, never by what it is called.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

STEPS = 9
SAME_LEVELS = 3
"""Profiles of sRGB differ by rounding, by shortened curves and by which white they note."""


def to_srgb(image: Image.Image, profile_bytes: bytes | None, notes: list[str]) -> Image.Image:
    """A picture as RGB in sRGB; without a profile, or with that of sRGB, the numbers stay as they are.

    Args:
        image: of any mode; alpha is dropped.
        profile_bytes: its ICC profile, if any.
        notes: told of a profile that is unreadable, or not for such pixels, and thus ignored.
    """
    if not profile_bytes:
        return image.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(profile_bytes))
        space = profile.profile.xcolor_space.strip()
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space)
        if mode is None or (image.mode == "CMYK") != (mode == "CMYK"):
            notes.append(f"colour profile ignored: it is for {space}, the picture is {image.mode}")
            return image.convert("RGB")
        if mode == "RGB" and _is_srgb(profile):
            return image.convert("RGB")
        return ImageCms.profileToProfile(
            image.convert(mode), profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError) as error:
        notes.append(f"colour profile ignored: {error}")
        return image.convert("RGB")


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    """Whether a grid of colours and the greys stay where they are, as far as measured colour goes."""
    levels = np.linspace(0, 255, STEPS).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(1, -1, 3)
    grays = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    colors = np.concatenate([grid, grays], axis=1)
    converted = ImageCms.profileToProfile(
        Image.fromarray(colors),
        profile,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
    )
    return bool(np.abs(np.asarray(converted).astype(int) - colors).max() <= SAME_LEVELS)
