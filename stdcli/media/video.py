"""Clips, one frame at a time: reading every frame, writing at the same rate and size with the sound kept.

Frames are uint8 sRGB as displayed, [H, W, 3] or, where a clip has transparency, [H, W, 4] (straight alpha, no
colour of its own where nothing is visible).
At most one frame is held here, whatever the clip's length. A result appears under its name only when
complete. Knows nothing of models.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np

from stdcli.disk.removing import remove_folder
from stdcli.errors import MediaError
from stdcli.media.arrays import hide_transparent
from stdcli.media.containers import encoding_for
from stdcli.media.encode import EXACT_SCALING, PictureWriter
from stdcli.media.ffmpeg import input_file, last_lines, start_ffmpeg, stop
from stdcli.media.mux import find_companions, join
from stdcli.media.output import check_output, publish, temporary_path, write_errors
from stdcli.media.probe import VIDEO_STREAM, VideoInfo, probe
from stdcli.media.video_codecs import Encoding

__all__ = ["VideoInfo", "VideoWriter", "iter_frames", "probe"]


def iter_frames(
    path: Path, info: VideoInfo | None = None, *, fps: Fraction | None = None, skip: int = 0
) -> Generator[np.ndarray, None, None]:
    """Decode a clip frame by frame. Closing the generator early ends ffmpeg.

    Args:
        path: the clip.
        info: what `probe` told about it, if at hand; its `fps`, `first` and `frames` count.
        fps: for `probe`, where `info` is None.
        skip: frames to leave out at the beginning.

    Yields:
        uint8 [H, W, 3], or [H, W, 4] with `info.alpha`, a new array each: every frame of the clip, or
        resampled to `info.fps` if that differs from the clip's own.

    Raises:
        MediaError: as `probe`; or the clip is damaged: fewer frames come out than it has.
    """
    info = info or probe(path, fps=fps)
    begin = info.first + skip
    wanted = None if info.frames is None else info.frames - skip
    sought = begin if info.seekable and not info.resample else 0
    arguments = [*_seek(info, sought), *info.decoder, *input_file(path), *_decoding(info)]
    if wanted is not None:
        arguments += ["-frames:v", str(begin - sought + wanted)]
    arguments += ["-f", "rawvideo", "pipe:1"]
    count = -(begin - sought)
    shape = (info.height, info.width, 4 if info.alpha else 3)
    with tempfile.TemporaryFile() as log:
        process = start_ffmpeg("-loglevel", "error", *arguments, log=log, writes=False)
        try:
            while (frame := _read_frame(process.stdout, shape)) is not None:
                count += 1
                if count > 0:
                    if info.alpha:
                        frame[..., :3] = hide_transparent(frame[..., :3], frame[..., 3])
                    yield frame
            code = process.wait()
        finally:
            stop(process)
        if code != 0 or count <= 0 or (wanted is not None and count != wanted):
            expected = None if wanted is None else f"{wanted} frames"
            got = f"{max(count, 0)} frames ({last_lines(log)})"
            raise MediaError("the video is damaged", where=path, got=got, expected=expected)


def _seek(info: VideoInfo, frame: int) -> list[str]:
    """Options that begin at a frame: ffmpeg decodes from the key frame before and drops what is too early."""
    return ["-ss", f"{float(info.start_s + (frame - Fraction(1, 2)) / info.fps):.6f}"] if frame else []


def _decoding(info: VideoInfo) -> list[str]:
    matrix = f"in_color_matrix={info.assumed_matrix}:" if info.assumed_matrix and not info.mapping else ""
    filters = [*info.filters, *([f"fps={info.fps}"] if info.resample else []), *info.mapping]
    filters += [f"scale={matrix}{EXACT_SCALING}", f"format={'rgba' if info.alpha else 'rgb24'}"]
    return ["-map", VIDEO_STREAM, "-vf", ",".join(filters), "-fps_mode", "passthrough"]


def _read_frame(pipe: BinaryIO, shape: tuple[int, int, int]) -> np.ndarray | None:
    """The next frame; None at the end. A last piece of a frame counts as none; the frame count reveals it."""
    frame = np.empty(shape, np.uint8)
    return frame if pipe.readinto(frame.reshape(-1).data) == frame.size else None


class VideoWriter:
    """Write a clip in one go, as a context manager; on leaving normally the file appears, else nothing does.

    .mp4, .mov and .mkv hold H.264: 4:2:0 at even sizes; an odd size is kept exactly by 4:4:4 chroma, which
    some players cannot show. .webm holds VP9 4:2:0 at any size. Transparent clips: ProRes 4444 in .mov, VP9
    in .webm, FFV1 in .mkv. Colours are BT.709, tagged so. Sound, subtitles, chapters and tags of
    `audio_from` come along, copied bit for bit where the container takes the codec.

    Args:
        path: the result; the suffix chooses the container.
        info: size, rate, start, pixel aspect, transparency; `frames`, if not None, must be met.
        audio_from: file whose sound, subtitles, chapters and tags come along; None for a silent clip.
        comment: for the container's comment tag; the recipe as JSON, where `read_recipe` finds it.
        crf: quality in the codec's own scale, lower is better; None for 18 (H.264) or 24 (VP9).
        overwrite: whether an existing file may be replaced. Never the inputs.

    Attributes:
        notes: what the user should know, such as sound that had to be re-encoded.

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
        self.encoding = encoding_for(self.path, (info.height, info.width), alpha=info.alpha, crf=crf)
        inputs = [Path(file) for file in (info.path, audio_from) if file is not None]
        check_output(self.path, overwrite=overwrite, inputs=inputs)
        self.companions = find_companions(None if audio_from is None else Path(audio_from), self.path)
        self.notes = [*info.notes, *self.companions.notes, *encoding_notes(info, self.encoding)]

    def __enter__(self) -> VideoWriter:
        folder = temporary_path(self.path)
        with ExitStack() as stack:
            folder.mkdir()
            stack.callback(remove_folder, folder)
            self._pictures = PictureWriter(folder / "0", self.info, self.encoding)
            stack.callback(self._pictures.abort)
            self._cleanup = stack.pop_all()
        return self

    @property
    def count(self) -> int:
        """Frames written so far."""
        return self._pictures.count

    def write(self, frame: np.ndarray) -> None:
        """Append a frame: see `PictureWriter.write`."""
        self._pictures.write(frame)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._cleanup:
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        expected = self.info.frames
        if self.count == 0 or (expected is not None and self.count != expected):
            got = f"{self.count} frames"
            raise MediaError("the number of frames is wrong", where=self.path, got=got, expected=expected)
        self._pictures.close()
        whole = self._pictures.path.with_name("whole")
        join(
            [self._pictures.path],
            whole,
            output=self.path,
            info=self.info,
            encoding=self.encoding,
            count=self.count,
            companions=self.companions,
            comment=self.comment,
        )
        with write_errors(self.path):
            publish(whole, self.path, overwrite=self.overwrite)


def encoding_notes(info: VideoInfo, encoding: Encoding) -> list[str]:
    """What the user should know about how the pictures are kept."""
    notes = []
    odd_sides = info.width % 2 or info.height % 2
    if odd_sides and encoding.name in ("h264", "hevc") and "444" in encoding.pixels:
        size = f"{info.width}x{info.height}"
        notes.append(f"{size} is odd and kept by 4:4:4 chroma, which some players cannot show")
    if info.alpha and not encoding.alpha:
        notes.append(
            f"transparency is lost: {encoding.name} ({encoding.pixels}) has none; write .webm, .mov or .mkv"
        )
    return notes
