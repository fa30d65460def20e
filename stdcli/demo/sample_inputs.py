"""Sample inputs made on the spot: photos, style pictures, a clip with sound.

Photos are those bundled with scikit-image (public domain or CC0); styles are drawn by `sample_art.py`; the
clip is a camera moving over a photo, with a tone. Nothing is downloaded.
"""

from __future__ import annotations

import math
import wave
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from stdcli.demo.art import STYLES
from stdcli.errors import MediaError, ResourceError
from stdcli.media.output import write_errors
from stdcli.media.video import VideoInfo, VideoWriter

MARKER = ".stdcli-demo"  # says that a folder was made for samples
PHOTOS = ("astronaut", "cat", "coffee", "rocket")
PHOTO_SHORT_SIDE_PX = 256
CLIP_SIZE_PX = 256
CLIP_FPS = Fraction(24000, 1001)
TONE_HZ = 330.0
SAMPLE_RATE_HZ = 44100


def claim_folder(folder: Path, *, overwrite: bool) -> None:
    """Make the folder that samples go to, or take one that was made for samples before.

    Args:
        folder: made if missing; an empty file in it says what it is for.
        overwrite: take any folder; files of the samples' names are replaced in it.

    Raises:
        MediaError: no folder, one that holds other things, or one that cannot be written to.
        ResourceError: the disk is full.
    """
    with write_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise MediaError("the output is not a folder", where=folder, hint="-o FOLDER")
        its_own = (folder / MARKER).is_file()
        if folder.is_dir() and any(folder.iterdir()) and not (its_own or overwrite):
            hint = "another folder with -o, or --overwrite to replace files of the samples' names in this one"
            raise MediaError("the folder is not empty and not of an earlier demo", where=folder, hint=hint)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()


def write_samples(folder: Path, *, frames: int) -> tuple[list[Path], Path]:
    """Write photos, styles and a clip of `frames` frames into a folder; returns the photos and the clip.

    Raises:
        MediaError: they cannot be written.
        ResourceError: scikit-image is not installed, or the disk is full.
    """
    with write_errors(folder):
        photos = write_photos(folder / "photos")
        write_styles(folder / "styles")
        return photos, write_clip(folder / "clip.mp4", frames=frames)


def write_photos(folder: Path) -> list[Path]:
    """Write the sample photos as PNG, short side 256 px.

    Raises:
        ResourceError: scikit-image is not installed.
    """
    return [_save(_photo(name, PHOTO_SHORT_SIDE_PX), folder / f"{name}.png") for name in PHOTOS]


def write_styles(folder: Path) -> list[Path]:
    """Draw and write the sample style pictures as PNG, 512 px square."""
    return [_save(draw(), folder / f"{name}.png") for name, draw in STYLES.items()]


def write_clip(path: Path, *, frames: int) -> Path:
    """Write a clip: a camera gliding over the coffee photo, 24000/1001 frames per second, with a tone.

    Args:
        path: an .mp4 file; replaced if it exists.
        frames: number of frames.
    """
    photo = np.asarray(_photo("coffee", 2 * CLIP_SIZE_PX - 128))
    with TemporaryDirectory() as folder:
        tone = Path(folder) / "tone.wav"
        _write_tone(tone, seconds=frames / CLIP_FPS)
        info = VideoInfo(CLIP_SIZE_PX, CLIP_SIZE_PX, CLIP_FPS, frames)
        with VideoWriter(path, info, audio_from=tone, overwrite=True) as writer:
            for index in range(frames):
                writer.write(_view(photo, index / max(1, frames - 1)))
    return path


def _view(photo: np.ndarray, position: float) -> np.ndarray:
    """The window of the camera at `place` in [0, 1] of its way, from left to right in a shallow arc."""
    room_y, room_x = photo.shape[0] - CLIP_SIZE_PX, photo.shape[1] - CLIP_SIZE_PX
    y = round(room_y * (0.5 - 0.4 * math.sin(math.pi * position)))
    x = round(room_x * position)
    return np.ascontiguousarray(photo[y : y + CLIP_SIZE_PX, x : x + CLIP_SIZE_PX])


def _photo(name: str, short_side_px: int) -> Image.Image:
    try:
        from skimage import data
    except ImportError as error:
        raise ResourceError(
            "the sample photos come with scikit-image, which is not installed",
            hint='pip install "stdcli[demo]", or give your own picture to stdcli stylize',
        ) from error
    photo = Image.fromarray(getattr(data, name)())
    scale = short_side_px / min(photo.size)
    return photo.resize(tuple(round(side * scale) for side in photo.size), Image.Resampling.LANCZOS)


def _save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def _write_tone(path: Path, *, seconds: Fraction) -> None:
    """A mono sine tone, 16 bit, that fades in and out."""
    count = round(seconds * SAMPLE_RATE_HZ)
    t = np.arange(count) / SAMPLE_RATE_HZ
    fade = np.minimum(1, np.minimum(t, t[::-1]) / 0.1)
    samples = (0.2 * fade * np.sin(2 * math.pi * TONE_HZ * t) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(samples.tobytes())
