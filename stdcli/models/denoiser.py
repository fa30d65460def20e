"""A denoising network behind one call, and what it is told: `Denoiser` and `Condition`.

Legend: B batch, C latent channels, h w latent cells, L tokens, D their width, N style pictures (1 after
averaging), S style vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.func import functional_call

from stdcli.models.diffusers_api import UNet2DConditionModel, get_timestep_embedding

TOKENS = "encoder_hidden_states"
TARGET_TIME_WIDTH = 256
"""Width of the embedding of a step's target."""


@dataclass(frozen=True)
class Condition:
    """What the denoiser is told besides the noisy latent; a batch of B conditions.

    Attributes:
        encoder_hidden_states: text tokens [B, L, D].
        added: by diffusers' names, each with B rows: `text_embeds` [B, S], `time_ids` [B, 6] float32 in
            pixels, `image_embeds` [B, N, S] (or [B, N, tokens, S] for a Plus adapter).
        concat_latents: more input channels [B, c, h, w] for a network that sees masks.
        notes: what the user should know about how this condition was made.
    """

    encoder_hidden_states: Tensor
    added: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    concat_latents: Tensor | None = None

    @property
    def batch(self) -> int:
        """B."""
        return self.encoder_hidden_states.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names, for storage; `from_tensors` is the inverse."""
        return {TOKENS: self.encoder_hidden_states, **self.added}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Condition:
        """The condition that `tensors()` was called on, without its notes."""
        return cls(tensors[TOKENS], {k: v for k, v in tensors.items() if k != TOKENS})

    def expand(self, batch: int) -> Condition:
        """The same condition for `batch` samples, without copying memory.

        Raises:
            ValueError: this condition has neither one row nor `batch` rows.
        """
        if self.batch not in (1, batch):
            raise ValueError(f"cannot expand {self.batch} conditions to {batch}")
        return self._map(lambda v: v.expand(batch, *v.shape[1:]))

    def concat(self, other: Condition) -> Condition:
        """This batch followed by the other's.

        Raises:
            ValueError: the two do not hold the same tensors.
        """
        if self.added.keys() != other.added.keys():
            raise ValueError(f"conditions differ: {sorted(self.added)} and {sorted(other.added)}")
        added = {k: torch.cat([v, other.added[k]]) for k, v in self.added.items()}
        tokens = torch.cat([self.encoder_hidden_states, other.encoder_hidden_states])
        concat_latents = (
            None if self.concat_latents is None else torch.cat([self.concat_latents, other.concat_latents])
        )
        return Condition(tokens, added, tuple(dict.fromkeys(self.notes + other.notes)), concat_latents)

    def to(self, device: torch.device | str) -> Condition:
        """The same condition on another device."""
        return self._map(lambda v: v.to(device))

    def _map(self, change) -> Condition:
        added = {k: change(v) for k, v in self.added.items()}
        tokens, concat_latents = change(self.encoder_hidden_states), self.concat_latents
        return replace(
            self,
            encoder_hidden_states=tokens,
            added=added,
            concat_latents=None if concat_latents is None else change(concat_latents),
        )


def split_conditions(named: Mapping[str, Tensor], device: torch.device | str) -> tuple[Condition, Condition]:
    """Condition and unconditional among a bank's tensors, `cond.*` and `uncond.*`, on a device."""
    sides = []
    for side in ("cond.", "uncond."):
        tensors = {name.removeprefix(side): value for name, value in named.items() if name.startswith(side)}
        sides.append(Condition.from_tensors(tensors).to(device))
    return sides[0], sides[1]


class Denoiser:
    """A UNet behind one call, whatever it predicts and however it is conditioned.

    Args:
        unet: diffusers' UNet2DConditionModel, possibly with peft's adapters, which may be of another dtype.
        has_target_time: whether the UNet is told where the step aims, by diffusers' `timestep_cond`.
        weights: used in place of the UNet's own of the same names.
    """

    def __init__(
        self,
        unet: torch.nn.Module,
        *,
        has_target_time: bool = False,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.unet = unet
        self.has_target_time = has_target_time
        self.weights = weights

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
            Raw network output [B, C, h, w], float32; what it means is `Bundle.prediction`.

        Raises:
            ValueError: a network that sees its target is not given one.
        """
        condition = condition.expand(x.shape[0])
        if condition.concat_latents is not None:
            x = torch.cat([x, condition.concat_latents.to(x)], dim=1)
        dtype = self.unet.dtype
        added: dict[str, Tensor | list[Tensor]] = {
            k: v if k == "time_ids" else v.to(dtype)  # half precision cannot represent every pixel count
            for k, v in condition.added.items()
        }
        if "image_embeds" in added:
            added["image_embeds"] = [added["image_embeds"]]  # diffusers: one entry per loaded adapter
        tokens = condition.encoder_hidden_states.to(dtype)
        inputs = {"encoder_hidden_states": tokens, "added_cond_kwargs": added, "return_dict": False}
        if self.has_target_time:
            inputs["timestep_cond"] = embed_target_time(target_time, x).to(dtype)
        if self.weights is None:
            return self.unet(x.to(dtype), t, **inputs)[0].float()
        return functional_call(self.unet, dict(self.weights), (x.to(dtype), t), inputs)[0].float()

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


def embed_target_time(target_time: Tensor | float | None, x: Tensor) -> Tensor:
    """The time that a step aims at, as a network that sees its target is told: sines and cosines.

    Args:
        target_time: a number or [B].
        x: [B, ...]; decides batch and device.

    Returns:
        [B, TARGET_WIDTH] float32.

    Raises:
        ValueError: no time.
    Source: Ho 2020 (DDPM) appendix B, the time embedding of the UNet itself.
    """
    if target_time is None:
        raise ValueError("this network is told where a step aims, and no time was given")
    times = torch.as_tensor(target_time, dtype=torch.float32, device=x.device).expand(x.shape[0])
    return get_timestep_embedding(times, TARGET_TIME_WIDTH, flip_sin_to_cos=True, downscale_freq_shift=0)


def add_target_time(unet: UNet2DConditionModel) -> None:
    """Let a UNet be told where a step aims; what it gives does not change until the projection is trained.

    The projection is diffusers' `time_embedding.cond_proj`, from zeros, so that plain diffusers reloads it.

    Args:
        unet: changed in place; has no `time_cond_proj_dim` yet.
    """
    embedding, config = unet.time_embedding, unet.config
    like = embedding.linear_1.weight
    projection = torch.nn.Linear(TARGET_TIME_WIDTH, like.shape[1], bias=False, device="meta")
    projection.weight = torch.nn.Parameter(
        like.new_zeros(like.shape[1], TARGET_TIME_WIDTH), requires_grad=False
    )
    embedding.cond_proj = projection
    # upstream keeps an installed style adapter in an attribute that a plain update of the config would lose
    unet.register_to_config(
        time_cond_proj_dim=TARGET_TIME_WIDTH, encoder_hid_dim_type=config.encoder_hid_dim_type
    )


def _twice(t: Tensor | float | None) -> Tensor | float | None:
    return torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
