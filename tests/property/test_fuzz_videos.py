"""A damaged clip is decoded or refused as what it is: nothing else, and in time.

Every ffmpeg start costs about 50 ms, and a clip takes three: the default run is a sample of the whole.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stdcli.errors import MediaError
from stdcli.media.probe import VideoInfo, probe
from stdcli.media.video import VideoWriter, iter_frames
from tests.mutations import at_most, mutate

SAMPLE, COUNT = 160, 1000
LIMIT_S = 20.0
MAX_FRAMES = 1000  # a claimed length, of which no clip here has a hundredth
KINDS = (".mp4", ".mkv", ".webm")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clips")
    y, x = np.mgrid[:24, :32]
    info = VideoInfo(width=32, height=24, fps=Fraction(25))
    for suffix in KINDS:
        with VideoWriter(folder / f"a{suffix}", info) as writer:
            for shift in range(0, 60, 10):
                writer.write(np.stack([x * 7 + shift, y * 9, x + y], axis=2).astype(np.uint8))
    return {suffix: (folder / f"a{suffix}").read_bytes() for suffix in KINDS}


def is_decoded(path: Path) -> bool:
    """Whether the clip decodes; a `MediaError` is the only other way out."""
    try:
        info = probe(path)
        count = 0
        for frame in iter_frames(path, info):
            assert (frame.dtype, frame.shape) == (np.uint8, (info.height, info.width, 3))
            count += 1
            assert count <= MAX_FRAMES
    except MediaError as error:
        assert error.where == str(path)
        return False
    assert count == info.frames
    return True


def check_mutations(clips: dict[str, bytes], folder: Path, indices: range) -> None:
    decoded = 0
    for index in indices:
        rng = np.random.default_rng((9, index))
        suffix, other = KINDS[index % 3], KINDS[rng.integers(3)]
        path = folder / f"damaged{suffix}"
        path.write_bytes(mutate(clips[suffix], clips[other], rng))
        with at_most(LIMIT_S):
            decoded += is_decoded(path)
    assert 0 < decoded < len(indices)
    assert sorted(file.suffix for file in folder.iterdir()) == sorted(KINDS), "something was left behind"


def test_whole_clips_decode(clips, tmp_path):
    for suffix, data in clips.items():
        (tmp_path / f"a{suffix}").write_bytes(data)
        assert is_decoded(tmp_path / f"a{suffix}")


def test_a_damaged_clip_is_decoded_or_refused(clips, tmp_path):
    check_mutations(clips, tmp_path, range(SAMPLE))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_damaged_clips_are_decoded_or_refused(clips, tmp_path):
    check_mutations(clips, tmp_path, range(SAMPLE, COUNT))
