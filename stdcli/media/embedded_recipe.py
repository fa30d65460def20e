"""Getting back the recipe that a result carries inside: how it was made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image

from stdcli.disk.reading import parse_json
from stdcli.errors import MediaError
from stdcli.media.ffmpeg import input_file, last_lines, run_ffmpeg
from stdcli.media.image import EXIF_IFD, IMAGE_DESCRIPTION, USER_COMMENT, USER_COMMENT_CODE, readable, reading
from stdcli.media.sources import kind_of

KEY = "stdcli"


def read_recipe(path: Path) -> dict[str, Any] | None:
    """The recipe inside a picture (PNG text, EXIF user comment, TIFF description) or clip (comment tag).

    Args:
        path: a file that `write_image` or `VideoWriter` made, or any other.

    Returns:
        The JSON object that was embedded; None where there is none.

    Raises:
        MediaError: the file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise MediaError("no such file", where=path)
    text = _video_comment(path) if kind_of(path) == "video" else _image_text(path)
    return _json_object(text)


def _image_text(path: Path) -> str | None:
    with reading(path, []), Image.open(path, formats=readable(path)) as image:
        if KEY in image.info:
            return str(image.info[KEY])
        exif = image.getexif()
        packed = exif.get(IMAGE_DESCRIPTION) or exif.get_ifd(EXIF_IFD).get(USER_COMMENT)
    if isinstance(packed, bytes):
        packed = packed.removeprefix(USER_COMMENT_CODE).decode("ascii", errors="replace")
    texts = _json_object(packed)
    return None if texts is None else texts.get(KEY)


def _video_comment(path: Path) -> str | None:
    done = run_ffmpeg("-loglevel", "error", *input_file(path), "-f", "ffmetadata", "-")
    if done.code != 0:
        raise MediaError("not a video that can be read", where=path, got=last_lines(done.log, 1))
    header = re.split(r"^\[", done.output, maxsplit=1, flags=re.MULTILINE)[0]
    found = re.search(r"^comment=((?:\\.|[^\\\n])*)$", header, re.MULTILINE | re.DOTALL | re.IGNORECASE)
    return re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL) if found else None


def _json_object(text: object) -> dict[str, Any] | None:
    try:
        value = parse_json(text, "a recipe", MediaError) if isinstance(text, str) else None
    except MediaError:
        return None
    return value if isinstance(value, dict) else None
