"""Perceptual distance of result and content: LPIPS. Legend: B pictures, C channels, h w cells, H W pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vector_norm

from stdcli.metrics.metric import Backbones, Metric, Subject
from stdcli.metrics.preparation import in_batches, normalized

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures from -1 to 1
MEAN = tuple((1 + shift) / 2 for shift in SHIFT)  # the same for pictures from 0 to 1
DEVIATION = tuple(scale / 2 for scale in SCALE)
EPS = 1e-10


def lpips(subject: Subject, backbones: Backbones) -> float:
    """Distance of result and content, 0 where they are the same; mean over frames.

    Raises:
        MediaError: the pictures are too small for AlexNet.
    Source: Zhang 2018 (The Unreasonable Effectiveness of Deep Features as a Perceptual Metric) eq. 1, v0.1.
    """
    stack, heads = backbones.get("alexnet"), backbones.get("lpips-alex")

    def distances(pairs: Tensor) -> Tensor:
        found = zip(*(stack.network(pictures) for pictures in pairs.unbind(1)), strict=True)
        return heads.network([squared_difference(a, b) for a, b in found])

    frames = zip(subject.frames, subject.content, strict=True)
    pairs = (torch.stack([normalized(picture, MEAN, DEVIATION) for picture in pair]) for pair in frames)
    return float(in_batches(pairs, distances, stack.device, size=1).mean())


def squared_difference(result: Tensor, content: Tensor) -> Tensor:
    """Squares [B, C, h, w] of what two layers [B, C, h, w] differ by, each cell's channels at length 1."""
    one, other = (layer / (vector_norm(layer, dim=1, keepdim=True) + EPS) for layer in (result, content))
    return (one - other).square()


METRIC = Metric(
    name="lpips",
    title="perceptual distance (LPIPS)",
    group="content",
    better="lower",
    lowest=0.0,
    highest=None,
    needs=("content",),
    cite="Zhang et al. 2018, The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
    protocol="AlexNet, linear heads v0.1, at the result's size, not resized",
    measure=lpips,
    backbones=("alexnet", "lpips-alex"),
)
