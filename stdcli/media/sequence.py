"""Clips as numbered pictures: `frames/%05d.png`, the numbers without a gap.

The pattern is that of printf, with one `%d` or `%0Nd` in the file's name. Frames are as in `video.py`; they
are read and written one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from stdcli.errors import MediaError
from stdcli.media.image import WRITABLE, Picture, read_image, write_image
from stdcli.media.probe import VideoInfo
from stdcli.media.sources import NUMBER

FPS = Fraction(25)
"""What ffmpeg, too, takes for numbered pictures when nobody says."""
FIRST_NUMBER = 1


@dataclass(frozen=True)
class Numbered:
    """Numbered files.

    Attributes:
        pattern: with `%d` or `%0Nd` in its name.
        first: number of the first file.
    """

    pattern: Path
    first: int = FIRST_NUMBER

    @classmethod
    def starting_at(cls, pattern: Path) -> Numbered:
        """The files that are there.

        Raises:
            MediaError: no such files.
        """
        return cls(pattern, _numbers(pattern)[0])

    def __str__(self) -> str:
        return f"{self.pattern.resolve()} from {self.first}"

    def file(self, index: int) -> Path:
        """The file of frame `index`, counted from 0."""
        found = NUMBER.search(self.pattern.name)
        number = str(self.first + index).zfill(int(found[1] or 0))
        return self.pattern.with_name(self.pattern.name.replace(found[0], number, 1))


def sequence_files(pattern: Path) -> list[Path]:
    """The numbered pictures that are there, in order.

    Raises:
        MediaError: there are none.
    """
    return [Numbered(pattern, number).file(0) for number in _numbers(pattern)]


def probe_sequence(pattern: Path, *, fps: Fraction | None = None) -> VideoInfo:
    """Measure numbered pictures by the first one and the names of all.

    Args:
        pattern: such as `frames/%05d.png`.
        fps: frames per second; None means 25.

    Returns:
        Facts of a silent clip; `alpha` if the first picture has transparency.

    Raises:
        MediaError: no such files, a number is missing, or the first picture cannot be read.
    """
    numbers = _numbers(pattern)
    files = Numbered(pattern, numbers[0])
    missing = next((k for k, number in enumerate(numbers) if number != numbers[0] + k), None)
    if missing is not None:
        raise MediaError(
            "a number is missing among the frames",
            where=files.file(missing),
            got=f"{len(numbers)} files from {numbers[0]} to {numbers[-1]}",
            hint="number the files without gaps, or move the rest elsewhere",
        )
    first = read_image(files.file(0))
    height, width = first.rgb.shape[:2]
    note = () if fps else (f"{pattern.name}: no --fps given; {FPS} frames per second assumed",)
    return VideoInfo(
        width=width,
        height=height,
        fps=fps or FPS,
        frames=len(numbers),
        duration_s=float(len(numbers) / (fps or FPS)),
        alpha=first.alpha is not None,
        seekable=True,
        path=pattern,
        notes=note,
    )


def iter_sequence(info: VideoInfo, *, skip: int = 0) -> Iterator[np.ndarray]:
    """Read numbered pictures one at a time.

    Args:
        info: from `probe_sequence`.
        skip: frames to leave out at the beginning.

    Yields:
        uint8 [H, W, 3], or [H, W, 4] with `info.alpha`.

    Raises:
        MediaError: a picture cannot be read or has another size than the first.
    """
    files = Numbered.starting_at(info.path)
    for index in range(info.first + skip, info.first + info.frames):
        picture = read_image(files.file(index))
        if picture.rgb.shape[:2] != (info.height, info.width):
            height, width = picture.rgb.shape[:2]
            raise MediaError(
                "a frame has another size than the first",
                where=files.file(index),
                got=f"{width}x{height}",
                expected=f"{info.width}x{info.height}",
            )
        if not info.alpha:
            yield picture.rgb
            continue
        alpha = picture.alpha if picture.alpha is not None else np.full_like(picture.rgb[..., 0], 255)
        yield np.dstack([picture.rgb, alpha])


def write_frame(path: Path, frame: np.ndarray, *, text: dict[str, str] | None) -> None:
    """Write one frame as a picture, atomically, replacing what is there.

    Args:
        path: its suffix chooses the format.
        frame: uint8 [H, W, 3] or [H, W, 4].
        text: for the file's text fields.
    """
    alpha = frame[..., 3] if frame.shape[2] == 4 else None
    write_image(path, Picture(np.ascontiguousarray(frame[..., :3]), alpha), text=text, overwrite=True)


def check_pattern(pattern: Path) -> None:
    """Refuse a pattern that frames cannot be written to.

    Raises:
        MediaError: its suffix is no picture format.
    """
    if pattern.suffix.lower() not in WRITABLE:
        raise MediaError("frames cannot be written so", where=pattern, expected=" ".join(sorted(WRITABLE)))


def _numbers(pattern: Path) -> list[int]:
    found = NUMBER.search(pattern.name)
    width = int(found[1] or 0)
    before, after = pattern.name[: found.start()], pattern.name[found.end() :]
    digits = rf"\d{{{width},}}" if width else r"\d+"
    name = re.compile(re.escape(before) + f"({digits})" + re.escape(after))
    folder = pattern.parent
    names = (name.fullmatch(file.name) for file in folder.iterdir()) if folder.is_dir() else ()
    numbers = sorted(int(match[1]) for match in names if match)
    if not numbers:
        raise MediaError("no such frames", where=pattern, hint="name them like frames/%05d.png")
    return numbers
