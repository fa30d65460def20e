"""Style distance by Gram matrices of a convolutional network's features.

Legend: C channels, h w cells of a layer, H W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stdcli.metrics.luminance import shrink
from stdcli.metrics.metric import Backbone, Backbones, Metric, Subject
from stdcli.metrics.preparation import IMAGENET_DEVIATION, IMAGENET_MEAN, normalized

SIDE = 512  # shorter side at most; Gatys's own examples have about this size


def gram(subject: Subject, backbones: Backbones) -> float:
    """A quarter of the mean squared difference of Gram matrices; mean over layers, frames and styles.

    Raises:
        MediaError: the pictures are too small for the network.
    Source: Gatys 2016 (Image Style Transfer Using Convolutional Neural Networks) eqs. 3 to 5, all layers
        weighing the same; each matrix divided by its own number of cells, so that sizes may differ.
    """
    backbone = backbones.get("gram-backbone")
    side = min(SIDE, *subject.frames.shape[1:3])
    styles = [gram_matrices(shrink(style, side), backbone) for style in subject.styles]
    found = []
    for frame in subject.frames:
        matrices = gram_matrices(shrink(frame, side), backbone)
        found += [_distance(matrices, style) for style in styles]
    return float(np.mean(found))


def gram_matrices(picture: np.ndarray, backbone: Backbone) -> list[Tensor]:
    """Products of all pairs of channels, averaged over cells: [C, C] for each layer that counts."""
    pixels = normalized(picture, IMAGENET_MEAN, IMAGENET_DEVIATION)[None].to(backbone.device)
    with torch.inference_mode():
        layers = backbone.network(pixels)
        chosen = [layers[number - 1].flatten(2)[0] for number in backbone.network.architecture.taps.values()]
        return [(layer @ layer.T / layer.shape[1]).cpu() for layer in chosen]


def _distance(one: list[Tensor], other: list[Tensor]) -> float:
    pairs = zip(one, other, strict=True)
    return float(torch.stack([(a - b).square().mean() / 4 for a, b in pairs]).mean())


METRIC = Metric(
    name="gram",
    title="Gram distance",
    group="style",
    better="lower",
    lowest=0.0,
    highest=None,
    needs=("style",),
    cite="Gatys et al. 2016, Image Style Transfer Using Convolutional Neural Networks",
    protocol="after ReLU of conv1_1 to conv5_1 (VGG-19) or conv1 to conv5 (AlexNet), layers weigh the same; "
    "shorter side at most 512 and the style's at most the result's, by Lanczos; ImageNet mean and deviation",
    measure=gram,
    backbones=("gram-backbone",),
)
