"""Motion between two frames: dense optical flow, warping along it, and where it cannot be followed.

A flow is float32 [H, W, 2], in pixels, x then y: the point p of one frame lies at p + flow(p) in the other.
Knows nothing of clips or models.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, pad

from stdcli.media.arrays import check_rgb

_FINEST_SIDE_PX = 384
"""Flow is smooth: it is found at half size, or at less so that the longer side is at most this."""
_COARSEST_SIDE_PX = 12
_ITERATIONS = 2
_WINDOW_PX, _SMOOTH_PX = 9, 5
_FLAT = 16.0
"""Squared gradients (0..255) below this tell nothing; the flow there is that of the surroundings."""


def dense_flows(frame: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where every point of a frame lies in another frame, and the way back: dense Lucas-Kanade on a pyramid.

    At each size from coarse to fine, a few steps of Gauss-Newton on the brightness in a window, each of at
    most a pixel, smoothed.

    Args:
        frame, other: uint8 [H, W, 3].

    Returns:
        (flow from `frame` to `other`, flow from `other` to `frame`), float32 [H, W, 2] each, pixels.

    Raises:
        ValueError: other shapes or dtypes.
    Source: Bouguet 2000, "Pyramidal implementation of the Lucas Kanade feature tracker", at every pixel.
    """
    check_rgb(frame)
    if frame.shape != other.shape:
        raise ValueError(f"frames of different sizes: {list(frame.shape)} and {list(other.shape)}")
    check_rgb(other)
    sizes = _pyramid(torch.from_numpy(np.stack([frame, other])).float().mean(3)[:, None])
    flow = torch.zeros(2, 2, *sizes[-1].shape[2:])
    for grey in reversed(sizes[min(_first(sizes), len(sizes) - 1) :]):
        flow = _refined(_enlarged(flow, grey.shape[2:]), grey)
    there, back = _enlarged(flow, sizes[0].shape[2:]).permute(0, 2, 3, 1).contiguous().numpy()
    return there, back


def _pyramid(grey: torch.Tensor) -> list[torch.Tensor]:
    sizes = [grey]
    while min(sizes[-1].shape[2:]) >= 2 * _COARSEST_SIDE_PX:
        sizes.append(avg_pool2d(sizes[-1], 2))
    return sizes


def _first(sizes: list[torch.Tensor]) -> int:
    """Index of the finest size that is looked at."""
    return 1 + sum(max(grey.shape[2:]) > _FINEST_SIDE_PX for grey in sizes[1:])


def _enlarged(flow: torch.Tensor, size_px: torch.Size) -> torch.Tensor:
    height, width = flow.shape[2:]
    if (height, width) == tuple(size_px):
        return flow
    scale = torch.tensor([size_px[1] / width, size_px[0] / height]).view(1, 2, 1, 1)
    return interpolate(flow, size=tuple(size_px), mode="bilinear", align_corners=False) * scale


def _refined(flow: torch.Tensor, grey: torch.Tensor) -> torch.Tensor:
    """Flow [2, 2, h, w] closer to what takes each of the two pictures [2, 1, h, w] to the other."""
    height, width = grey.shape[2:]
    x, y = _gradient(grey)
    xx, xy, yy = box_mean(torch.cat([x * x, x * y, y * y], 1), _WINDOW_PX).split(1, 1)
    xx, yy = xx + _FLAT, yy + _FLAT
    determinant = xx * yy - xy * xy
    base = torch.from_numpy(_places(np.zeros((height, width, 2), np.float32)))
    scale = torch.tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)])
    other = grey.flip(0)
    for _ in range(_ITERATIONS):
        places = (base + flow.permute(0, 2, 3, 1)) * scale - 1
        gap = grid_sample(other, places, padding_mode="border", align_corners=True) - grey
        u, v = box_mean(torch.cat([x * gap, y * gap], 1), _WINDOW_PX).split(1, 1)
        step = torch.cat([xy * v - yy * u, xy * u - xx * v], 1) / determinant
        flow = box_mean(flow + step.clamp(-1, 1), _SMOOTH_PX)
    return flow


def _gradient(grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    across, down = pad(grey, (1, 1, 0, 0), "replicate"), pad(grey, (0, 0, 1, 1), "replicate")
    return (across[..., 2:] - across[..., :-2]) / 2, (down[..., 2:, :] - down[..., :-2, :]) / 2


def box_mean(values: torch.Tensor, side_px: int) -> torch.Tensor:
    """Mean over a square around each cell of [..., H, W], cut off at the edges.

    By running sums, several times as fast as pooling with stride 1.
    """
    half = side_px // 2
    for dim in (-2, -1):
        size = values.shape[dim]
        places = torch.arange(size)
        low, high = (places - half).clamp(min=0), (places + half + 1).clamp(max=size)
        sums = torch.cat([torch.zeros_like(values.narrow(dim, 0, 1)), values.cumsum(dim)], dim)
        count = (high - low).view(-1, 1) if dim == -2 else high - low
        values = (sums.index_select(dim, high) - sums.index_select(dim, low)) / count
    return values


def warp(
    values: np.ndarray, flow: np.ndarray, *, kind: Literal["bilinear", "bicubic"] = "bilinear"
) -> np.ndarray:
    """Values fetched along a flow: at p those of p + flow(p), continued by the edges.

    Args:
        values: float32 [H, W, C] of the frame that the flow leads to.
        flow: float32 [H, W, 2], pixels.
        kind: bicubic stays sharper when warped again and again, and overshoots at edges.

    Returns:
        float32 [H, W, C].
    """
    height, width = values.shape[:2]
    scale = 2 / np.array([max(width - 1, 1), max(height - 1, 1)], np.float32)  # grid_sample: corners at +-1
    places = torch.from_numpy(_places(flow) * scale - 1)[None]
    pixels = torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)[None]
    moved = grid_sample(pixels, places, kind, padding_mode="border", align_corners=True)
    return moved[0].permute(1, 2, 0).contiguous().numpy()


def can_follow(flow: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Where a flow can be trusted: it stays inside the frame, and the flow back returns to the start.

    Args:
        flow: float32 [H, W, 2], pixels, from a frame to another.
        back: the same from the other frame to this one.

    Returns:
        bool [H, W]; False where the other frame does not show what is there.

    Source: Ruder 2016, "Artistic style transfer for videos", section 4.2 (disocclusion), after Sundaram 2010.
    """
    height, width = flow.shape[:2]
    returned = warp(back, flow)
    gap = _squared(flow + returned)
    length = _squared(flow) + _squared(returned)
    x, y = np.moveaxis(_places(flow), 2, 0)
    inside = (np.abs(x - (width - 1) / 2) <= width / 2) & (np.abs(y - (height - 1) / 2) <= height / 2)
    return inside & (gap <= 0.01 * length + 0.5)


def _places(flow: np.ndarray) -> np.ndarray:
    """Where the flow leads: float32 [H, W, 2], pixels, x then y."""
    height, width = flow.shape[:2]
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), 2).astype(np.float32) + flow


def _squared(flow: np.ndarray) -> np.ndarray:
    """Squared lengths [H, W], square pixels."""
    return np.square(flow[..., 0]) + np.square(flow[..., 1])
