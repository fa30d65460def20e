"""AlexNet and VGG-19 without their classifiers: the features that perceptual metrics compare.

Weights are files in torchvision's format (`features.0.weight`, ...); which network it is shows in the names.

Legend: B pictures, C channels, h w cells of a layer, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stdcli.errors import MediaError, ModelError
from stdcli.models.perceptual.pth import check_tensors, read_published


@dataclass(frozen=True)
class Convolution:
    """A convolution, with the ReLU that follows it.

    Attributes:
        channels: that it gives.
        kernel: side of its window.
        stride: its step.
    """

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


@dataclass(frozen=True)
class Pool:
    """A maximum over windows."""

    kernel: int


@dataclass(frozen=True)
class Architecture:
    """A network.

    Attributes:
        title: as people call it.
        layers: one after the other.
        smallest: side in pixels of the smallest picture of which every layer has a cell.
        taps: which of its convolutions stand for it in Gram matrices, from 1, by their published names.
    """

    title: str
    layers: tuple[Convolution | Pool, ...]
    smallest: int
    taps: Mapping[str, int]


def _vgg(*blocks: tuple[int, int]) -> tuple[Convolution | Pool, ...]:
    return tuple(layer for count, width in blocks for layer in (*[Convolution(width)] * count, Pool(2)))


ALEXNET = Architecture(
    "AlexNet",
    (
        Convolution(64, kernel=11, stride=4, padding=2),
        Pool(3),
        Convolution(192, kernel=5, padding=2),
        Pool(3),
        Convolution(384),
        Convolution(256),
        Convolution(256),
    ),
    smallest=31,
    taps={"conv1": 1, "conv2": 2, "conv3": 3, "conv4": 4, "conv5": 5},
)
VGG19 = Architecture(
    "VGG-19",
    _vgg((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))[:-1],
    smallest=16,
    taps={"conv1_1": 1, "conv2_1": 3, "conv3_1": 5, "conv4_1": 9, "conv5_1": 13},
)


class ConvolutionStack(nn.Module):
    """Convolutions, ReLUs and pooling one after the other.

    Args:
        architecture: the layers.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        layers: list[nn.Module] = []
        width = 3
        for layer in architecture.layers:
            if isinstance(layer, Pool):
                layers.append(nn.MaxPool2d(layer.kernel, stride=2))
                continue
            layers += [
                nn.Conv2d(width, layer.channels, layer.kernel, layer.stride, layer.padding),
                nn.ReLU(),
            ]
            width = layer.channels
        self.features = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """What every ReLU gives, [B, C, h, w] each, of normalised pictures [B, 3, H, W].

        Raises:
            MediaError: the pictures are too small for the network.
        """
        if min(pixels.shape[-2:]) < self.architecture.smallest:
            raise MediaError(
                f"this picture is too small for {self.architecture.title}",
                got=f"{pixels.shape[-1]}x{pixels.shape[-2]} pixels",
                expected=f"at least {self.architecture.smallest} on each side",
            )
        found = []
        for layer in self.features:
            pixels = layer(pixels)
            if isinstance(layer, nn.ReLU):
                found.append(pixels)
        return found


def load_alexnet(weights: Path) -> ConvolutionStack:
    """AlexNet's features from a file in torchvision's format.

    Raises:
        ModelError: the file is damaged, or not AlexNet.
    Source: Krizhevsky 2014 (One weird trick for parallelizing convolutional neural networks).
    """
    return _load(weights, read_published(weights), ALEXNET)


def load_convolutions(weights: Path) -> ConvolutionStack:
    """AlexNet's or VGG-19's features, whichever the file is of.

    Raises:
        ModelError: the file is damaged, or neither of them.
    Source: Simonyan 2015 (VGG); Krizhevsky 2014 (AlexNet).
    """
    tensors = read_published(weights)
    first = tensors.get("features.0.weight")
    kernels = {architecture.layers[0].kernel: architecture for architecture in (ALEXNET, VGG19)}
    if first is None or first.ndim != 4 or first.shape[-1] not in kernels:
        raise ModelError(
            "neither AlexNet nor VGG-19 in torchvision's format",
            where=weights,
            got=", ".join(sorted(tensors)[:3]),
            expected="features.0.weight and so on",
        )
    return _load(weights, tensors, kernels[first.shape[-1]])


def _load(weights: Path, tensors: Mapping[str, Tensor], architecture: Architecture) -> ConvolutionStack:
    with torch.device("meta"):
        stack = ConvolutionStack(architecture)
    needed = {name: v.float() for name, v in tensors.items() if not name.startswith("classifier.")}
    expected = {name: tuple(value.shape) for name, value in stack.state_dict().items()}
    check_tensors(needed, expected, what=architecture.title, where=weights)
    stack.load_state_dict(needed, assign=True)
    return stack
