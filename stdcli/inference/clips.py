"""One clip through a session: every frame, same size, same rate, same sound; what was done is never lost.

Decoding, stylizing and coding run side by side; a few batches are in memory, whatever the clip's length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import islice

import numpy as np

from stdcli.errors import Interrupted, MediaError
from stdcli.inference.job import SEGMENT_FRAMES, Job
from stdcli.inference.sinks import Sink
from stdcli.media.probe import VideoInfo
from stdcli.media.sequence import iter_sequence
from stdcli.media.sources import is_pattern
from stdcli.media.video import iter_frames
from stdcli.reporter import Progress
from stdcli.runtime.interrupt import deferred_interrupt
from stdcli.runtime.read_ahead import WriteBehind, read_ahead

READ_THROUGH_PX = 50_000_000
"""A clip of fewer pixels is read through sooner than ffmpeg is started for each sample."""

SAMPLES = 12
"""Frames by which the colours of a clip are known."""

Restyle = Callable[[np.ndarray], np.ndarray]
TemporalBlend = Callable[[], Mapping[str, np.ndarray]]


def stylize_clip(
    info: VideoInfo,
    restyle: Restyle,
    *,
    sink: Sink,
    job: Job,
    batch_size: int,
    memory: TemporalBlend,
    overwrite: bool,
    progress: Progress,
) -> None:
    """Restyle a clip, from where its job stands to the end.

    Args:
        info: of the clip; `frames` is known.
        restyle: uint8 [B, H, W, 3] -> the same.
        sink: where frames go.
        job: the clip's state on disk, entered.
        batch_size: frames per call of `restyle`.
        memory: what `restyle` must remember from one frame to the next, as of its last call.
        overwrite: whether the result may replace a file.
        progress: advanced per frame.

    Raises:
        Interrupted: Ctrl-C; what was done is kept, and made usable.
        StdcliError: anything else; finished segments are kept.
    """
    count = job.count
    frames = iter_clip(info, skip=count) if count < info.frames else (frame for frame in ())
    progress.advance(count)
    try:
        with (
            deferred_interrupt() as stop,
            closing(frames),
            WriteBehind() as behind,
            closing(read_ahead(_batches(frames, batch_size, count))) as batches,
        ):
            for batch in batches:
                behind.submit(sink.write, _restyled(batch, restyle))
                count += len(batch)
                if count % SEGMENT_FRAMES == 0 or count == info.frames:
                    behind.submit(sink.end_segment, dict(memory()))
                progress.advance(len(batch))
                if stop.requested and count < info.frames:
                    break
        if stop.requested and count < info.frames:
            raise _interrupted(info, sink, job, count)
        if job.count != info.frames:
            raise MediaError(
                "the number of frames is wrong", where=info.path, got=job.count, expected=info.frames
            )
        sink.finish(overwrite=overwrite)
    finally:
        sink.abort()


def iter_clip(info: VideoInfo, *, skip: int = 0) -> Iterator[np.ndarray]:
    """Frames of a video file or of numbered pictures: see `iter_frames` and `iter_sequence`."""
    return (
        iter_sequence(info, skip=skip) if is_pattern(info.path) else iter_frames(info.path, info, skip=skip)
    )


def sample_indices(frames: int) -> list[int]:
    """At most `SAMPLES` frames from all over a clip; first and last are left out where there are others."""
    count = min(SAMPLES, frames)
    return [(2 * k + 1) * frames // (2 * count) for k in range(count)]


def sample_frames(info: VideoInfo) -> list[np.ndarray]:
    """The frames of a clip at `sample_places`.

    Returns:
        uint8 [H, W, 3] each.
    """
    indices = sample_indices(info.frames)
    is_long = info.frames * info.width * info.height > READ_THROUGH_PX
    if is_long and info.seekable and not info.resample:
        parts = (iter_clip(replace(info, first=info.first + position, frames=1)) for position in indices)
        return [frame[..., :3] for part in parts for frame in part]
    wanted = set(indices)
    with closing(iter_clip(info)) as frames:
        return [frame[..., :3] for k, frame in enumerate(frames) if k in wanted]


def _batches(frames: Iterator[np.ndarray], size: int, first: int) -> Iterator[np.ndarray]:
    """uint8 [B, H, W, C]; no batch reaches over the end of a segment, so that continuing changes none."""
    count = first
    while batch := list(islice(frames, min(size, SEGMENT_FRAMES - count % SEGMENT_FRAMES))):
        count += len(batch)
        yield np.stack(batch)


def _restyled(batch: np.ndarray, restyle: Restyle) -> np.ndarray:
    """Frames restyled, their transparency as it was."""
    result = restyle(np.ascontiguousarray(batch[..., :3]))
    return result if batch.shape[3] == 3 else np.concatenate([result, batch[..., 3:]], axis=3)


def _interrupted(info: VideoInfo, sink: Sink, job: Job, count: int) -> Interrupted:
    rescued = sink.rescue()
    got = f"{count} of {info.frames} frames, ready to be looked at"
    hint = "the same command continues" if job.count else None
    return Interrupted("interrupted", where=rescued, got=got, hint=hint)
