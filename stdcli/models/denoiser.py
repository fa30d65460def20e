"""A denoising network behind one call: `Denoiser`, of which every architecture is a subclass.

Legend: B batch, C latent channels, h w latent cells, C_k and T_k channels and tokens of feature map k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from stdcli.models.condition import Condition


@dataclass(frozen=True)
class FeatureTaps:
    """Where a network's features are read.

    Attributes:
        network: the whole.
        modules: of the network, in the order they run; nothing after the last is needed.
        channels: C_k of each.
        read: what a module returns -> [B, C_k, T_k].
    """

    network: nn.Module
    modules: Sequence[nn.Module]
    channels: tuple[int, ...]
    read: Callable[[Any], Tensor]


class Denoiser:
    """A network behind one call, whatever it predicts and however it is conditioned.

    A subclass says how its architecture is called, adapted and looked into.

    Args:
        network: of diffusers, possibly with peft's adapters, which may be of another dtype.
        has_target_time: whether the network is told where the step aims.

    Attributes:
        part: name of the network among the parts of a pipeline: `unet` or `transformer`.
        target_embedder: name in the network of what `add_target_embedder` adds.
    """

    part: ClassVar[str]
    target_embedder: ClassVar[str] = ""

    def __init__(
        self,
        network: nn.Module,
        *,
        has_target_time: bool = False,
    ) -> None:
        self.network = network
        self.has_target_time = has_target_time

    def __call__(
        self, x: Tensor, t: Tensor | float, condition: Condition, *, target_time: Tensor | float | None = None
    ) -> Tensor:
        """Evaluate the network once.

        Args:
            x: noisy latents [B, C, h, w], any float dtype.
            t: model time, a number or [B].
            condition: B conditions, or one for all.
            target_time: model time where the step aims, a number or [B]; only networks that see it need it.

        Returns:
            Raw network output [B, C, h, w], float32; what it means is `Network.prediction`.

        Raises:
            ValueError: a network that sees its target is not given one.
        """
        condition = condition.expand(x.shape[0])
        if condition.concat_latents is not None:
            x = torch.cat([x, condition.concat_latents.to(x)], dim=1)
        args, kwargs = self.arguments(x, t, condition, target_time)
        return self.network(*args, **kwargs)[0].float()

    def pair(
        self,
        x: Tensor,
        t: Tensor | float,
        cond: Condition,
        uncond: Condition,
        *,
        target_time: Tensor | float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Evaluate with and without the condition in one doubled forward.

        Args:
            x: noisy latents [B, C, h, w].
            t: model time, a number or [B].
            cond: B conditions, or one for all.
            uncond: the same for the unconditional branch.
            target_time: as in a plain call.

        Returns:
            (output under `cond`, output under `uncond`), each [B, C, h, w] float32.
        """
        batch = x.shape[0]
        both = uncond.expand(batch).concat(cond.expand(batch))
        target = {"target_time": _twice(target_time)} if self.has_target_time else {}
        without, under = self(torch.cat([x, x]), _twice(t), both, **target).chunk(2)
        return under, without

    def like(
        self,
        network: nn.Module | None = None,
        *,
        has_target_time: bool | None = None,
    ) -> Self:
        """Another of this kind, around the same network unless another is given."""
        has_target_time = self.has_target_time if has_target_time is None else has_target_time
        network = self.network if network is None else network
        return type(self)(network, has_target_time=has_target_time)

    @property
    def multiple(self) -> int:
        """Latent cells that h and w must be multiples of."""
        raise NotImplementedError

    @property
    def sees_mask(self) -> bool:
        """Whether the network is shown a mask and what it leaves, to repaint the rest."""
        return False

    @property
    def sees_photo(self) -> bool:
        """Whether the network is shown the clean latents of what a path begins with."""
        return False

    def arguments(
        self, x: Tensor, t: Tensor | float, condition: Condition, target_time: Tensor | float | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the network is called with, in its own dtype; it returns a tuple with its output first.

        Args:
            x: [B, C or more, h, w], further channels of the condition behind the latents.
            t: a number or [B].
            condition: B conditions.
            target_time: a number, [B] or None; of use with `has_target_time`.
        """
        raise NotImplementedError

    def lora_targets(self) -> list[str]:
        """Full names of the modules that get an adapter, in the network's order."""
        raise NotImplementedError

    def is_frozen(self, name: str) -> bool:
        """Whether a parameter stays as it is where all weights are trained."""
        return False

    def feature_taps(self) -> FeatureTaps:
        """Where a discriminator looks into the network."""
        raise NotImplementedError

    def add_target_time(self) -> None:
        """Let the network be told where a step aims, without a change of its output until it is trained.

        Raises:
            ValueError: this kind of network has no such input.
        """
        raise ValueError(f"a {type(self.network).__name__} cannot be told where a step aims")

    def add_target_embedder(self) -> nn.Module:
        """`add_target_time` beside the network's own weights, whose files stay as they are: for adapters.

        Returns:
            What was added to the network, float32, all zero.

        Raises:
            ValueError: this kind of network has no such input.
        """
        raise ValueError(f"a {type(self.network).__name__} cannot be told where a step aims")

    def plain_config(self) -> dict[str, Any]:
        """The config of the network alone, without what was installed in it."""
        return {key: value for key, value in self.network.config.items() if not key.startswith("_")}


def _twice(t: Tensor | float | None) -> Tensor | float | None:
    return torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
