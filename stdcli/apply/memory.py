"""What a frame of a clip takes over from the one before, so that paint stays where it was put.

`blend` carries the result over where the source has not changed; `flow` carries it along with what moves,
and leaves alone what was hidden before. Both begin anew at a scene cut. The state is exact: a run that goes
on from it makes the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F

from stdcli.apply.stylizer import Carried
from stdcli.config.schema import Temporal
from stdcli.media.cuts import is_cut
from stdcli.media.flow import check_flow, optical_flow, trusted, warp
from stdcli.media.tensors import to_tensor

WEIGHT = 0.6
"""Of what is carried over, where nothing speaks against it."""
UNCHANGED = 0.04
"""A change of the source by this part of its range cuts the weight to 1/e: over noise, under motion."""
BLUR_PX = 7


class Memory:
    """The frame before: its source and its result.

    Args:
        mode: "blend" or "flow".
    """

    def __init__(self, mode: Temporal) -> None:
        self._mode = mode
        self._source: np.ndarray | None = None
        self._result: np.ndarray | None = None

    def carry(self, source: np.ndarray) -> Carried | None:
        """What this frame takes over.

        Args:
            source: uint8 [H, W, 3] as it is computed.

        Returns:
            Pixels and weights [1, ., H, W]; None at the first frame and after a cut.
        """
        if self._source is None or self._source.shape != source.shape or is_cut(self._source, source):
            return None
        before, result, now = (to_tensor(frame) for frame in (self._source, self._result, source))
        if self._mode == "blend":
            return Carried(result, WEIGHT * _likeness(before, now))
        flow, back = optical_flow(source, self._source), optical_flow(self._source, source)
        seen = torch.from_numpy(trusted(flow, back)).float()[None, None]
        likeness = _likeness(warp(before, flow), now)
        return Carried(warp(result, flow), WEIGHT * likeness * -F.max_pool2d(-seen, 3, 1, 1))

    def keep(self, source: np.ndarray, result: np.ndarray) -> None:
        """Remember a frame, uint8 [H, W, 3] each, source and result."""
        self._source, self._result = source, result

    def state(self) -> dict[str, np.ndarray]:
        """Everything, for `restore`."""
        return {} if self._source is None else {"source": self._source, "result": self._result}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from `state()`."""
        self._source, self._result = state.get("source"), state.get("result")


def check_memory(mode: Temporal) -> None:
    """Make sure that a mode can be had.

    Raises:
        ConfigError: a package is missing.
    """
    if mode == "flow":
        check_flow()


def _likeness(before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    """[1, 1, H, W] in [0, 1]: 1 where two pictures [1, 3, H, W] in [-1, 1] agree around a pixel."""
    apart = (before - now).abs().amax(1, keepdim=True) / 2
    around = F.avg_pool2d(apart, BLUR_PX, 1, BLUR_PX // 2, count_include_pad=False)
    return torch.exp(-((around / UNCHANGED) ** 2))
