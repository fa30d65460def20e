"""How steady a clip is: each frame against the next one, fetched along the motion of the source.

Published numbers differ in flow, mask, norm and range, so all of these are one value, `WarpProtocol`, whose
line stands beside every number. A blurred clip has little warping error: read it beside content, sharpness.

Legend: F frames, H W pixels; flows are in pixels, x then y.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import fmean
from typing import Literal

import numpy as np

from stdcli.metrics.metric import Backbones, Flows, Metric, NotMeasurable, Subject

LEAST_SHARE = 0.01
RULES = {
    "none": "all but what leaves the frame",
    "forward-backward": "where not |Fw + Fb|^2 > 0.01 (|Fw|^2 + |Fb|^2) + 0.5",
    "forward-backward+boundaries": (
        "where neither |Fw + Fb|^2 > 0.01 (|Fw|^2 + |Fb|^2) + 0.5 nor |grad Fw|^2 > 0.01 |Fw|^2 + 0.002, "
        "grad Fw by the next pixel"
    ),
}
NORMS = {"l1": "mean |d|", "mse": "mean d^2", "rmse": "root of the mean d^2 of all pairs"}


@dataclass(frozen=True)
class WarpProtocol:
    """What a warping error means; two numbers of different protocols cannot be compared.

    Attributes:
        flow: how the flows were found, `Flows.method`.
        source: whose motion they follow.
        occlusion: which pixels are left out, beside those that leave the frame; a name of `RULES`. Lai 2018
            also leaves out the boundaries of motion.
        norm: a name of `NORMS`, over channels and pixels, then over pairs of frames.
        white: value of a white pixel: 1, or 255 as in some papers.
        resolution: at which everything is done; only that of the result.
    """

    flow: str = "opencv-dis-medium"
    source: Literal["content"] = "content"
    occlusion: Literal["none", "forward-backward", "forward-backward+boundaries"] = "forward-backward"
    norm: Literal["l1", "mse", "rmse"] = "rmse"
    white: Literal[1, 255] = 1
    resolution: Literal["result"] = "result"

    def line(self) -> str:
        """The protocol in one line, the same for equal protocols alone."""
        return (
            f"{self.norm} ({NORMS[self.norm]}), RGB in 0..{self.white}; d = next frame fetched bilinearly "
            f"along the forward flow, less this frame; flow {self.flow} of the {self.source}, at the size of "
            f"the {self.resolution}; {self.occlusion}: counted {RULES[self.occlusion]}; mean over pairs of "
            f"frames, without those with less than {LEAST_SHARE:.0%} of pixels counted"
        )

    @property
    def highest(self) -> float:
        """The greatest error there can be."""
        return float(self.white**2 if self.norm == "mse" else self.white)


def warping_error(frames: np.ndarray, flows: Flows, protocol: WarpProtocol) -> float:
    """E = 1/T sum_t sum_p M_t(p) |O_t+1(p + F_t(p)) - O_t(p)|^n / sum_p M_t(p), its root for `rmse`.

    Args:
        frames: uint8 [F, H, W, 3], a result, or the source itself for the floor below any result.
        flows: of the source, of that size.
        protocol: which norm, mask and range.

    Returns:
        In [0, `protocol.highest`].

    Raises:
        NotMeasurable: a clip of one frame, or hardly a pixel that can be followed.
        ValueError: flows of another shape or method.
    Source: Lai 2018, "Learning blind video temporal consistency", section 4 (mse).
    """
    pairs = _pairs(frames, flows, protocol)
    visible = [float(gap[seen].mean()) for gap, seen in pairs if seen.mean() >= LEAST_SHARE]
    if not visible:
        raise NotMeasurable("hardly a pixel of the clip can be followed from one frame to the next")
    error = fmean(visible)
    return sqrt(error) if protocol.norm == "rmse" else error


def error_maps(frames: np.ndarray, flows: Flows, protocol: WarpProtocol) -> np.ndarray:
    """Where the error is: that of frame i against frame i + 1, at each pixel of frame i, for pictures of it.

    Args:
        frames, flows, protocol: as in `warping_error`; white counts as 1 whatever the protocol says.

    Returns:
        float32 [F - 1, H, W] in [0, 1], 0 where nothing is counted.

    Raises:
        NotMeasurable, ValueError: as in `warping_error`.
    """
    power = protocol.white ** (1 if protocol.norm == "l1" else 2)
    gaps = np.stack([np.where(seen, gap, 0) / power for gap, seen in _pairs(frames, flows, protocol)])
    return (np.sqrt(gaps) if protocol.norm == "rmse" else gaps).astype(np.float32)


def _pairs(
    frames: np.ndarray, flows: Flows, protocol: WarpProtocol
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Mean over channels of |d| or d^2, float64 [H, W], and whether it counts, bool [H, W]; pair by pair."""
    if len(frames) < 2:
        raise NotMeasurable("a clip of one frame has no warping error")
    shape = (len(frames) - 1, *frames.shape[1:3], 2)
    if flows.forward.shape != shape or flows.backward.shape != shape:
        got = f"{list(flows.forward.shape)} and {list(flows.backward.shape)}"
        raise ValueError(f"flows {got}, frames want {list(shape)}")
    if flows.method != protocol.flow:
        raise ValueError(f"flows by {flows.method!r}, the protocol says {protocol.flow!r}")
    pairs = zip(pairwise(frames), flows.forward, flows.backward, strict=True)
    for (now, then), forward, backward in pairs:
        gap = np.abs(fetch(then, forward) - now) * (protocol.white / 255)
        seen = followed(forward, backward, protocol.occlusion)
        yield (gap if protocol.norm == "l1" else gap**2).mean(-1), seen


def fetch(values: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Values at p + flow(p), bilinear, continued by the edges.

    Args:
        values: [H, W, C].
        flow: [H, W, 2], pixels.

    Returns:
        float64 [H, W, C]; exact for whole pixels. What it is where a flow is not finite means nothing.
    """
    height, width = flow.shape[:2]
    places = np.nan_to_num(_places(flow)).clip(0, (width - 1, height - 1))
    left, top = np.moveaxis(places.astype(int), -1, 0)
    right, low = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = np.moveaxis(places - np.floor(places), -1, 0)[..., None]
    above = (1 - across) * values[top, left] + across * values[top, right]
    below = (1 - across) * values[low, left] + across * values[low, right]
    return (1 - down) * above + down * below


def followed(forward: np.ndarray, backward: np.ndarray, occlusion: str) -> np.ndarray:
    """Which pixels of a frame are seen in the next one.

    Args:
        forward: [H, W, 2], pixels; unknown where not finite or above 1e9, as in Middlebury's files.
        backward: the same from the next frame.
        occlusion: a name of `RULES`.

    Returns:
        bool [H, W].
    Source: Sundaram 2010, "Dense point trajectories by GPU-accelerated large displacement optical flow";
        Ruder 2016, "Artistic style transfer for videos", section 4.2.
    """
    height, width = forward.shape[:2]
    forward = forward.astype(np.float64)
    places = _places(forward)
    seen = ((places >= 0) & (places <= (width - 1, height - 1))).all(-1)
    if occlusion == "none":
        return seen
    with np.errstate(invalid="ignore", over="ignore"):  # of unknown flows
        back = fetch(backward, forward)
        gap = _squared(forward + back)
        seen &= np.isfinite(gap) & (gap <= 0.01 * (_squared(forward) + _squared(back)) + 0.5)
        if occlusion == "forward-backward+boundaries":
            ends = forward[-1:], forward[:, -1:]  # the next pixel beyond the edge is like the last
            slopes = (np.diff(forward, axis=axis, append=end) for axis, end in enumerate(ends))
            steepness = sum(_squared(slope) for slope in slopes)
            seen &= steepness <= 0.01 * _squared(forward) + 0.002
    return seen


def _places(flow: np.ndarray) -> np.ndarray:
    """Where a flow leads: float64 [H, W, 2]."""
    rows, columns = np.indices(flow.shape[:2])
    return np.stack([columns, rows], -1) + flow


def _squared(vectors: np.ndarray) -> np.ndarray:
    return (vectors**2).sum(-1)


def warping_metric(protocol: WarpProtocol) -> Metric:
    """The warping error under a protocol, as a metric."""

    def measure(subject: Subject, backbones: Backbones) -> float:
        if subject.flows is None and len(subject.frames) > 1:
            raise ValueError("warping needs flows of the source")
        return warping_error(subject.frames, subject.flows, protocol)

    return Metric(
        name="warping",
        title=f"warping error ({protocol.norm})",
        group="video",
        better="lower",
        lowest=0,
        highest=protocol.highest,
        needs=("content", "clip", "flow"),
        cite="Lai et al. 2018; occlusion: Sundaram et al. 2010",
        protocol=protocol.line(),
        measure=measure,
    )


METRIC = warping_metric(WarpProtocol())
