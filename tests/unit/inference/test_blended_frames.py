"""Frames of a clip through a session with memory: in order, whatever the batch."""

from __future__ import annotations

import numpy as np
import torch

from stdcli.inference.session import _BlendedFrames
from stdcli.inference.temporal_blend import LARGEST_WEIGHT, TemporalBlend


def test_frames_of_a_batch_remember_each_other_in_their_order():
    """A source that stands still, stylized to flat grey: each result is a share of the one before."""
    gray = torch.tensor([-1.0, 0.2, 1.0, -0.4]).view(4, 1, 1, 1).expand(4, 3, 16, 24)
    source = torch.full((4, 3, 16, 24), 0.3)
    together = _BlendedFrames(lambda pixels, mask: gray, TemporalBlend("blend"))(source)
    memory = TemporalBlend("blend")
    alone = [_BlendedFrames(lambda pixels, mask, g=g: g[None], memory)(source[:1]) for g in gray]
    assert torch.equal(together, torch.cat(alone))
    expected = -1.0
    for level, frame in zip(gray[:, 0, 0, 0].tolist(), together, strict=True):
        expected = LARGEST_WEIGHT * expected + (1 - LARGEST_WEIGHT) * level
        np.testing.assert_allclose(frame, expected, atol=0.01)
