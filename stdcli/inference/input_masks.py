"""What to repaint: a mask found, checked and read, a picture's or a clip's.

White is repainted. Soft edges are cut at half; a picture's own transparency can be the mask. Knows nothing of
models. Legend: H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from stdcli.config.inpaint import FROM_ALPHA, InpaintConfig
from stdcli.errors import ConfigError, MediaError
from stdcli.inference.clips import iter_clip
from stdcli.media.arrays import resize
from stdcli.media.image import read_image
from stdcli.media.probe import VideoInfo
from stdcli.media.sources import MediaSource, resolve_input

HALF = 128
BLACK, WHITE = 8, 247
"""Values beyond these are black and white; between them a mask is grey."""
MARGIN_SHARE, MARGIN_PX = 0.25, 32
"""Context around a cropped mask: a share of the box's longer side, and so many pixels at least."""

Box = tuple[slice, slice]
Measure = Callable[[MediaSource], VideoInfo]


@dataclass(frozen=True)
class Mask:
    """Where to repaint, frame by frame.

    Attributes:
        source: its file or files; None for the input's own transparency.
        size_px: (H, W) of the input.
        still: bool [H, W], one for all frames; None for a clip.
        clip: of a mask that moves.
        box: what to compute of each frame; None for all of it.
        notes: what the user should know.
    """

    source: Path | None
    size_px: tuple[int, int]
    still: np.ndarray | None
    clip: VideoInfo | None
    box: Box | None
    notes: tuple[str, ...]

    @property
    def is_alpha(self) -> bool:
        """Whether transparent parts are repainted."""
        return self.source is None

    def frames(self, *, skip: int = 0) -> Iterator[np.ndarray]:
        """Bool [H, W] per frame, from frame `skip` on; endless for a still mask."""
        if self.still is not None:
            yield from repeat(self.still)
        for frame in iter_clip(self.clip, skip=skip):
            yield _levels(frame, self.size_px) >= HALF


def plan_mask(config: InpaintConfig, path: Path, *, clip: VideoInfo | None, measure: Measure) -> Mask:
    """Find and check a mask; a moving one is read through once.

    Args:
        config: the user's values.
        path: the input.
        clip: of the input; None for a picture.
        measure: what a clip is, cut as the input is.

    Raises:
        ConfigError: no mask, or `alpha` where there is none.
        MediaError: it cannot be read, is no single mask, of another size or length, or empty.
    """
    if config.mask is None:
        hint = "stdcli inpaint IN --mask MASK"
        raise ConfigError("nothing says what to repaint", [("--mask", "name a picture")], hint=hint)
    picture = read_image(path) if clip is None else None
    size = (clip.height, clip.width) if picture is None else picture.rgb.shape[:2]
    if config.mask == FROM_ALPHA:
        if picture is None or picture.alpha is None:
            problem = f"{path} has no transparency" if clip is None else "is for pictures; name a mask"
            raise ConfigError("no mask in the input", [("--mask alpha", problem)])
        return _make(config, None, size, stills=[255 - picture.alpha])
    source = _find(config.mask)
    if source.kind == "image":
        mask = read_image(source.path)
        rgba = mask.rgb if mask.alpha is None else np.dstack([mask.rgb, mask.alpha])
        return _make(config, source.path, size, stills=[rgba])
    if clip is None:
        raise MediaError("a mask that moves, for a picture", where=source.path, hint="take a frame of it")
    info = measure(source)
    if info.frames != clip.frames:
        raise MediaError(
            "the mask is not as long as the clip",
            where=source.path,
            got=f"{info.frames} frames",
            expected=f"{clip.frames}, as {path}",
        )
    return _make(config, source.path, size, stills=iter_clip(info), clip=info)


def _find(name: str) -> MediaSource:
    sources = resolve_input(name)
    if len(sources) > 1:
        hint = "numbered pictures are named as in masks/%05d.png"
        raise MediaError("one mask belongs to one input", where=name, got=f"{len(sources)} files", hint=hint)
    return sources[0]


def _make(
    config: InpaintConfig,
    path: Path | None,
    size: tuple[int, int],
    *,
    stills: Iterable[np.ndarray],
    clip: VideoInfo | None = None,
) -> Mask:
    """A mask of the pictures in `stills`, all of which are looked at once."""
    where = path or "--mask alpha"
    union, frames, gray, still = np.zeros(size, bool), 0, 0, None
    for still in stills:
        if still.shape[:2] != size and not config.resize_mask:
            (height, width), (h, w) = size, still.shape[:2]
            raise MediaError(
                "the mask is of another size than the input",
                where=where,
                got=f"{w}x{h}",
                expected=f"{width}x{height}",
                hint="--resize-mask takes it all the same",
            )
        levels = _levels(still, size)
        gray += int(((levels > BLACK) & (levels < WHITE)).sum())
        union |= levels >= HALF
        frames += 1
    if not union.any():
        raise MediaError("the mask is empty", where=where, expected="white where to repaint")
    notes = []
    if gray:
        share = max(1, round(100 * gray / (frames * union.size)))
        notes.append(f"{where}: {share} % of it is grey; what is at least half white is repainted")
    if union.all() and clip is None:
        notes.append(f"{where} is white all over: stdcli stylize does the same")
    box = _around(union) if config.crop else None
    return Mask(path, size, union if clip is None else None, clip, box, tuple(notes))


def _levels(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """How white a mask is: uint8 [H, W] of [h, w], or of [h, w, 3 or 4], transparent being black."""
    if picture.ndim == 2:
        return picture
    rgb = picture[..., :3]
    if picture.shape[2] == 4:
        rgb = (rgb.astype(np.uint16) * picture[..., 3:] // 255).astype(np.uint8)
    return resize(np.ascontiguousarray(rgb), *size).max(axis=2)


def _around(mask: np.ndarray) -> Box:
    """The box of what is to be repainted, with some context, inside the picture."""
    spans = []
    positions = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    margin = max(MARGIN_PX, round(MARGIN_SHARE * max(int(p[-1] - p[0]) + 1 for p in positions)))
    for position, side in zip(positions, mask.shape, strict=True):
        spans.append(slice(max(0, int(position[0]) - margin), min(side, int(position[-1]) + 1 + margin)))
    return spans[0], spans[1]
