"""What a denoiser is told besides the noisy latent: `Condition`.

Legend: B batch, h w latent cells, L tokens, D their width, N style pictures (1 after averaging), S style
vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

TOKENS, CONCAT = "encoder_hidden_states", "concat_latents"


@dataclass(frozen=True)
class Condition:
    """What the denoiser is told besides the noisy latent; a batch of B conditions.

    Attributes:
        encoder_hidden_states: text tokens [B, L, D].
        added: by diffusers' names, each with B rows: `text_embeds` [B, S], `time_ids` [B, 6] float32 in
            pixels, `image_embeds` [B, N, S] (or [B, N, tokens, S] for a Plus adapter).
        concat_latents: more input channels [B, c, h, w] for a network that sees masks or the photo.
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
        shown = {} if self.concat_latents is None else {CONCAT: self.concat_latents}
        return {TOKENS: self.encoder_hidden_states, **self.added, **shown}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Condition:
        """The condition that `tensors()` was called on, without its notes."""
        added = {k: v for k, v in tensors.items() if k not in (TOKENS, CONCAT)}
        return cls(tensors[TOKENS], added, concat_latents=tensors.get(CONCAT))

    def expand(self, batch: int) -> Condition:
        """The same condition for `batch` samples, without copying memory.

        Raises:
            ValueError: this condition has neither one row nor `batch` rows.
        """
        if self.batch not in (1, batch):
            raise ValueError(f"cannot expand {self.batch} conditions to {batch}")
        return self._map(lambda v: v.expand(batch, *v.shape[1:]))

    def rows(self, index: Tensor) -> Condition:
        """Those of some samples, int64 [n]."""
        return self._map(lambda v: v[index])

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
