"""Clips, one frame at a time: reading every frame, writing at the same rate and size with the sound kept.

Frames are uint8 [H, W, 3] sRGB as displayed. At most one frame is held here, whatever the clip's length. A
result appears under its name only when complete. Knows nothing of models.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Generator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np

from stdcli.errors import MediaError, ResourceError, StdcliError
from stdcli.media.arrays import check_rgb
from stdcli.media.containers import container_of, stream_plan
from stdcli.media.ffmpeg import input_file, last_lines, start_ffmpeg, stop
from stdcli.media.output import check_output, publish, temporary_path, write_errors
from stdcli.media.probe import VIDEO_STREAM, VideoInfo, count_packets, probe

__all__ = ["VideoInfo", "VideoWriter", "iter_frames", "probe"]

EXACT_SCALING = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
BT709 = "colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
MIN_CLOCK_HZ = 10_000


def iter_frames(
    path: Path, info: VideoInfo | None = None, *, fps: Fraction | None = None
) -> Generator[np.ndarray, None, None]:
    """Decode a clip frame by frame. Closing the generator early ends ffmpeg.

    Args:
        path: the clip.
        info: what `probe` told about it, if at hand; its `fps` counts.
        fps: for `probe`, where `info` is None.

    Yields:
        uint8 [H, W, 3], a new array each: every frame of the clip, or resampled to `info.fps` if that differs
        from the clip's own.

    Raises:
        MediaError: as `probe`; or the clip is damaged: fewer frames come out than it has.
    """
    info = info or probe(path, fps=fps)
    matrix = f"in_color_matrix={info.assumed_matrix}:" if info.assumed_matrix else ""
    filters = [f"fps={info.fps}"] if info.resample else []
    filters += [f"scale={matrix}{EXACT_SCALING}", "format=rgb24"]
    arguments = ["-map", VIDEO_STREAM, "-vf", ",".join(filters), "-fps_mode", "passthrough"]
    arguments += ["-f", "rawvideo", "pipe:1"]
    count = 0
    with tempfile.TemporaryFile() as log:
        process = start_ffmpeg("-loglevel", "error", *input_file(path), *arguments, log=log, writes=False)
        try:
            while (frame := _read_frame(process.stdout, info.height, info.width)) is not None:
                count += 1
                yield frame
            code = process.wait()
        finally:
            stop(process)
        if code != 0 or count == 0 or (info.frames is not None and count != info.frames):
            expected = None if info.frames is None else f"{info.frames} frames"
            got = f"{count} frames ({last_lines(log)})"
            raise MediaError("the video is damaged", where=path, got=got, expected=expected)


def _read_frame(pipe: BinaryIO, height: int, width: int) -> np.ndarray | None:
    """The next frame; None at the end. A last piece of a frame counts as none; the frame count reveals it."""
    frame = np.empty((height, width, 3), np.uint8)
    return frame if pipe.readinto(frame.reshape(-1).data) == frame.size else None


class VideoWriter:
    """Write a clip, as a context manager; on leaving normally the file appears, on an exception nothing does.

    .mp4, .mov and .mkv hold H.264: 4:2:0 at even sizes; an odd size is kept exactly by 4:4:4 chroma, which
    some players cannot show. .webm holds VP9 4:2:0 at any size. Colours are BT.709, tagged so. Sound,
    subtitles, chapters and tags of `audio_from` come along, copied bit for bit where the container takes the
    codec.

    Args:
        path: the result; the suffix chooses the container.
        info: size, rate, start, pixel aspect; `frames`, if not None, must be met.
        audio_from: file whose sound, subtitles, chapters and tags come along; None for a silent clip.
        comment: for the container's comment tag; the recipe as JSON, where `read_recipe` finds it.
        crf: quality in the codec's own scale, lower is better; None for 18 (H.264) or 24 (VP9).
        overwrite: whether an existing file may be replaced. Never the inputs.

    Attributes:
        notes: what the user should know, such as sound that had to be re-encoded.
        count: frames written so far.

    Raises:
        MediaError: unknown container, the file exists or is an input, no folder, unreadable sound; on writing
            and leaving: ffmpeg failed (with what it said last), or the number of frames is wrong.
    """

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        *,
        audio_from: Path | None = None,
        comment: str | None = None,
        crf: int | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path, self.info, self.comment, self.overwrite = Path(path), info, comment, overwrite
        self.audio_from = None if audio_from is None else Path(audio_from)
        self.container = container_of(self.path)
        self.crf = self.container.crf if crf is None else crf
        self.notes: list[str] = list(info.notes)
        self.count = 0
        inputs = [file for file in (info.path, self.audio_from) if file is not None]
        check_output(self.path, overwrite=overwrite, inputs=inputs)
        self._stream_options: list[str] = []
        if self.audio_from is not None:
            self._stream_options, stream_notes = stream_plan(self.audio_from, self.path, self.container)
            self.notes += stream_notes
        if self._pixel_format == "yuv444p":
            size = f"{info.width}x{info.height}"
            self.notes.append(f"{size} is odd and kept by 4:4:4 chroma, which some players cannot show")

    def __enter__(self) -> VideoWriter:
        self._temporary = temporary_path(self.path)
        with ExitStack() as stack:
            stack.callback(self._temporary.unlink, missing_ok=True)
            self._log = stack.enter_context(tempfile.TemporaryFile())
            self._process = start_ffmpeg(*self._arguments(), log=self._log, writes=True)
            stack.callback(stop, self._process)
            self._cleanup = stack.pop_all()
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append a frame.

        Args:
            frame: uint8 [H, W, 3] of the clip's size.

        Raises:
            MediaError: ffmpeg failed.
            ValueError: another shape or dtype.
        """
        check_rgb(frame)
        if frame.shape[:2] != (self.info.height, self.info.width):
            raise ValueError(f"expected {self.info.height}x{self.info.width} pixels, got {frame.shape[:2]}")
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except OSError as error:
            self._process.wait()
            raise self._failure() from error
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._cleanup:
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        expected = self.info.frames
        if self.count == 0 or (expected is not None and self.count != expected):
            got = f"{self.count} frames"
            raise MediaError("the number of frames is wrong", where=self.path, got=got, expected=expected)
        try:
            self._process.stdin.close()
        except OSError as error:
            self._process.wait()
            raise self._failure() from error
        if self._process.wait() != 0 or not self._temporary.exists():
            raise self._failure()
        stored = count_packets(self._temporary)
        if stored != self.count:
            raise MediaError("frames were lost in writing", where=self.path, got=stored, expected=self.count)
        with write_errors(self.path):
            publish(self._temporary, self.path, overwrite=self.overwrite)

    def _failure(self) -> StdcliError:
        reason = last_lines(self._log)
        kind = ResourceError if os.strerror(errno.ENOSPC) in reason else MediaError
        return kind("the video cannot be written", where=self.path, got=reason)

    @property
    def _pixel_format(self) -> str:
        odd = self.info.width % 2 or self.info.height % 2
        return "yuv444p" if odd and not self.container.takes_odd_420 else "yuv420p"

    def _arguments(self) -> list[str]:
        info, container = self.info, self.container
        frames = ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{info.width}x{info.height}"]
        frames += ["-framerate", str(info.fps), "-i", "pipe:0"]
        source = [] if self.audio_from is None else input_file(self.audio_from)
        filters = f"scale=out_color_matrix=bt709:out_range=tv:{EXACT_SCALING},format={self._pixel_format}"
        filters += f",setparams={BT709},setsar={info.pixel_aspect}"
        clock_hz = _clock_hz(info.fps)
        if info.start_s:
            filters += f",settb=1/{clock_hz},setpts=PTS+{round(info.start_s * clock_hz)}"
        encoding = ["-map", "0:v:0", "-vf", filters, "-fps_mode", "passthrough"]
        encoding += [*container.video, "-crf", str(self.crf)]
        if info.start_s:
            encoding += ["-enc_time_base", f"1:{clock_hz}"]
        tags = [] if self.audio_from is None else ["-map_metadata", "1", "-map_chapters", "1"]
        tags += [] if self.comment is None else ["-metadata", f"comment={self.comment}"]
        result = [*container.muxer_options, "-f", container.muxer, f"file:{self._temporary}"]
        options = [*encoding, *self._stream_options, *tags]
        return ["-y", "-loglevel", "warning", *frames, *source, *options, *result]


def _clock_hz(fps: Fraction) -> int:
    """A clock on which frames at `fps` fall exactly and a delay is kept to a tenth of a millisecond."""
    clock_hz = fps.numerator
    while clock_hz < MIN_CLOCK_HZ:
        clock_hz *= 2
    return clock_hz
