"""How pictures are coded in clips: which encoder, at which quality, in which pixel format.

Knows nothing of containers (`containers.py`) or processes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

from stdcli.errors import ConfigError, ResourceError
from stdcli.media.ffmpeg import run_ffmpeg


@dataclass(frozen=True)
class VideoCodec:
    """One way to code pictures.

    Attributes:
        options: ffmpeg's encoder and its options, without quality.
        crf: quality when none is asked for, in the codec's scale, lower is better; None where it has none.
        crf_range: lowest and highest crf.
        pixels: pixel format.
        odd_pixels: pixel format at odd sizes, where `pixels` cannot keep them.
        alpha_pixels: pixel format with transparency; None if there is none.
        segment_muxer: a format that keeps every timestamp (and alpha) of this codec until clips are joined.
        bytes_per_pixel: what a busy picture takes, roughly; for judging disk space.
        tag: four-character code in .mp4 and .mov where players want another than ffmpeg's.
    """

    options: tuple[str, ...]
    crf: int | None
    crf_range: tuple[int, int]
    pixels: str
    odd_pixels: str
    alpha_pixels: str | None
    segment_muxer: str
    bytes_per_pixel: float
    tag: str | None = None


_X264 = ("-c:v", "libx264", "-preset", "medium")
_X265 = ("-c:v", "libx265", "-preset", "medium", "-x265-params", "log-level=error")
_VP9 = ("-c:v", "libvpx-vp9", "-b:v", "0", "-deadline", "good", "-cpu-used", "4", "-row-mt", "1")
_AV1 = ("-c:v", "libaom-av1", "-b:v", "0", "-cpu-used", "6", "-row-mt", "1")
_PRORES = ("-c:v", "prores_ks", "-profile:v", "4444", "-vendor", "apl0")
_FFV1 = ("-c:v", "ffv1", "-level", "3", "-g", "1", "-slices", "4", "-slicecrc", "1")

CODECS = {
    "h264": VideoCodec(_X264, 18, (0, 51), "yuv420p", "yuv444p", None, "mov", 0.1),
    "hevc": VideoCodec(_X265, 20, (0, 51), "yuv420p", "yuv444p", None, "mov", 0.1, tag="hvc1"),
    "vp9": VideoCodec(_VP9, 24, (0, 63), "yuv420p", "yuv420p", "yuva420p", "matroska", 0.1),
    "av1": VideoCodec(_AV1, 24, (0, 63), "yuv420p", "yuv420p", None, "matroska", 0.1),
    "prores": VideoCodec(_PRORES, None, (0, 0), "yuv444p10le", "yuv444p10le", "yuva444p10le", "mov", 1.0),
    "ffv1": VideoCodec(_FFV1, None, (0, 0), "bgr0", "bgr0", "bgra", "matroska", 1.0),
}


@dataclass(frozen=True)
class Encoding:
    """A choice of codec for one clip.

    Attributes:
        name: in `CODECS`.
        crf: quality; None where the codec has none.
        pixels: pixel format.
        alpha: whether frames carry transparency.
    """

    name: str
    crf: int | None
    pixels: str
    alpha: bool

    @property
    def codec(self) -> VideoCodec:
        """The codec behind the name."""
        return CODECS[self.name]

    def arguments(self) -> list[str]:
        """ffmpeg's output options."""
        return [*self.codec.options, *([] if self.crf is None else ["-crf", str(self.crf)])]


def choose_encoding(
    name: str, size_px: tuple[int, int], *, alpha: bool, crf: int | None, pixels: str | None
) -> Encoding:
    """Settle quality and pixel format.

    Args:
        name: of the codec.
        size_px: (H, W).
        alpha: whether the clip has transparency; dropped where the codec has none.
        crf: quality asked for, or None.
        pixels: pixel format asked for, or None.

    Raises:
        ConfigError: the codec has no such quality or pixel format.
        ResourceError: this ffmpeg lacks the encoder.
    """
    codec = CODECS[name]
    encoder = codec.options[1]
    offered = _pixel_formats(encoder)
    if offered is None:
        hint = "pip install --upgrade imageio-ffmpeg, or choose another --codec"
        raise ResourceError(f"this ffmpeg has no encoder {encoder}", where=f"--codec {name}", hint=hint)
    low, high = codec.crf_range
    if crf is not None and codec.crf is None:
        raise ConfigError(f"{name} has no crf", [("--crf", "leave it out, or choose another --codec")])
    if crf is not None and not low <= crf <= high:
        raise ConfigError(f"no such quality of {name}", [("--crf", f"got {crf}, expected {low} to {high}")])
    if pixels is not None and pixels not in offered:
        raise ConfigError(
            f"{name} has no such pixel format",
            [("--pix-fmt", f"got {pixels}, expected one of {' '.join(sorted(offered))}")],
        )
    odd_sides = any(side % 2 for side in size_px)
    usual = codec.odd_pixels if odd_sides else codec.pixels
    if pixels is None and alpha and codec.alpha_pixels:
        return Encoding(name, crf if crf is not None else codec.crf, codec.alpha_pixels, alpha=True)
    chosen = Encoding(name, crf if crf is not None else codec.crf, pixels or usual, alpha=False)
    return replace(chosen, alpha=alpha and has_alpha(chosen.pixels))


def has_alpha(pixels: str) -> bool:
    """Whether a pixel format, by ffmpeg's name, carries transparency."""
    return re.match(r"yuva|rgba|bgra|argb|abgr|gbrap|ya\d", pixels) is not None


@cache
def _pixel_formats(encoder: str) -> frozenset[str] | None:
    """Names of the pixel formats an encoder takes; None if there is no such encoder."""
    output = run_ffmpeg("-h", f"encoder={encoder}").output
    if f"Encoder {encoder}" not in output:
        return None
    found = re.search(r"Supported pixel formats: (.*)", output)
    return frozenset(found[1].split()) if found else frozenset()
