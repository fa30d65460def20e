"""Picture files: anything common in, upright 8-bit sRGB out; and back to a file, with its recipe inside.

Reading applies the EXIF orientation and the colour profile and keeps alpha apart; a damaged or huge file is
an error, never a partial picture. Knows nothing of models. Legend: H W pixels.
"""

from __future__ import annotations

import json
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from stdcli.disk.opening import check_file
from stdcli.disk.removing import remove_file
from stdcli.disk.writing import open_new
from stdcli.errors import MediaError, ResourceError
from stdcli.media.arrays import check_rgb, hide_transparent
from stdcli.media.conversions import to_clip, to_frame
from stdcli.media.heif import HEIF_SUFFIXES, INSTALL, heif_formats
from stdcli.media.output import check_output, publish, temporary_path, write_errors
from stdcli.media.profiles import to_srgb
from stdcli.media.sources import kind_of, near_files
from stdcli.media.upright import turn_upright

READABLE = (
    "PNG",
    "JPEG",
    "WEBP",
    "AVIF",
    "TIFF",
    "BMP",
    "GIF",
)
"""JPEG includes MPO, the two-picture JPEG of phones."""
ANIMATED = ("PNG", "WEBP", "AVIF", "GIF")  # where further frames are time, not pages or previews
MAX_PIXELS = 150_000_000  # 450 MB as RGB; every camera on sale stays below
BROKEN_FILE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    EOFError,
    struct.error,
)  # Pillow's ways
DARK_MAX = 4095  # 16-bit files that hold 12 bits or fewer

WRITABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95, "method": 4, "exact": True},
    "TIFF": {"compression": "tiff_deflate"},
}
WITHOUT_ALPHA = ("JPEG", "BMP")
EXIF_IFD, USER_COMMENT, IMAGE_DESCRIPTION = 0x8769, 0x9286, 0x010E
USER_COMMENT_CODE = b"ASCII\0\0\0"
MAX_EXIF_BYTES = 64_000  # a JPEG segment ends at 65,533


@dataclass(frozen=True)
class Picture:
    """A picture in memory.

    Attributes:
        rgb: uint8 [H, W, 3], sRGB, upright. Where alpha is 0 a read picture has the mean of what is visible.
        alpha: uint8 [H, W], 255 opaque; None where the file has none.
        info: `format` and `mode` (Pillow's names) and `notes`, a list of what the user should know.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    info: Mapping[str, Any] = field(default_factory=dict)


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read PNG, JPEG, WebP, AVIF, TIFF, BMP, a GIF of one frame, or with pillow-heif HEIC.

    16-bit grey is scaled (65535 becomes 255), not clipped; CMYK, grey, palettes and colours with an ICC
    profile become sRGB; of a TIFF with several pages the first is read.

    Args:
        path: the file.
        max_pixels: what a picture may have at most.

    Returns:
        The picture, never partial.

    Raises:
        MediaError: no such file, not a picture, damaged or truncated, an animation, too large, or float
            pixels.
        ResourceError: not enough memory.
    """
    path = Path(path)
    notes: list[str] = []
    with reading(path, notes):
        if path.exists() and not path.is_dir():
            check_file(path, MediaError)
        opened = Image.open(path, formats=readable(path))
    with opened:
        _check_kind(opened, path, max_pixels)
        with reading(path, notes):
            page_count = getattr(opened, "n_frames", 1) if opened.format == "TIFF" else 1
            opened.load()
            image = turn_upright(opened, notes)
        if page_count > 1:
            notes.append(f"{path.name} has {page_count} pages; the first was read")
        return _to_picture(image, path, notes, opened=opened)


def picture_from(image: Image.Image, *, name: str = "a picture in memory") -> Picture:
    """What `read_image` would give of a file with this in it.

    Raises:
        MediaError: damaged, float pixels, or colors of a kind that cannot be read.
    """
    notes: list[str] = []
    _check_mode(image, Path(name))
    with reading(Path(name), notes):
        image.load()
        upright = turn_upright(image, notes)
    return _to_picture(upright, Path(name), notes, opened=image)


def _to_picture(image: Image.Image, path: Path, notes: list[str], *, opened: Image.Image) -> Picture:
    rgb, alpha = _to_arrays(image, path, notes)
    if alpha is not None:
        rgb = hide_transparent(rgb, alpha)
    return Picture(rgb, alpha, {"format": opened.format, "mode": opened.mode, "notes": notes})


def check_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse what `read_image` would refuse, before work that takes longer; JPEGs are decoded at an eighth.

    Raises:
        MediaError, ResourceError: as `read_image`, but for what only the pixels tell (values beyond 16 bits).
    """
    path = Path(path)
    with reading(path, []):
        if path.exists() and not path.is_dir():
            check_file(path, MediaError)
        opened = Image.open(path, formats=readable(path))
    with opened:
        _check_kind(opened, path, max_pixels)
        with reading(path, []):
            opened.draft(None, (1, 1))
            opened.load()


def readable(path: Path) -> tuple[str, ...]:
    """The formats that a file may have, by Pillow's names."""
    return READABLE + (heif_formats() if path.suffix.lower() in HEIF_SUFFIXES else ())


@contextmanager
def reading(path: Path, notes: list[str]) -> Iterator[None]:
    """Translate what Pillow raises about a file; what it warns of becomes notes."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    except FileNotFoundError as error:
        raise MediaError("no such picture", where=path, hint=near_files(path)) from error
    except IsADirectoryError as error:
        raise MediaError("a folder, not a picture", where=path, hint="name a file in it") from error
    except PermissionError as error:
        raise MediaError("the picture may not be read", where=path) from error
    except UnidentifiedImageError as error:
        raise _no_picture(path) from error
    except Image.DecompressionBombError as error:
        found = re.search(r"(\d+) pixels", str(error))
        raise _too_large(path, f"{int(found[1]):,} pixels" if found else str(error)) from error
    except MemoryError as error:
        hint = "shrink it first, or cut it into tiles"
        raise ResourceError("not enough memory for this picture", where=path, hint=hint) from error
    except BROKEN_FILE as error:
        if isinstance(error, OSError) and error.errno:
            raise MediaError(f"the picture cannot be read: {error.strerror}", where=path) from error
        hint = "copy or download it again"
        raise MediaError(f"the picture is damaged or truncated: {error}", where=path, hint=hint) from error
    bombs = Image.DecompressionBombWarning  # our own limit decides
    warned = [f"{path.name}: {w.message}" for w in caught if not issubclass(w.category, bombs)]
    notes.extend(warned[:1])  # damaged metadata brings a warning for each entry


def _no_picture(path: Path) -> MediaError:
    if kind_of(path) == "video":
        hint = f"take a frame of it: {to_frame(path)}"
        return MediaError("a video, not a picture", where=path, hint=hint)
    if path.suffix.lower() in HEIF_SUFFIXES and not heif_formats():
        return MediaError(f"HEIC pictures need pillow-heif: {INSTALL}", where=path)
    got = "an empty file" if path.stat().st_size == 0 else None
    expected = "PNG, JPEG, WebP, AVIF, TIFF, BMP or GIF"
    return MediaError("not a picture that can be read", where=path, got=got, expected=expected)


def _too_large(path: Path, got: str, max_pixels: int = MAX_PIXELS) -> MediaError:
    expected, hint = f"at most {max_pixels:,} pixels", "shrink it first, or cut it into tiles"
    return MediaError("the picture is too large", where=path, got=got, expected=expected, hint=hint)


def _check_kind(opened: Image.Image, path: Path, max_pixels: int) -> None:
    width, height = opened.size
    if width * height > max_pixels:
        raise _too_large(path, f"{width}x{height} = {width * height:,} pixels", max_pixels)
    with reading(path, []):
        frame_count = getattr(opened, "n_frames", 1)
    if opened.format in ANIMATED and frame_count > 1:
        command = to_clip(path, path.with_suffix(".mp4"), kind=opened.format)
        hint = f"convert it to a video first: {command}"
        raise MediaError("an animation, not a picture", where=path, got=f"{frame_count} frames", hint=hint)
    _check_mode(opened, path)


def _check_mode(opened: Image.Image, path: Path) -> None:
    if opened.mode == "F":
        hint = "convert it to 8 or 16 bits per channel"
        raise MediaError("floating-point pixels have no agreed range", where=path, hint=hint)


def _to_arrays(image: Image.Image, path: Path, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    if image.mode.startswith("I"):
        return _from_gray16(image, path, notes)
    alpha = None
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.array(image.getchannel("A"))
    try:
        return np.array(to_srgb(image, profile, notes)), alpha
    except ValueError as error:
        raise MediaError(f"colours of kind {image.mode} cannot be read", where=path) from error


def _from_gray16(image: Image.Image, path: Path, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Scale 0..65535 to 0..255, rounded to the nearest: v / 257."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        got = f"values from {values.min()} to {values.max()}"
        raise MediaError("grey values beyond 16 bits", where=path, got=got, hint="convert it to 16 bits")
    if 0 < values.max() <= DARK_MAX:
        notes.append(f"{path.name} is dark: its 16-bit values end at {values.max()}, white is 65535")
    gray = ((values + 128) // 257).astype(np.uint8)
    clear = image.info.get("transparency")
    alpha = None if clear is None else np.where(values == clear, 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2), alpha


def write_image(
    path: Path,
    picture: Picture,
    *,
    text: Mapping[str, str] | None = None,
    overwrite: bool = False,
    source: Path | None = None,
) -> list[str]:
    """Write a picture in the format of the suffix; it appears under its name only when complete.

    PNG keeps `text` as text chunks of those keys; JPEG (quality 95, 4:4:4) and WebP (quality 95) keep it as
    one JSON object in the EXIF user comment, TIFF (lossless) in its description; BMP has no room for it. JPEG
    and BMP have no alpha: the picture is laid on white.

    Args:
        path: .png .jpg .jpeg .jpe .jfif .webp .tif .tiff .bmp.
        picture: what to write.
        text: to embed; the recipe (JSON) has the key `stdcli`, where `read_recipe` finds it.
        overwrite: whether an existing file may be replaced.
        source: the input, which is never replaced.

    Returns:
        Notes: what the format could not keep.

    Raises:
        MediaError: unknown suffix, the file exists or is the input, no folder, or the disk or format refuses.
        ResourceError: the disk is full.
        ValueError: arrays of another dtype or shape.
    """
    path, text, notes = Path(path), dict(text or {}), []
    image_format = WRITABLE.get(path.suffix.lower())
    if image_format is None:
        raise MediaError("no picture format has this suffix", where=path, expected=" ".join(WRITABLE))
    check_output(path, overwrite=overwrite, inputs=[] if source is None else [Path(source)])
    options = dict(SAVE_OPTIONS.get(image_format, {}))
    if text:
        room = _room_for(text, image_format)
        options |= room
        if not room:
            notes.append(f"the recipe is not inside {path.name}: {image_format} has no room for it")
    image = _to_image(picture, image_format, notes)
    temporary = temporary_path(path)
    try:
        with write_errors(path):
            try:
                with open_new(temporary) as file:
                    image.save(file, format=image_format, **options)
            except (ValueError, struct.error) as error:
                what = f"{image_format} cannot hold a picture of {image.width}x{image.height}: {error}"
                raise MediaError(what, where=path) from error
            publish(temporary, path, overwrite=overwrite)
    finally:
        remove_file(temporary)
    return notes


def to_pillow(picture: Picture) -> Image.Image:
    """A picture as Pillow's, RGB or RGBA.

    Raises:
        ValueError: arrays of another dtype or shape.
    """
    rgb, alpha = picture.rgb, picture.alpha
    check_rgb(rgb)
    if alpha is None:
        return Image.fromarray(rgb)
    if alpha.dtype != np.uint8 or alpha.shape != rgb.shape[:2]:
        raise ValueError(f"expected alpha uint8 {list(rgb.shape[:2])}, got {alpha.dtype} {list(alpha.shape)}")
    return Image.fromarray(np.dstack([rgb, alpha]))


def _to_image(picture: Picture, image_format: str, notes: list[str]) -> Image.Image:
    rgba = to_pillow(picture)
    if picture.alpha is None or image_format not in WITHOUT_ALPHA:
        return rgba
    notes.append(f"{image_format} has no transparency: the picture was laid on white")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _room_for(text: Mapping[str, str], image_format: str) -> dict[str, Any]:
    """Options with which Pillow embeds `text`; none where the format has no room."""
    if image_format == "PNG":
        info = PngInfo()
        for key, value in text.items():
            info.add_text(key, value)
        return {"pnginfo": info}
    packed = json.dumps(dict(text))
    if image_format == "TIFF":
        return {"description": packed}
    if image_format == "BMP" or len(packed) > MAX_EXIF_BYTES:
        return {}
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = USER_COMMENT_CODE + packed.encode("ascii")
    return {"exif": exif}
