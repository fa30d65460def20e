"""One clip through a stylizer: every frame, same size, same rate, same sound.

Frames stream: at most one batch is in memory, whatever the clip's length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from stdcli.console import Progress
from stdcli.media.video import VideoInfo, VideoWriter, iter_frames

Batch = Callable[[np.ndarray], np.ndarray]


def stylize_clip(
    source: Path,
    output: Path,
    stylize: Batch,
    *,
    info: VideoInfo,
    batch_size: int,
    comment: str | None,
    overwrite: bool,
    progress: Progress,
) -> tuple[int, list[str]]:
    """Restyle a clip file.

    Args:
        source: the clip.
        output: result; appears only when complete.
        stylize: uint8 [B, H, W, 3] -> the same.
        info: of `source`.
        batch_size: frames per call.
        comment: text for the container's comment, or None.
        overwrite: whether `output` may be replaced.
        progress: advanced per frame.

    Returns:
        (number of frames written, what the user should know).
    """
    count = 0
    with VideoWriter(output, info, audio_from=source, comment=comment, overwrite=overwrite) as writer:
        for frame in _restyled(iter_frames(source, info), stylize, batch_size):
            writer.write(frame)
            progress.advance()
            count += 1
    return count, list(writer.notes)


def _restyled(frames: Iterable[np.ndarray], stylize: Batch, batch_size: int) -> Iterator[np.ndarray]:
    remaining = iter(frames)
    while batch := list(islice(remaining, batch_size)):
        yield from stylize(np.stack(batch))
