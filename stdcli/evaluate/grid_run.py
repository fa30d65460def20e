"""A method over a grid: every content in its styles, as arrays.

Uses the session of `stdcli stylize`, so that what is measured is what users get.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stdcli.errors import ConfigError
from stdcli.evaluate.inputs import Content, Style
from stdcli.evaluate.speed import Stopwatch
from stdcli.evaluate.suite_methods import SuiteMethod
from stdcli.inference.clips import sample_indices
from stdcli.inference.open import open_session
from stdcli.inference.session import StyleSession
from stdcli.media.image import Picture
from stdcli.models.bundle import Bundle
from stdcli.reporter import Reporter
from stdcli.runtime.peak_memory import forget_peak, peak_bytes

Cell = tuple[Content, Style]


def make_cells(contents: Sequence[Content], styles: Sequence[Style], *, grid: str) -> list[Cell]:
    """Which content meets which style.

    Args:
        contents: in order.
        styles: in order.
        grid: 'all' or 'pairs'.

    Raises:
        ConfigError: pairs of unequal numbers.
    """
    if grid == "all":
        return [(content, style) for content in contents for style in styles]
    if len(contents) != len(styles):
        problem = f"{len(contents)} contents and {len(styles)} styles make no pairs"
        raise ConfigError("the grid cannot be made", [("grid", problem)])
    return list(zip(contents, styles, strict=True))


@dataclass
class GridRun:
    """A loaded method.

    Attributes:
        method: what to do.
        session: its model, opened.
        watch: times of its stages.
    """

    method: SuiteMethod
    session: StyleSession
    watch: Stopwatch

    @classmethod
    def load(cls, method: SuiteMethod, styles: Sequence[Style], reporter: Reporter) -> GridRun:
        """Load a method's model.

        Raises:
            StdcliError: as `stdcli stylize` would.
        """
        forget_peak()
        pictures = [Picture(style.rgb) for style in styles]
        session = open_session(method.config, pictures, _Titled(method.title, reporter))
        watch = Stopwatch(session.bundle.network.device)
        return cls(method, replace(session, bundle=watch.watch(session.bundle)), watch)

    @property
    def bundle(self) -> Bundle:
        """The model."""
        return self.session.bundle

    def stylize(self, cells: Sequence[Cell]) -> Iterator[tuple[Content, Style, np.ndarray]]:
        """Results, uint8 [F, H, W, 3], one style after the other."""
        sessions: dict[str, StyleSession] = {}
        for content, style in cells:
            if style.id not in sessions:
                sessions[style.id] = self.session.in_style_of(style.rgb)
            yield content, style, self._restyle(sessions[style.id], content)

    def _restyle(self, session: StyleSession, content: Content) -> np.ndarray:
        frames, size = content.frames, session.batch_for(content.frames.shape[1:3])
        if content.is_clip:
            session = session.for_clip([frames[index] for index in sample_indices(len(frames))])
        parts = [frames[first : first + size] for first in range(0, len(frames), size)]
        return np.concatenate(
            [self.watch.run(len(part), lambda part=part: session.stylize(part)) for part in parts]
        )

    def metadata(self) -> dict[str, Any]:
        """Settings in force, for the report."""
        config = self.method.config
        names = {
            "model": config.model,
            "student": self.bundle.network.student and self.bundle.network.student[0],
        }
        names |= {
            "device": self.bundle.network.device.type,
            "dtype": str(self.bundle.network.dtype).removeprefix("torch."),
        }
        return {**names, **self.session.settings.metadata(), "seed": config.seed, "temporal": config.temporal}

    def hashes(self) -> dict[str, str]:
        """SHA-256 of everything with weights."""
        identity = self.bundle.network.identity
        known = {
            name.removesuffix("_sha256"): value
            for name, value in identity.items()
            if name.endswith("_sha256") and value
        }
        if "student" in identity:
            known["student"] = identity["student"]["sha256"]
        return known | {f"lora {lora['name']}": lora["sha256"] for lora in identity["loras"]}

    def speed(self) -> dict[str, float]:
        """Counts per frame, times, and the most memory since the method was loaded."""
        settings = self.session.settings
        counts = {"evaluations": settings.evaluations, "forwards": settings.forwards}
        return {**counts, **self.watch.metrics(), "peak-mib": peak_bytes(self.bundle.network.device) / 2**20}


class _Titled:
    """A reporter that says which method a warning is about."""

    def __init__(self, title: str, inner: Reporter) -> None:
        self._title, self._inner = title, inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def warning(self, message: object) -> None:
        """Pass a warning on, under the method's title."""
        self._inner.warning(f"{self._title}: {message}")
