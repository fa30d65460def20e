"""Coding frames into a file that holds nothing but pictures: a whole clip, or one segment of it."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np

from stdcli.errors import MediaError, ResourceError, StdcliError
from stdcli.media.ffmpeg import input_pipe, last_lines, start_ffmpeg, stop
from stdcli.media.probe import VideoInfo
from stdcli.media.video_codecs import Encoding

EXACT_SCALING = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
BT709 = "colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"


class PictureWriter:
    """A file of coded pictures at a clip's size, rate and pixel aspect, colours in BT.709 and tagged so.

    Timestamps start at 0. The same frames give the same bytes on the same machine.

    Args:
        path: the file; replaced if it exists.
        info: size, rate, pixel aspect.
        encoding: codec, quality, pixel format.

    Attributes:
        count: frames written so far.
    """

    def __init__(self, path: Path, info: VideoInfo, encoding: Encoding) -> None:
        self.path, self.count = path, 0
        self._shape = (info.height, info.width, 4 if encoding.alpha else 3)
        self._log = tempfile.TemporaryFile()
        self._process = start_ffmpeg(*_arguments(path, info, encoding), log=self._log, writes=True)

    def write(self, frame: np.ndarray) -> None:
        """Append a frame.

        Args:
            frame: uint8 [H, W, 3], or [H, W, 4] with transparency.

        Raises:
            MediaError: ffmpeg failed.
            ResourceError: the disk is full.
            ValueError: another shape or dtype.
        """
        if frame.dtype != np.uint8 or frame.shape != self._shape:
            raise ValueError(f"expected uint8 {list(self._shape)}, got {frame.dtype} {list(frame.shape)}")
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except OSError as error:
            self._process.wait()
            raise self._failure() from error
        self.count += 1

    def close(self) -> None:
        """Finish the file.

        Raises:
            MediaError: ffmpeg failed, with what it said last.
            ResourceError: the disk is full.
        """
        try:
            self._process.stdin.close()
        except OSError as error:
            self._process.wait()
            raise self._failure() from error
        if self._process.wait() != 0 or not self.path.exists():
            raise self._failure()
        self._log.close()

    def abort(self) -> None:
        """End at once; the file is worthless. Harmless after `close`."""
        stop(self._process)
        self._log.close()

    def _failure(self) -> StdcliError:
        return write_failure(self.path, last_lines(self._log))


def write_failure(path: Path, reason: str) -> StdcliError:
    """The error for a clip that ffmpeg could not write, by what it said last."""
    kind = ResourceError if os.strerror(errno.ENOSPC) in reason else MediaError
    return kind("the video cannot be written", where=path, got=reason)


def _arguments(path: Path, info: VideoInfo, encoding: Encoding) -> list[str]:
    layout = "rgba" if encoding.alpha else "rgb24"
    size = ["-video_size", f"{info.width}x{info.height}"]
    frames = input_pipe("-pixel_format", layout, *size, "-framerate", str(info.fps))
    filters = f"scale=out_color_matrix=bt709:out_range=tv:{EXACT_SCALING},format={encoding.pixels}"
    if not encoding.pixels.startswith(("rgb", "bgr", "gbr")):
        filters += f",setparams={BT709}"
    filters += f",setsar={info.pixel_aspect}"
    coding = ["-vf", filters, "-fps_mode", "passthrough", *encoding.arguments()]
    target = ["-fflags", "+bitexact", "-f", encoding.codec.segment_muxer, f"file:{path}"]
    return ["-y", "-loglevel", "warning", *frames, *coding, *target]
