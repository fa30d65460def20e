"""Random generators from names: a resumed run draws what an uninterrupted one does, with no state saved."""

from __future__ import annotations

import torch

from stdcli.diffusion.noise import hash63


def fold(seed: int, *names: int | str) -> torch.Generator:
    """A fresh CPU generator for one purpose: `fold(seed, "distill", step, rank)`.

    Equal arguments give equal draws, different ones independent draws.

    Args:
        seed: the user's seed.
        names: what the randomness is for; 1 and "1" differ.

    Returns:
        CPU generator seeded with `hash63("fold", seed, *names)`.

    Raises:
        TypeError: a name is neither int nor str.
    """
    return torch.Generator().manual_seed(hash63("fold", seed, *names))
