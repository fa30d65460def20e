"""One shape for every model: denoiser, latent codec, text and style conditioning, schedule, recipe.

`Bundle` is what the rest of the program sees; it never meets a diffusers class or asks which family it has.
It knows nothing of levels, sampling or training.

Legend: B batch, C latent channels, h w latent cells, H W pixels, L tokens, D their width, N style pictures
(1 after averaging), S style vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from stdcli.config.recipe import Recipe
from stdcli.diffusion.combine import Scale
from stdcli.diffusion.guidance import guide
from stdcli.diffusion.levels import Level
from stdcli.diffusion.predictions import Denoised, PredictionType, to_x0_eps
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.errors import ModelError
from stdcli.models.codec import Codec
from stdcli.models.style import StyleAdapter, StyleEmbeds

TOKENS = "encoder_hidden_states"


@dataclass(frozen=True)
class Condition:
    """What the denoiser is told besides the noisy latent; a batch of B conditions.

    Attributes:
        encoder_hidden_states: text tokens [B, L, D].
        added: by diffusers' names, each with B rows: `text_embeds` [B, S], `time_ids` [B, 6] float32 in
            pixels, `image_embeds` [B, N, S] (or [B, N, tokens, S] for a Plus adapter).
        notes: what the user should know about how this condition was made.
    """

    encoder_hidden_states: Tensor
    added: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

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
        return Condition(tokens, added, tuple(dict.fromkeys(self.notes + other.notes)))

    def to(self, device: torch.device | str) -> Condition:
        """The same condition on another device."""
        return self._map(lambda v: v.to(device))

    def _map(self, change) -> Condition:
        added = {k: change(v) for k, v in self.added.items()}
        return replace(self, encoder_hidden_states=change(self.encoder_hidden_states), added=added)


class Denoiser:
    """A UNet behind one call, whatever it predicts and however it is conditioned.

    Args:
        unet: diffusers' UNet2DConditionModel, possibly wrapped by peft.
    """

    def __init__(self, unet: torch.nn.Module) -> None:
        self.unet = unet

    def __call__(self, x: Tensor, t: Tensor | float, condition: Condition) -> Tensor:
        """Evaluate the network once.

        Args:
            x: noisy latents [B, C, h, w], any float dtype.
            t: model time, a number or [B].
            condition: B conditions, or one for all.

        Returns:
            Raw network output [B, C, h, w], float32; what it means is `Bundle.prediction`.
        """
        condition = condition.expand(x.shape[0])
        dtype = self.unet.dtype
        added: dict[str, Tensor | list[Tensor]] = {
            k: v if k == "time_ids" else v.to(dtype)  # half precision cannot represent every pixel count
            for k, v in condition.added.items()
        }
        if "image_embeds" in added:
            added["image_embeds"] = [added["image_embeds"]]  # diffusers: one entry per loaded adapter
        tokens = condition.encoder_hidden_states.to(dtype)
        out = self.unet(
            x.to(dtype), t, encoder_hidden_states=tokens, added_cond_kwargs=added, return_dict=False
        )[0]
        return out.float()

    def pair(self, x: Tensor, t: Tensor | float, cond: Condition, uncond: Condition) -> tuple[Tensor, Tensor]:
        """Evaluate with and without the condition in one doubled forward.

        Args:
            x: noisy latents [B, C, h, w].
            t: model time, a number or [B].
            cond: B conditions, or one for all.
            uncond: the same for the unconditional branch.

        Returns:
            (output under `cond`, output under `uncond`), each [B, C, h, w] float32.
        """
        batch = x.shape[0]
        both = uncond.expand(batch).concat(cond.expand(batch))
        times = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        without, under = self(torch.cat([x, x]), times, both).chunk(2)
        return under, without


class TextConditioner(Protocol):
    """A family's way from prompts (and, where pooled, style) to conditions."""

    def encode(
        self,
        *,
        prompt: str | None,
        negative_prompt: str | None,
        size_px: tuple[int, int],
        guided: bool,
        style: StyleEmbeds | None,
    ) -> tuple[Condition, Condition | None]:
        """Conditions without `image_embeds`, of one row each; the second is None unless `guided`."""


@dataclass
class Bundle:
    """A loaded model.

    Attributes:
        name: as the user gave it.
        family: `embedded`, `sd15` or `sdxl`.
        denoiser: x, t, condition -> raw output.
        codec: pictures <-> latents.
        text: prompts -> conditions; use `condition` instead.
        style: style pictures -> embeddings, by IP-Adapter.
        schedule: noise schedule the denoiser was trained on.
        prediction: what the denoiser's output means.
        recipe: how this model wants to be sampled.
        device: where it is.
        dtype: dtype of the denoiser's weights.
        dtype_reason: why this device and dtype.
        multiple_px: picture sides must be multiples of this.
        notes: what the user should know about how the model was loaded.
        revision: commit on the Hub; None for local models.
        weight_files: files of each component.
        loras: (name, scale, file) of each fused LoRA.
    """

    name: str
    family: str
    denoiser: Denoiser
    codec: Codec
    text: TextConditioner
    style: StyleAdapter
    schedule: NoiseSchedule
    prediction: PredictionType
    recipe: Recipe
    device: torch.device
    dtype: torch.dtype
    dtype_reason: str
    multiple_px: int
    notes: list[str]
    revision: str | None
    weight_files: Mapping[str, Sequence[Path]]
    loras: Sequence[tuple[str, float, Path]] = ()

    def condition(
        self,
        *,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        styles: Sequence[Image.Image] = (),
        style_weights: Sequence[float] | None = None,
        size_px: tuple[int, int],
        guidance: float = 1.0,
    ) -> tuple[Condition, Condition | None]:
        """Make the condition and its unconditional counterpart, one row each.

        Unconditional means no text (SDXL: zeros for tokens and pooled unless a negative prompt is given;
        SD1.5: the encoded negative prompt or "") and zero image embeds. The style adapter of SD1.5 and SDXL
        is loaded at the first call with style pictures.

        Args:
            prompt: text; None is "".
            negative_prompt: text for the unconditional branch; None is none.
            styles: style pictures, RGB.
            style_weights: one weight per style picture, sum > 0; None is equal weights.
            size_px: (H, W) of the picture.
            guidance: 1.0 means that no unconditional condition is needed.

        Returns:
            (condition, unconditional or None).

        Raises:
            ConfigError: the weights do not fit the style pictures.
            ModelError: this model needs a style picture, or its style adapter does not fit.
            HubError: the style adapter is not here and cannot be fetched.
        """
        guided = guidance != 1.0
        style = self.style.embed(styles, style_weights) if styles or style_weights else None
        cond, uncond = self.text.encode(
            prompt=prompt, negative_prompt=negative_prompt, size_px=size_px, guided=guided, style=style
        )
        if style is None:
            if not self.style.loaded:
                return cond, uncond
            style = self.style.embed(())  # an installed adapter must be fed; zero embeds are "no style"
        cond = replace(cond, added={**cond.added, "image_embeds": style.cond})
        return cond, uncond and replace(uncond, added={**uncond.added, "image_embeds": style.uncond})

    def denoise(
        self,
        x: Tensor,
        level: Level,
        condition: Condition,
        unconditional: Condition | None = None,
        *,
        guidance: Scale = 1.0,
    ) -> Denoised:
        """What the network makes of states at a level, guided.

        Args:
            x: states [B, C, h, w].
            level: of all of them, or (with [B] tensors) one per state.
            condition: B conditions, or one for all.
            unconditional: the same for guidance, which doubles the forward; None where guidance is off.
            guidance: a number, or [B]; used only with `unconditional`.
        """
        t = level.t.to(self.device) if isinstance(level.t, Tensor) else level.t
        if unconditional is None:
            output = self.denoiser(x, t, condition)
        else:
            output = guide(*self.denoiser.pair(x, t, condition, unconditional), guidance)
        return to_x0_eps(output, x, alpha=level.alpha, sigma=level.sigma, kind=self.prediction)

    @property
    def identity(self) -> dict[str, object]:
        """What was loaded, for records: family, name, revision, `<component>_sha256`, LoRAs with scale and
        hash.

        The hashes are of the safetensors files as they are on disk; each file is read once per process.

        Raises:
            ModelError: a weights file is gone since loading.
        """
        record: dict[str, object] = {"family": self.family, "name": self.name, "revision": self.revision}
        files = {**self.weight_files, **self.style.weight_files}
        record |= {f"{name}_sha256": _hash_files(paths) for name, paths in sorted(files.items())}
        record["loras"] = [{"name": n, "scale": s, "sha256": _hash_files([p])} for n, s, p in self.loras]
        return record


def _hash_files(paths: Sequence[Path]) -> str:
    """SHA-256 of one file, or of the joined hex digests of several (the shards of one component)."""
    digests = []
    for path in paths:
        try:
            stat = path.stat()
            digests.append(_hash_file(path, stat.st_size, stat.st_mtime_ns))
        except OSError as e:
            raise ModelError("a weights file is gone since the model was loaded", where=path) from e
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@cache
def _hash_file(path: Path, size_bytes: int, changed_ns: int) -> str:
    """SHA-256 of a file; size and time of change are there so that a changed file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
