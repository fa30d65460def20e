"""Where the frames of a clip go: segments that become one file, or numbered pictures.

A sink is used by one thread. Whatever it wrote before the last `end_segment` outlives a killed process.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import numpy as np

from stdcli.disk.removing import remove_file
from stdcli.errors import MediaError
from stdcli.inference.job import WHOLE, Job
from stdcli.media.encode import PictureWriter
from stdcli.media.mux import Companions, join
from stdcli.media.output import publish, write_errors
from stdcli.media.probe import VideoInfo
from stdcli.media.sequence import Numbered, write_frame
from stdcli.media.video_codecs import Encoding


class Sink(Protocol):
    """Frames in, a result out."""

    def write(self, frames: np.ndarray) -> None:
        """Append frames, uint8 [B, H, W, 3 or 4]."""

    def end_segment(self, memory: Mapping[str, np.ndarray]) -> None:
        """Make what was written since the last call count as done."""

    def finish(self, *, overwrite: bool) -> None:
        """Put the result in its place."""

    def rescue(self) -> Path | None:
        """Make what there is usable after an interruption; its place, or None if there is nothing."""

    def abort(self) -> None:
        """Stop at once; harmless after anything else."""


class VideoSink:
    """A video file, coded in segments beside it.

    Args:
        output: the result.
        job: its unfinished state.
        info: size, rate, start of the result.
        encoding: of its pictures.
        companions: sound and the rest.
        comment: for the container's comment tag, or None.
    """

    def __init__(
        self,
        output: Path,
        job: Job,
        *,
        info: VideoInfo,
        encoding: Encoding,
        companions: Companions,
        comment: str | None,
    ) -> None:
        self._output, self._job, self._info = output, job, info
        self._encoding, self._companions, self._comment = encoding, companions, comment
        self._open: PictureWriter | None = None

    def write(self, frames: np.ndarray) -> None:
        """See `Sink`."""
        if self._open is None:
            path = self._job.segment(len(self._job.frames))
            self._open = PictureWriter(path, self._info, self._encoding)
        for frame in frames:
            self._open.write(frame)

    def end_segment(self, memory: Mapping[str, np.ndarray]) -> None:
        """See `Sink`."""
        writer = self._close()
        self._job.commit(writer.count, memory)

    def finish(self, *, overwrite: bool) -> None:
        """See `Sink`."""
        whole = self._job.folder / WHOLE
        self._join(self._job.segments, whole, self._job.count)
        with write_errors(self._output):
            publish(whole, self._output, overwrite=overwrite)
        self._job.forget()
        with suppress(OSError):  # somebody else's link of this name stays
            remove_file(partial_path(self._output))

    def rescue(self) -> Path | None:
        """See `Sink`; the file ends where the work did and is replaced by the next interruption."""
        parts, count = list(self._job.segments), self._job.count
        if self._open is not None:
            writer = self._close()
            parts, count = [*parts, writer.path], count + writer.count
        if not parts:
            return None
        whole, partial = self._job.folder / WHOLE, partial_path(self._output)
        self._join(parts, whole, count)
        with write_errors(partial):
            publish(whole, partial, overwrite=True)
        return partial

    def abort(self) -> None:
        """See `Sink`."""
        if self._open is not None:
            self._open.abort()
            self._open = None

    def _close(self) -> PictureWriter:
        writer, self._open = self._open, None
        try:
            writer.close()
        except BaseException:
            writer.abort()
            raise
        return writer

    def _join(self, parts: list[Path], target: Path, count: int) -> None:
        join(
            parts,
            target,
            output=self._output,
            info=self._info,
            encoding=self._encoding,
            count=count,
            companions=self._companions,
            comment=self._comment,
        )


class FramesSink:
    """Numbered pictures, each in its place as soon as it is written.

    Args:
        files: names of the results.
        job: their unfinished state.
        text: for the text fields of each picture.
    """

    def __init__(self, files: Numbered, job: Job, *, text: Mapping[str, str]) -> None:
        self._files, self._job, self._text = files, job, dict(text)
        self._written = 0

    def write(self, frames: np.ndarray) -> None:
        """See `Sink`."""
        for frame in frames:
            write_frame(self._files.file(self._job.count + self._written), frame, text=self._text)
            self._written += 1

    def end_segment(self, memory: Mapping[str, np.ndarray]) -> None:
        """See `Sink`."""
        written, self._written = self._written, 0
        self._job.commit(written, memory)

    def finish(self, *, overwrite: bool) -> None:
        """See `Sink`; there is nothing left to do."""
        self._job.forget()

    def rescue(self) -> Path | None:
        """See `Sink`."""
        return self._files.pattern.parent if self._job.count + self._written else None

    def abort(self) -> None:
        """See `Sink`."""


def partial_path(output: Path) -> Path:
    """What an interrupted clip leaves: `clip.mp4` -> `clip.partial.mp4`."""
    return output.with_name(f"{output.stem}.partial{output.suffix}")


def check_frames(files: Numbered, count: int, *, overwrite: bool) -> None:
    """Refuse numbered results that would replace something.

    Raises:
        MediaError: a file of one of the names exists.
    """
    folder = files.pattern.parent
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    taken = [name for name in (files.file(k).name for k in range(count)) if name in names]
    if taken and not overwrite:
        raise MediaError(
            "frames of these names exist already",
            where=folder / taken[0],
            got=f"{len(taken)} of {count}",
            hint="add --overwrite, or name another folder",
        )
