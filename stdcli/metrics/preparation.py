"""Pictures as networks take them: sizes, crops, mean and deviation; and frames in batches.

Resizing is Pillow's, on 8 bits, with its antialiasing: what the published scores were computed with.

Legend: B pictures, F frames, H W pixels, S side of a network's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 8
CLIP_PROTOCOL = "short side 224 bicubic, centre crop 224, CLIP mean and deviation"


def clip_input(picture: np.ndarray, side: int) -> Tensor:
    """A picture as CLIP takes it: shorter side to S by bicubic, the centre S x S.

    Args:
        picture: uint8 [H, W, 3].
        side: S.

    Returns:
        float32 [3, S, S].
    Source: Radford 2021 (CLIP), `clip/clip.py` of openai/CLIP; sizes and offsets rounded as torchvision does.
    """
    image = _short_side(Image.fromarray(picture), side, Image.Resampling.BICUBIC)
    left, top = (round((length - side) / 2) for length in image.size)
    return normalized(np.asarray(image.crop((left, top, left + side, top + side))), CLIP_MEAN, CLIP_DEVIATION)


def square_input(picture: np.ndarray, side: int) -> Tensor:
    """The whole picture as S x S by bilinear, whatever its shape, with ImageNet's mean and deviation.

    Args:
        picture: uint8 [H, W, 3].
        side: S.

    Returns:
        float32 [3, S, S].
    """
    image = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
    return normalized(np.asarray(image), IMAGENET_MEAN, IMAGENET_DEVIATION)


def normalized(picture: np.ndarray, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """A uint8 picture [H, W, 3] to float32 [3, H, W], from 0..1 with mean and deviation taken out."""
    values = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    return (values - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]


def in_batches(
    inputs: Iterable[Tensor],
    network: Callable[[Tensor], Tensor],
    device: torch.device,
    *,
    size: int = BATCH,
) -> Tensor:
    """What a network gives for pictures of one size, a few at a time.

    Args:
        inputs: [3, H, W] each; taken from the iterator as they are needed.
        network: a batch [B, 3, H, W] to a tensor whose first axis is B.
        device: where the network is.
        size: how many at a time at most.

    Returns:
        All of them in order, on the CPU.
    """
    given, found = iter(inputs), []
    with torch.inference_mode():
        while batch := [picture for _, picture in zip(range(size), given, strict=False)]:
            found.append(network(torch.stack(batch).to(device)).cpu())
    return torch.cat(found)


def _short_side(image: Image.Image, side: int, resample: Image.Resampling) -> Image.Image:
    """Shorter side to `side`, the longer one in proportion, rounded down."""
    short = min(image.size)
    width, height = (side if length == short else int(side * length / short) for length in image.size)
    return image.resize((width, height), resample)
