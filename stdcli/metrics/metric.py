"""The seam: what a metric is, what it is shown, and where it gets networks from.

A metric is one file with one `METRIC`, listed in `registry.py`. It sees arrays and networks that are handed
to it; it knows nothing of files, models, methods or reports.

Legend: F frames, H W pixels of the result, h w of a style, B pictures, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch

from stdcli.errors import StdcliError

Group = Literal["style", "content", "looks", "video"]
Need = Literal["content", "style", "prompt", "clip", "flow"]


@dataclass(frozen=True)
class Flows:
    """Where the pixels of a source clip went, between neighbouring frames.

    Attributes:
        backward: float32 [F - 1, H, W, 2], pixels (x, y): where a pixel of frame i + 1 was in frame i.
        forward: the same, where a pixel of frame i is in frame i + 1.
        method: how they were found, for the protocol: `opencv-dis-medium`, or `files` and a hash.
    """

    backward: np.ndarray
    forward: np.ndarray
    method: str


@dataclass(frozen=True)
class Subject:
    """One result with what it was made from.

    Attributes:
        frames: uint8 [F, H, W, 3]; F is 1 for a picture.
        content: the source, the same shape; None if not given.
        styles: style pictures, uint8 [h, w, 3] each, at their own size.
        prompt: text of the result; None if not given.
        fps: frames per second of a clip; None for a picture.
        flows: of the source clip; None for a picture, or where no metric asked for them.
    """

    frames: np.ndarray
    content: np.ndarray | None = None
    styles: tuple[np.ndarray, ...] = ()
    prompt: str | None = None
    fps: float | None = None
    flows: Flows | None = None


class Backbone(Protocol):
    """A network that a metric uses."""

    @property
    def network(self) -> Any:
        """Frozen, in evaluation mode, float32; takes and gives what `perceptual/backbones.py` says."""

    @property
    def sha256(self) -> str:
        """Of its weights file; part of the protocol: numbers of other weights never share a column."""

    @property
    def device(self) -> torch.device:
        """Where it is."""


class NotMeasurable(StdcliError):
    """This subject has nothing that the metric could measure: a clip of one frame, say, or no part at rest.

    Reports show such a value as absent, never as a number.

    Args:
        what: what is missing.
    """

    exit_code = 5

    def __init__(self, what: str) -> None:
        super().__init__(what)


class Backbones(Protocol):
    """Networks by name, loaded once."""

    def get(self, name: str) -> Backbone:
        """The network called `name`.

        Raises:
            MissingWeights: it is not on this machine.
        """


@dataclass(frozen=True)
class Metric:
    """A measure.

    Attributes:
        name: as users type it.
        title: as reports show it.
        group: what it judges.
        better: which way is better.
        lowest: of its range.
        highest: of its range; None if there is none.
        needs: what a subject must have.
        cite: paper, or source, in one line.
        protocol: everything beside weights that changes its numbers: sizes, filters, colour space, counts.
        measure: a subject and networks to a number; the mean over frames for a clip, unless said otherwise.
        backbones: names of the networks it uses.
        unit: of the number, if it has one.
        packages: optional ones that it uses, keys of `extra.PACKAGES`.
    """

    name: str
    title: str
    group: Group
    better: Literal["higher", "lower"]
    lowest: float
    highest: float | None
    needs: tuple[Need, ...]
    cite: str
    protocol: str
    measure: Callable[[Subject, Backbones], float] = field(repr=False)
    backbones: tuple[str, ...] = ()
    unit: str = ""
    packages: tuple[str, ...] = ()
