"""Weights beside the live ones, as plain tensors: running averages (Polyak), and those of a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Ema:
    """Running average a <- d a + (1 - d) w, with d growing from 0 to `decay` over the first steps.

    The warm-up d = min(decay, (1 + n) / (10 + n)) keeps the random initial weights out of the average.

    Args:
        tensors: name -> tensor, sharing storage with the live weights.
        decay: final d, in [0, 1).
    """

    def __init__(self, tensors: dict[str, torch.Tensor], *, decay: float):
        self.live = {k: v for k, v in tensors.items() if v.is_floating_point()}
        self.decay = decay
        self.average = {k: v.detach().clone() for k, v in self.live.items()}
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the live weights in."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        names = list(self.live)
        torch._foreach_lerp_(
            [self.average[n] for n in names], [self.live[n].detach() for n in names], 1 - decay
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the networks hold the averaged weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange live and averaged weights in place; a second call restores them."""
        for name, live in self.live.items():
            kept = live.detach().clone()
            live.detach().copy_(self.average[name])
            self.average[name].copy_(kept)


class Frozen:
    """Weights as they were when they were last taken; kept in checkpoints as averages are.

    Args:
        tensors: name -> tensor, sharing storage with the live weights.

    Attributes:
        average: the weights kept.
        updates: how often they were taken.
    """

    def __init__(self, tensors: dict[str, torch.Tensor]):
        self.live = {k: v for k, v in tensors.items() if v.is_floating_point()}
        self.average = {k: v.detach().clone() for k, v in self.live.items()}
        self.updates = 0

    @torch.no_grad()
    def take(self) -> None:
        """Keep the live weights as they are now."""
        self.updates += 1
        for name, live in self.live.items():
            self.average[name].copy_(live)

    def update(self) -> None:
        """Nothing: steps of the live weights leave these alone."""
