"""Dense optical flow between frames, warping along it, and where it cannot be trusted.

Legend: H W pixels. Flow is float32 [H, W, 2], (x, y) in pixels: what is at p in one frame is at p + flow(p)
in the other.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F

from stdcli.errors import ConfigError


def check_flow() -> None:
    """Make sure that optical flow can be computed.

    Raises:
        ConfigError: OpenCV is not installed.
    """
    if find_spec("cv2") is None:
        raise ConfigError(
            "optical flow needs OpenCV, which is not installed",
            [("--temporal", "flow asked for; off and blend need nothing")],
            hint='pip install "stdcli[flow]"',
        )


def optical_flow(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Where every pixel of a frame is in another: DIS (Kroeger 2016), OpenCV's medium preset.

    Args:
        here, there: uint8 [H, W, 3] of one size.

    Returns:
        float32 [H, W, 2].
    """
    import cv2

    if min(here.shape[:2]) < 16:  # OpenCV's coarsest level is empty then
        return np.zeros((*here.shape[:2], 2), np.float32)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (here, there)]
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)


def warp(picture: torch.Tensor, flow: np.ndarray) -> torch.Tensor:
    """Fetch a picture's pixels from where a flow says they are; bilinear, the border repeated.

    Args:
        picture: float [1, C, H, W].
        flow: [H, W, 2].

    Returns:
        [1, C, H, W]: at p, `picture` at p + flow(p).
    """
    height, width = flow.shape[:2]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([x, y], -1) + torch.from_numpy(flow)
    scale = torch.tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)])
    return F.grid_sample(picture, (places * scale - 1)[None], padding_mode="border", align_corners=True)


def trusted(flow: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Where a flow and the flow back agree and stay inside the picture: bool [H, W], False at occlusions.

    Source: Ruder 2016, "Artistic style transfer for videos", eq. 5.
    """
    height, width = flow.shape[:2]
    y, x = np.mgrid[:height, :width]
    there_x, there_y = x + flow[..., 0], y + flow[..., 1]
    inside = (there_x >= 0) & (there_x <= width - 1) & (there_y >= 0) & (there_y <= height - 1)
    returned = warp(torch.from_numpy(back).permute(2, 0, 1)[None], flow)[0].permute(1, 2, 0).numpy()
    apart = ((flow + returned) ** 2).sum(-1)
    return inside & (apart <= 0.01 * ((flow**2).sum(-1) + (returned**2).sum(-1)) + 0.5)
