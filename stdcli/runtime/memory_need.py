"""Whether a model fits into memory, told before it is loaded: systems that lack it kill without a word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from stdcli.errors import ResourceError
from stdcli.runtime.devices import DeviceChoice
from stdcli.runtime.free_memory import Room

WORK = 0.25
"""What a run takes beyond the weights, as a share of them, at the size that a model was made for."""


@dataclass(frozen=True)
class Need:
    """What a model takes.

    Attributes:
        name: of the model.
        parts: part -> number of its values.
        choice: device and dtype that they will have.
    """

    name: str
    parts: Mapping[str, int]
    choice: DeviceChoice

    @property
    def weight_bytes(self) -> int:
        """Of all weights; autoencoders are loaded in float32 always."""
        sizes = {"vae": torch.float32.itemsize}
        return sum(n * sizes.get(part, self.choice.dtype.itemsize) for part, n in self.parts.items())

    def line(self) -> str:
        """For the user."""
        dtype, weights = str(self.choice.dtype).removeprefix("torch."), self.weight_bytes
        return f"{_gib(weights)} of weights in {dtype}, about {_gib(WORK * weights)} to work with"

    def check(self, room: Room, *, gpu_bytes: int | None = None) -> str | None:
        """Refuse what surely does not fit; returns a warning where it may not, else None.

        Args:
            room: of main memory, through which the weights go also on their way to a GPU.
            gpu_bytes: free on the GPU; None without one.

        Raises:
            ResourceError: the weights alone are more than is free, swap included.
        """
        weights, takes = self.weight_bytes, self.line()
        if gpu_bytes is not None and weights > gpu_bytes:
            raise ResourceError(
                "not enough memory on the GPU for this model",
                where=self.name,
                got=f"{_gib(gpu_bytes)} free",
                expected=takes,
                hint=self._hint(gpu_bytes, otherwise="--device cpu"),
            )
        if weights > room.free_bytes + room.swap_bytes:
            raise ResourceError(
                "not enough main memory for this model",
                where=self.name,
                got=room,
                expected=takes,
                hint=self._hint(room.free_bytes, otherwise=_elsewhere(room)),
            )
        if gpu_bytes is None and weights * (1 + WORK) > room.free_bytes:
            remedy = self._hint(room.free_bytes, otherwise=_elsewhere(room))
            return f"little main memory for {self.name}: {takes}; {room}: {remedy}"
        return None

    def _hint(self, free_bytes: int, *, otherwise: str) -> str:
        """What to type: half the bytes where that helps."""
        if self.choice.dtype != torch.float32 or self.weight_bytes / 2 > free_bytes:
            return otherwise
        if self.choice.device.type != "cpu":
            return f"--dtype float16, or {otherwise}"
        return f"--dtype bfloat16 takes half, slowly where the CPU lacks units for it; or {otherwise}"


def _elsewhere(room: Room) -> str:
    return f"{'raise the limit' if room.limited else 'close other programs'}, or take a smaller --model"


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.0f} MiB"
