"""How long the stages of a method take: a bundle whose parts are timed.

On a GPU each stage waits for its end, so that time is counted where it is spent; that costs a little overlap.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from stdcli.models.bundle import Bundle

STAGES = ("encode", "denoise", "decode")


@dataclass
class Stopwatch:
    """Seconds by stage, and of everything.

    Attributes:
        device: where the stages run.
        seconds: spent so far, by stage.
        frames: restyled so far, without the first call, which warms up.
        total_s: of all calls but the first.
    """

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    frames: int = 0
    total_s: float = 0.0
    _calls: int = 0

    def watch(self, bundle: Bundle) -> Bundle:
        """The same model, its stages timed."""
        codec = _Timed(bundle.codec, self, {"encode": "encode", "decode": "decode"})
        denoiser = _Timed(bundle.network.denoiser, self, {"pair": "denoise"})
        return replace(bundle, codec=codec, network=replace(bundle.network, denoiser=denoiser))

    def run(self, frames: int, work: Callable[[], Any]) -> Any:
        """Do some work on so many frames, and count it unless it is the first."""
        if self._calls == 0:
            before = dict(self.seconds)
        began_s = time.perf_counter()
        result = work()
        if self._calls == 0:
            self.seconds = before
        else:
            self.total_s += time.perf_counter() - began_s
            self.frames += frames
        self._calls += 1
        return result

    def time(self, stage: str, work: Callable[[], Any]) -> Any:
        """Do some work of a stage."""
        began_s = time.perf_counter()
        result = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[stage] += time.perf_counter() - began_s
        return result

    def metrics(self) -> dict[str, float]:
        """Milliseconds per frame of each stage, and frames per second; empty if nothing was counted."""
        if not self.frames:
            return {}
        stages = {f"{stage}-ms": 1000 * self.seconds[stage] / self.frames for stage in STAGES}
        return {**stages, "fps": self.frames / self.total_s}


class _Timed:
    """An object some of whose methods are timed; calling it counts as denoising."""

    def __init__(self, inner: Any, watch: Stopwatch, stages: dict[str, str]) -> None:
        self._inner, self._watch, self._stages = inner, watch, stages

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in self._stages:
            return value
        return lambda *args, **kwargs: self._watch.time(self._stages[name], lambda: value(*args, **kwargs))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._watch.time("denoise", lambda: self._inner(*args, **kwargs))
