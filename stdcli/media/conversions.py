"""Commands that turn what is not read into what is, to be pasted."""

from __future__ import annotations

from pathlib import Path

from stdcli.config.pasting import pasted

EVEN = "'scale=ceil(iw/2)*2:ceil(ih/2)*2'"
"""Leaves even sizes alone; the usual H.264 has no odd ones."""


ANIMATIONS = {"PNG": ("-f apng ", ""), "AVIF": ("", "-map 0:v:1 ")}
"""What ffmpeg must be told before and behind an input, by Pillow's names, lest it takes one picture alone."""


def to_clip(path: Path, target: Path, *, kind: str = "") -> str:
    """The command that makes a clip of an animation, or of what is left of a damaged clip.

    Args:
        path: the input.
        target: the clip.
        kind: Pillow's name of an animation's format.
    """
    before, behind = ANIMATIONS.get(kind, ("", ""))
    return f"ffmpeg {before}-i {pasted(path)} {behind}-vf {EVEN} -pix_fmt yuv420p {pasted(target)}"


def to_frame(path: Path) -> str:
    """The command that takes the first frame of a clip, into a picture beside it."""
    return f"ffmpeg -i {pasted(path)} -frames:v 1 -update 1 {pasted(path.with_suffix('.png'))}"
