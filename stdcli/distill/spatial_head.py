"""A small head that both sides of a loss pass, so that they are compared in a space that is learned.

Source: Zhai 2024 (MCM, arXiv 2406.06890), the learnable head on both sides. Changed: it is a residual that
begins as the identity, so that a run begins with the plain loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stdcli.runtime.seeding import fold

WIDTH, GROUPS = 64, 8
DECAY = 0.95
"""Of the averaged head that the target passes."""


class SpatialHead(nn.Module):
    """h(x) = x + out(SiLU(norm(inner(x)))) with 1 x 1 convolutions C -> 64 -> C, the last one zero.

    Args:
        channels: C.
        seed: of the first convolution.
    """

    def __init__(self, channels: int, *, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # torch draws, to no end
            self.inner = nn.Conv2d(channels, WIDTH, 1)
            self.norm = nn.GroupNorm(GROUPS, WIDTH)
            self.out = nn.Conv2d(WIDTH, channels, 1)
        nn.init.kaiming_uniform_(self.inner.weight, a=5**0.5, generator=fold(seed, "spatial head"))
        for zero in (self.inner.bias, self.out.weight, self.out.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w], or [B, C, F, h, w] frame by frame; same shape, float32."""
        frames = x.float() if x.ndim == 4 else x.float().transpose(1, 2).flatten(0, 1)
        seen = frames + self.out(nn.functional.silu(self.norm(self.inner(frames))))
        return seen if x.ndim == 4 else seen.unflatten(0, (len(x), -1)).transpose(1, 2)


class HeadPair:
    """A head under training, and its average a <- d a + (1 - d) h, which targets pass.

    Args:
        head: of one run.

    Attributes:
        average: name -> value, of all the head's parameters.
    """

    def __init__(self, head: SpatialHead) -> None:
        self.head = head
        self.average = {name: value.detach().clone() for name, value in head.named_parameters()}

    def to(self, device: torch.device) -> None:
        """Move both."""
        self.head.to(device)
        self.average = {name: value.to(device) for name, value in self.average.items()}

    @torch.no_grad()
    def averaged(self, x: Tensor) -> Tensor:
        """Through the average."""
        return functional_call(self.head, self.average, (x,))

    @torch.no_grad()
    def update(self) -> None:
        """Take the head in; it begins as the identity, so there is no start to forget."""
        for name, value in self.head.named_parameters():
            self.average[name].lerp_(value, 1 - DECAY)
