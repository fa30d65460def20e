"""What autograd keeps for the backward pass: the memory of activations, counted tensor by tensor.

The same on every device that computes in the same dtype, so that a run on one tells what it takes on another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Kept:
    """Bytes of tensors that are kept.

    Attributes:
        bytes: now.
        peak_bytes: the most so far.
    """

    def __init__(self, ignored: Iterable[Tensor]) -> None:
        self.bytes = self.peak_bytes = 0
        self._holders: Counter[int] = Counter()
        self._ignored = {value.untyped_storage().data_ptr() for value in ignored}

    def add(self, value: Tensor) -> None:
        """Count a tensor's storage, once however many views of it are kept."""
        place, size = _storage(value)
        if place in self._ignored:
            return
        if not self._holders[place]:
            self.bytes += size
            self.peak_bytes = max(self.peak_bytes, self.bytes)
        self._holders[place] += 1

    def drop(self, value: Tensor) -> None:
        """Count it no more."""
        place, size = _storage(value)
        if place in self._ignored:
            return
        self._holders[place] -= 1
        if not self._holders[place]:
            self.bytes -= size


class _Holder:
    """A kept tensor; it is dropped with the graph that it belongs to."""

    def __init__(self, value: Tensor, kept: Kept) -> None:
        self.value, self._kept = value, kept
        kept.add(value)

    def __del__(self) -> None:
        self._kept.drop(self.value)


@contextmanager
def count_kept(ignored: Iterable[Tensor]) -> Iterator[Kept]:
    """Count what forward passes in the block keep for their backward passes.

    Args:
        ignored: weights, which are there anyway.
    """
    kept = Kept(ignored)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda value: _Holder(value, kept), lambda holder: holder.value
    ):
        yield kept


def _storage(value: Tensor) -> tuple[int, int]:
    storage = value.untyped_storage()
    return storage.data_ptr(), storage.nbytes()
