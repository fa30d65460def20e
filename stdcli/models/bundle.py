"""One shape for every model: denoiser, latent codec, text and style conditioning, schedule, recipe.

`Bundle` is what the rest of the program sees; it never meets a diffusers class or asks which family it has,
which the row of the family (`families/family.py`) answers.
`Network` is the part of it that a trainer needs. Neither knows sampling or training.

Legend: B batch, C latent channels, h w latent cells, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from stdcli.config.recipe import Recipe
from stdcli.diffusion.combine import Scale
from stdcli.diffusion.guidance import guide
from stdcli.diffusion.levels import Level
from stdcli.diffusion.predictions import Denoised, PredictionType, to_x0_eps
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.disk.hashes import is_known
from stdcli.errors import ModelError
from stdcli.models.codec import Codec
from stdcli.models.condition import Condition
from stdcli.models.denoiser import Denoiser
from stdcli.models.families.family import Family, TextConditioner
from stdcli.models.style import StyleAdapter
from stdcli.models.weights import hash_files
from stdcli.runtime.memory_need import Need


@dataclass(kw_only=True)
class Network:
    """A loaded denoiser with all that says what its output means.

    Attributes:
        name: as the user gave it.
        family: the row of what it is.
        denoiser: x, t, condition -> raw output.
        style: style pictures -> embeddings, by IP-Adapter, once it is installed.
        schedule: noise schedule the denoiser was trained on.
        prediction: what the denoiser's output means.
        recipe: how this model wants to be sampled.
        device: where it is.
        dtype: dtype of the denoiser's weights.
        dtype_reason: why this device and dtype.
        notes: what the user should know about how the model was loaded.
        revision: commit on the Hub; None for local models.
        weight_files: files of each component, loaded or not, but for the style adapter's.
        loras: (name, scale, files) of each fused LoRA.
        student: (name, files) of the distilled student whose weights these are; None for the model itself.
        need: what its weights take of memory.
        is_outline: whether the weights are left out, see `load_model`.
    """

    name: str
    family: Family
    denoiser: Denoiser
    style: StyleAdapter
    schedule: NoiseSchedule
    prediction: PredictionType
    recipe: Recipe
    device: torch.device
    dtype: torch.dtype
    dtype_reason: str
    notes: list[str]
    revision: str | None
    weight_files: Mapping[str, Sequence[Path]]
    loras: Sequence[tuple[str, float, Sequence[Path]]] = ()
    student: tuple[str, Sequence[Path]] | None = None
    need: Need
    is_outline: bool = False

    def denoise(
        self,
        x: Tensor,
        level: Level,
        condition: Condition,
        unconditional: Condition | None = None,
        *,
        guidance: Scale = 1.0,
        to_level: Level | None = None,
    ) -> Denoised:
        """What the network makes of states at a level, guided.

        Args:
            x: states [B, C, h, w].
            level: of all of them, or (with [B] tensors) one per state.
            condition: B conditions, or one for all.
            unconditional: the same for guidance, which doubles the forward; None where guidance is off.
            guidance: a number, or [B]; used only with `unconditional`.
            to_level: where the step aims; only networks that see it need it.

        Raises:
            ValueError: a network that sees its target is not given one.
        """
        t = self._time(level)
        target = {"target_time": to_level and self._time(to_level)} if self.denoiser.has_target_time else {}
        if unconditional is None:
            output = self.denoiser(x, t, condition, **target)
        else:
            output = guide(*self.denoiser.pair(x, t, condition, unconditional, **target), guidance)
        return to_x0_eps(output, x, alpha=level.alpha, sigma=level.sigma, kind=self.prediction)

    @property
    def identity(self) -> dict[str, Any]:
        """What was loaded, for records: family, name, revision, `<component>_sha256`, LoRAs with scale and
        hash, and the student where there is one.

        The hashes are of the safetensors files as they are on disk; each file is read once per process.

        Raises:
            ModelError: a weights file is gone since loading.
        """
        record: dict[str, Any] = {"family": self.family.name, "name": self.name, "revision": self.revision}
        record |= {f"{part}_sha256": self.hash_of(part) for part in sorted(self._files())}
        record["loras"] = [{"name": n, "scale": s, "sha256": _hash_files(p)} for n, s, p in self.loras]
        if self.student is not None:
            record["student"] = {"name": self.student[0], "sha256": _hash_files(self.student[1])}
        return record

    def hash_of(self, component: str) -> str | None:
        """SHA-256 of a component's weights, as in `identity`; None for a component that is not there.

        Of an outline it is None too where a big file would have to be read.

        Raises:
            ModelError: a weights file is gone since loading.
        """
        paths = self._files().get(component)
        if paths is None or (self.is_outline and not all(map(is_known, paths))):
            return None
        return _hash_files(paths)

    def _files(self) -> Mapping[str, Sequence[Path]]:
        return {**self.weight_files, **self.style.weight_files}

    def _time(self, level: Level) -> Tensor | float:
        return level.t.to(self.device) if isinstance(level.t, Tensor) else level.t


@dataclass(kw_only=True)
class Bundle:
    """A loaded model: a network, and the ways to it from pictures and prompts.

    Attributes:
        network: the denoiser, and all that says what its output means.
        codec: pictures <-> latents.
        text: prompts -> conditions; use `condition` instead.
    """

    network: Network
    codec: Codec
    text: TextConditioner

    @property
    def multiple_px(self) -> int:
        """Picture sides must be multiples of this."""
        return self.codec.factor * self.network.denoiser.multiple

    def condition(
        self,
        *,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        styles: Sequence[Image.Image] = (),
        style_weights: Sequence[float] | None = None,
        size_px: tuple[int, int],
        guidance: float = 1.0,
        pooled: Literal["zero", "keep"] = "zero",
    ) -> tuple[Condition, Condition | None]:
        """Make the condition and its unconditional counterpart, one row each.

        Unconditional means no text (SDXL: zeros for tokens and pooled unless a negative prompt is given;
        SD1.5: the encoded negative prompt or "") and zero image embeds. A style adapter that the model was
        loaded without is installed at the first call with style pictures.

        Args:
            prompt: text; None is "".
            negative_prompt: text for the unconditional branch; None is none.
            styles: style pictures, RGB.
            style_weights: one weight per style picture, sum > 0; None is equal weights.
            size_px: (H, W) of the picture.
            guidance: 1.0 means that no unconditional condition is needed.
            pooled: "keep" the prompt's pooled embedding in SDXL's unconditional branch; others have none.

        Returns:
            (condition, unconditional or None).

        Raises:
            ConfigError: the weights do not fit the style pictures.
            ModelError: this model needs a style picture, or its style adapter does not fit.
            HubError: the style adapter is not here and cannot be fetched.
        """
        guided = guidance != 1.0
        adapter = self.network.style
        style = adapter.embed(styles, style_weights) if styles or style_weights else None
        cond, uncond = self.text.encode(
            prompt=prompt,
            negative_prompt=negative_prompt,
            size_px=size_px,
            guided=guided,
            style=style,
            pooled=pooled,
        )
        if style is None:
            if not adapter.loaded:
                return cond, uncond
            style = adapter.embed(())  # an installed adapter must be fed; zero embeds are "no style"
        cond = replace(cond, added={**cond.added, "image_embeds": style.cond})
        return cond, uncond and replace(uncond, added={**uncond.added, "image_embeds": style.uncond})


def _hash_files(paths: Sequence[Path]) -> str:
    try:
        return hash_files(paths)
    except OSError as e:
        where = next((path for path in paths if not path.exists()), paths[0])
        raise ModelError("a weights file is gone since the model was loaded", where=where) from e
