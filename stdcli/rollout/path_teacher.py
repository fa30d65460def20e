"""Walking the teacher's paths: pictures and styles in, all states out.

Legend: B paths of a batch, L stored levels, C latent channels, h w latent cells, S side of the pictures.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stdcli.bank.shard import StoredPaths, join_paths
from stdcli.diffusion.levels import Level, SamplingPath
from stdcli.diffusion.noise import make_noise, noise_seed
from stdcli.diffusion.predictions import Denoised
from stdcli.diffusion.sample import sample as sample_path
from stdcli.diffusion.solvers import start_state
from stdcli.errors import NumericsError
from stdcli.media.arrays import resize
from stdcli.media.tensors import to_tensor
from stdcli.models.bundle import Bundle
from stdcli.models.condition import Condition
from stdcli.models.start import Transform, encode_towards, measure
from stdcli.rollout.pace import ENOUGH, Pace
from stdcli.rollout.path_inputs import Loaded, Pictures, Sample
from stdcli.runtime.read_ahead import read_ahead

_KEPT_CONDITIONS = 256
Row = dict[str, Tensor]


@dataclass(frozen=True)
class PathStarts:
    """Paths at their start.

    Attributes:
        x0: [B, C, h, w] float32, clean latents, untransformed.
        state: the same at the start level: alpha T(x0) + sigma noise.
        conditions: per path, condition and unconditional.
        guidance: float64 [B], on the CPU.
    """

    x0: Tensor
    state: Tensor
    conditions: Sequence[tuple[Condition, Condition]]
    guidance: Tensor

    def stacked(self) -> tuple[Condition, Condition]:
        """Conditions and unconditionals of all paths, each as one."""
        cond, uncond = (_stack([pair[side] for pair in self.conditions]) for side in (0, 1))
        return cond, uncond


@dataclass
class Teacher:
    """A model that paths are walked with.

    Attributes:
        bundle: the model.
        path: every level from the start down to level 0.
        kept: ids of the levels that are stored.
        transform: done to samples towards their styles.
        store_dtype: of states and clean latents.
        seed: of the noise.
        side_px: S.
        guided: whether any path has guidance.
        pooled: see `Bundle.condition`.
    """

    bundle: Bundle
    path: SamplingPath
    kept: frozenset[int]
    transform: Transform
    store_dtype: torch.dtype
    seed: int
    side_px: int
    guided: bool
    pooled: Literal["zero", "keep"] = "zero"
    _conditions: OrderedDict[tuple[str | None, str], tuple[Condition, Condition]] = field(
        default_factory=OrderedDict
    )

    @torch.no_grad()
    def rollout(
        self,
        samples: Sequence[Sample],
        pictures: Pictures,
        *,
        batch_size: int,
        pace: Pace | None = None,
        advance: Callable[[int], object] = lambda paths: None,
    ) -> StoredPaths:
        """The paths of some samples.

        Args:
            samples: whose paths.
            pictures: where their pictures are.
            batch_size: B.
            pace: told of every batch and evaluation.
            advance: called after each batch, with its paths.

        Raises:
            MediaError: a picture cannot be read any more.
            NumericsError: a state is NaN or infinite; names the sample's file, the level and the dtype.
        """
        batches = [samples[k : k + batch_size] for k in range(0, len(samples), batch_size)]
        loaded = ((batch, pictures.load(batch)) for batch in batches)
        pace, parts = pace or Pace(self.path.evaluations), []
        with closing(read_ahead(loaded, 1)) as ready:
            for batch in batches:
                pace.start(len(batch))
                parts.append(self._rollout(*next(ready), pace))
                pace.stop()
                advance(len(batch))
        return join_paths(parts)

    def conditions(self, sample: Sample, pictures: Pictures) -> dict[str, Tensor]:
        """What the bank stores of a path's conditions, by name."""
        rgb, styles = pictures.load([sample])
        start = self._encode(rgb, styles)[1] if self.bundle.network.denoiser.sees_photo else None
        return rows_of(self._conditions_of([sample], styles, start)[0])

    @torch.no_grad()
    def try_batch(self, samples: Sequence[Sample], pictures: Pictures, pace: Pace) -> None:
        """Begin a batch only to learn how long it would take: what a dry run has for it.

        Args:
            samples: as many as a batch has.
            pictures: where their pictures are.
            pace: told.
        """
        pace.start(len(samples))
        starts = self.start_paths(samples, pictures.load(samples))
        cond, uncond = starts.stacked()
        pace.step()
        for _ in range(min(ENOUGH, self.path.evaluations)):
            self.denoise(starts.state, self.path.levels[0], cond, uncond, starts.guidance).x0.cpu()
            pace.step()

    def _rollout(self, samples: Sequence[Sample], loaded: Loaded, pace: Pace) -> StoredPaths:
        starts = self.start_paths(samples, loaded)
        cond, uncond = starts.stacked()
        return StoredPaths(
            states=self._states(starts.state, cond, uncond, starts.guidance, samples, on_step=pace.step),
            x0=starts.x0.to("cpu", self.store_dtype),
            guidance=starts.guidance.float(),
            noise_seed=torch.tensor([noise_seed(self.seed, s.sample_id) for s in samples]),
            sample_id=torch.tensor([s.sample_id for s in samples]),
            conditions=[rows_of(pair) for pair in starts.conditions],
            sources=[sample.to_json() for sample in samples],
        )

    @torch.no_grad()
    def start_paths(self, samples: Sequence[Sample], loaded: Loaded) -> PathStarts:
        """Where paths begin.

        Args:
            samples: of the paths.
            loaded: their pictures and style pictures.
        """
        rgb, styles = loaded
        x0, start = self._encode(rgb, styles)
        noise = torch.stack([make_noise(x0.shape[1:], self.seed, s.sample_id) for s in samples])
        return PathStarts(
            x0=x0,
            state=start_state(start, noise, self.path.levels[0]),
            conditions=self._conditions_of(samples, styles, start),
            guidance=torch.tensor([s.guidance for s in samples], dtype=torch.float64),
        )

    def denoise(
        self, x: Tensor, level: Level, cond: Condition, uncond: Condition, guidance: Tensor
    ) -> Denoised:
        """The guided teacher; guidance float64 [B]. Without any guidance one forward, else two."""
        return self.bundle.network.denoise(x, level, cond, uncond if self.guided else None, guidance=guidance)

    def _states(
        self,
        start: Tensor,
        cond: Condition,
        uncond: Condition,
        guidance: Tensor,
        samples: Sequence[Sample],
        *,
        on_step: Callable[[], object] = lambda: None,
    ) -> Tensor:
        """[B, L, C, h, w], as stored; `on_step` is called at the start and after each evaluation."""
        states: list[Tensor] = []

        def keep(index: int, level: Level, state: Tensor) -> None:
            if level.id in self.kept:
                states.append(state.to("cpu", self.store_dtype))
            on_step()

        def denoise(x: Tensor, level: Level) -> Denoised:
            return self.denoise(x, level, cond, uncond, guidance)

        try:
            sample_path(denoise, start, self.path, schedule=self.bundle.network.schedule, on_step=keep)
        except NumericsError as error:
            if len(samples) > 1:  # find the one
                for k, sample in enumerate(samples):
                    one = slice(k, k + 1)
                    alone = (_rows(cond, one), _rows(uncond, one), guidance[one])
                    self._states(start[one], *alone, [sample])
                raise
            raise self._fault(error, samples[0], str(error.where)) from error
        for state, id_ in zip(states, sorted(self.kept, reverse=True), strict=True):
            broken = ~state.isfinite().flatten(1).all(1)
            if broken.any():
                raise self._fault(None, samples[int(broken.nonzero()[0])], f"level {id_}")
        return torch.stack(states, 1)

    def _fault(self, error: NumericsError | None, sample: Sample, where: str) -> NumericsError:
        stored = str(self.store_dtype).removeprefix("torch.")
        dtype = str(self.bundle.network.dtype).removeprefix("torch.")
        return NumericsError(
            "a state of a path is NaN or infinite" if error else f"a state does not fit into {stored}",
            where=f"{sample.source}, {where}, teacher in {dtype}",
            hint="--dtype float32, or a lower --guidance-range" if error else "--set store_dtype=float32",
        )

    def _encode(
        self, rgb: Sequence[np.ndarray], styles: Sequence[np.ndarray | None]
    ) -> tuple[Tensor, Tensor]:
        """Clean latents, and the same moved towards the styles: [B, C, h, w] each."""
        codec, device = self.bundle.codec, self.bundle.network.device
        pixels = torch.cat([to_tensor(picture) for picture in rgb])
        x0 = codec.encode(pixels.to(device))
        moved = x0.clone()
        for k, style in enumerate(styles):
            if style is not None and self.transform != "none":
                one = slice(k, k + 1)
                target = measure(codec, self._fit(style), self.transform, device=device)
                moved[one] = encode_towards(codec, pixels[one], target, device=device)
        return x0, moved

    def _fit(self, style: np.ndarray) -> Tensor:
        """A style picture at about the area of the samples, sides multiples of the model's."""
        height, width = style.shape[:2]
        scale, multiple = self.side_px / (height * width) ** 0.5, self.bundle.multiple_px
        sides = (max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))
        return to_tensor(resize(style, *sides))

    def _conditions_of(
        self, samples: Sequence[Sample], styles: Sequence[np.ndarray | None], start: Tensor | None
    ) -> list[tuple[Condition, Condition]]:
        """Of each path; a network that sees the photo is shown `start` [B, C, h, w], its clean beginning."""
        pairs = [self._condition(*pair) for pair in zip(samples, styles, strict=True)]
        if not self.bundle.network.denoiser.sees_photo:
            return pairs
        shown = start.split(1)
        return [
            (replace(cond, concat_latents=photo), replace(uncond, concat_latents=photo))
            for (cond, uncond), photo in zip(pairs, shown, strict=True)
        ]

    def _condition(self, sample: Sample, style: np.ndarray | None) -> tuple[Condition, Condition]:
        is_own = sample.style is not None and sample.style_sha256 is None
        key = sample.prompt, f"self {sample.sample_id}" if is_own else str(sample.style_sha256)
        if key not in self._conditions:
            self._conditions[key] = self.bundle.condition(
                prompt=sample.prompt,
                styles=[] if style is None else [Image.fromarray(style)],
                size_px=(self.side_px, self.side_px),
                guidance=2.0,  # whatever the path's own: the unconditional branch is stored too
                pooled=self.pooled,
            )
            if len(self._conditions) > _KEPT_CONDITIONS:
                self._conditions.popitem(last=False)
        return self._conditions[key]


def rows_of(pair: tuple[Condition, Condition]) -> Row:
    """Condition and unconditional of one path under the names that the bank stores."""
    named = zip(("cond", "uncond"), pair, strict=True)
    return {f"{side}.{name}": value[0].cpu() for side, one in named for name, value in one.tensors().items()}


def _stack(conditions: Sequence[Condition]) -> Condition:
    stacked = conditions[0]
    for condition in conditions[1:]:
        stacked = stacked.concat(condition)
    return stacked


def _rows(condition: Condition, which: slice) -> Condition:
    return Condition.from_tensors({name: value[which] for name, value in condition.tensors().items()})
