"""What autograd keeps, against what each operation is known to need for its gradient."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from stdcli.distill.estimate import Estimate
from stdcli.distill.saved_activations import count_saved

KIB = 1024


def leaf(count: int) -> torch.Tensor:
    return torch.ones(count, requires_grad=True)


def test_a_product_keeps_its_factors_and_a_sum_nothing() -> None:
    a, b = leaf(KIB), leaf(KIB)
    with count_saved([]) as kept:
        (a + b).sum()
        assert kept.peak_bytes == 0
        product = a * b
        assert kept.bytes == 2 * 4 * KIB
        product.sum().backward()
        assert kept.bytes == 0 and kept.peak_bytes == 2 * 4 * KIB


def test_weights_are_there_anyway_and_views_are_kept_once() -> None:
    weight, x = leaf(KIB), torch.ones(KIB)
    with count_saved([weight]) as kept:
        first = weight * x
        second = weight.view(2, -1) * x.view(2, -1)
        assert kept.bytes == 4 * KIB, "x alone, once"
        del first, second
        assert kept.bytes == 0


def test_checkpoints_keep_less() -> None:
    def block(x: torch.Tensor) -> torch.Tensor:
        return x.exp().exp().exp()  # each keeps its result

    x = leaf(KIB)
    with count_saved([]) as kept:
        block(block(x)).sum().backward()
    assert kept.peak_bytes == 6 * 4 * KIB
    with count_saved([]) as kept:
        result = checkpoint(block, checkpoint(block, x, use_reentrant=False), use_reentrant=False)
        result.sum().backward()
    assert kept.peak_bytes < 6 * 4 * KIB


def test_a_gpu_of_24_gb() -> None:
    gib = 2**30
    small = Estimate(0, 0, 1.0, 1.0, 5 * gib, 8 * gib, int(10 / 1.2 * gib))
    assert abs(small.gpu_bytes - 24 * gib) <= 1 and small.fits_24gb
    assert "a GPU of 24 GB has room" in small.elsewhere() and "24.00 GiB" in small.elsewhere()
    large = Estimate(0, 0, 1.0, 1.0, 5 * gib, 8 * gib + 2**20, int(10 / 1.2 * gib))
    assert not large.fits_24gb and "too small" in large.elsewhere()
