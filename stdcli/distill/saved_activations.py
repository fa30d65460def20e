"""What autograd keeps for the backward pass: the memory of activations, counted tensor by tensor.

The same on every device that computes in the same dtype, so that a run on one tells what it takes on another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class SavedActivations:
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
        pointer, size = _storage(value)
        if pointer in self._ignored:
            return
        if not self._holders[pointer]:
            self.bytes += size
            self.peak_bytes = max(self.peak_bytes, self.bytes)
        self._holders[pointer] += 1

    def drop(self, value: Tensor) -> None:
        """Count it no more."""
        pointer, size = _storage(value)
        if pointer in self._ignored:
            return
        self._holders[pointer] -= 1
        if not self._holders[pointer]:
            self.bytes -= size


class _Holder:
    """A kept tensor; it is dropped with the graph that it belongs to."""

    def __init__(self, value: Tensor, saved: SavedActivations) -> None:
        self.value, self._kept = value, saved
        saved.add(value)

    def __del__(self) -> None:
        self._kept.drop(self.value)


@contextmanager
def count_saved(ignored: Iterable[Tensor]) -> Iterator[SavedActivations]:
    """Count what forward passes in the block keep for their backward passes.

    Args:
        ignored: weights, which are there anyway.
    """
    saved = SavedActivations(ignored)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda value: _Holder(value, saved), lambda holder: holder.value
    ):
        yield saved


def _storage(value: Tensor) -> tuple[int, int]:
    storage = value.untyped_storage()
    return storage.data_ptr(), storage.nbytes()
