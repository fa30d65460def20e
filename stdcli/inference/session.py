"""A loaded model with a style: uint8 frames of any size in, the same restyled out.

Conditions and style statistics are worked out once per size. For clips, the colours of the content are
measured once over the whole clip, and frames may remember the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image

from stdcli.config.schema import StylizeConfig
from stdcli.diffusion.colors import mix_colors, pool_colors
from stdcli.diffusion.statistics import mix_statistics, pool_statistics
from stdcli.errors import ResourceError
from stdcli.inference.image_to_image import ImageToImage
from stdcli.inference.padded_frames import compute_size, stylize_frames
from stdcli.inference.settings import SamplingSettings
from stdcli.inference.temporal_blend import TemporalBlend
from stdcli.media.arrays import fit_max_size, resize
from stdcli.media.image import Picture
from stdcli.media.tensors import pad_to_multiple, to_tensor, to_uint8
from stdcli.models.bundle import Bundle
from stdcli.models.condition import Condition
from stdcli.models.start import Measured, measure
from stdcli.reporter import Reporter

BATCH_PX = {"cuda": 16 * 512 * 512, "mps": 8 * 512 * 512, "cpu": 4 * 256 * 256}
"""Pixels per forward that fill a device, roughly."""


@dataclass
class StyleSession:
    """A loaded model, the style, and what was worked out from them once.

    Attributes:
        bundle: the model.
        config: the user's values.
        settings: the values in force.
        styles: style pictures.
        reporter: told what comes up and the user should know.
        content: statistics of the whole clip that frames belong to; None for single pictures.
        memory: what a frame hands to the next; None where frames are on their own.
        fitting: how many frames at once have turned out to fit into memory; None while all did.
        tell: told what is being done to a picture; None tells nobody.
    """

    bundle: Bundle
    config: StylizeConfig
    settings: SamplingSettings
    styles: Sequence[Picture]
    reporter: Reporter
    content: Measured | None = None
    memory: TemporalBlend | None = None
    fitting: int | None = None
    tell: Callable[[str], None] | None = None
    _conditions: dict[tuple[int, int], tuple[Condition, Condition | None]] = field(default_factory=dict)
    _statistics: dict[int, Measured] = field(default_factory=dict)

    def for_clip(self, samples: Sequence[np.ndarray]) -> StyleSession:
        """A session for the frames of one clip.

        Args:
            samples: uint8 [H, W, 3] frames from all over it, for colours or statistics that fit them all.
        """
        mode = self.config.temporal
        device = (
            self.bundle.network.device if self.bundle.network.device.type == "cuda" else "cpu"
        )  # mps lacks bicubic
        memory = None if mode == "off" else TemporalBlend(mode, device)
        return replace(self, content=self._pool(samples), memory=memory)

    def telling(self, tell: Callable[[str], None]) -> StyleSession:
        """The same, that tells what it is at; what it works out is shared."""
        return replace(self, tell=tell)

    def in_style_of(self, *styles: np.ndarray) -> StyleSession:
        """The same in other styles, pictures uint8 [H, W, 3]."""
        return replace(self, styles=[Picture(rgb) for rgb in styles], _conditions={}, _statistics={})

    def check(self) -> None:
        """Try what can be tried without a picture.

        Raises:
            ModelError: the model needs a style picture, or its style adapter does not fit.
        """
        side_px = 8 * self.bundle.multiple_px
        self._make_condition((side_px, side_px))

    def report(self) -> None:
        """Say what has come up about the model, once."""
        for note in self.bundle.network.notes:
            self.reporter.warning(note)
        self.bundle.network.notes.clear()

    def batch_for(self, size_px: tuple[int, int]) -> int:
        """How many frames of `size_px` (H, W) fill the device, or as many as the user said."""
        height, width = self._size(size_px)
        fitting = max(1, BATCH_PX[self.bundle.network.device.type] // (height * width))
        return self.config.batch or 2 ** min(4, fitting.bit_length() - 1)

    def stylize(self, frames: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
        """Restyle frames of one size, or only their masked parts: uint8 [B, H, W, 3] -> the same.

        Args:
            frames: uint8 [B, H, W, 3].
            masks: bool [B, H, W], where to repaint; elsewhere frames come back about as they were.

        Raises:
            ResourceError: a single frame does not fit into the device's memory.
        """
        if self.fitting is not None and len(frames) > self.fitting:
            cuts = range(self.fitting, len(frames), self.fitting)
            parts = np.split(frames, cuts)
            masked = [None] * len(parts) if masks is None else np.split(masks, cuts)
            return np.concatenate([self.stylize(*part) for part in zip(parts, masked, strict=True)])
        try:
            result = self._stylize(frames, masks)
            self.report()
            return result
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            if len(frames) == 1:
                elsewhere = "" if self.bundle.network.device.type == "cpu" else ", or --device cpu"
                hint = f"add --max-size {max(256, max(frames.shape[1:3]) // 2)}{elsewhere}"
                raise ResourceError("one frame needs more memory than the device has", hint=hint) from error
        self.fitting = len(frames) // 2
        fitting = f"{len(frames)} frames at once do not fit into memory: {self.fitting} from here on"
        self.reporter.warning(fitting)
        return self.stylize(frames, masks)

    def _stylize(self, frames: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        size = self._size(frames.shape[1:3])
        if size not in self._conditions:
            self._conditions[size] = self._make_condition(size)
        condition, unconditional = self._conditions[size]
        restyle = ImageToImage(
            self.bundle,
            self.settings,
            condition,
            unconditional,
            self._style_statistics(size),
            self.config.seed,
            self.content,
            self.tell,
        )
        run = restyle if self.memory is None else _BlendedFrames(restyle, self.memory)
        sizes = {"max_size": self.config.max_size, "multiple_px": self.bundle.multiple_px}
        return stylize_frames(frames, run, masks=masks, **sizes)

    def _size(self, size_px: tuple[int, int]) -> tuple[int, int]:
        return compute_size(size_px, max_size=self.config.max_size, multiple_px=self.bundle.multiple_px)

    def _make_condition(self, size_px: tuple[int, int]) -> tuple[Condition, Condition | None]:
        made = self.bundle.condition(
            prompt=self.config.prompt,
            negative_prompt=self.config.negative_prompt,
            styles=[Image.fromarray(style.rgb) for style in self.styles],
            style_weights=self.config.style_weights,
            size_px=size_px,
            guidance=self.settings.recipe.guidance,
            pooled=self.config.pooled,
        )
        for note in made[0].notes:
            self.reporter.warning(note)
        return made

    def _style_statistics(self, size_px: tuple[int, int]) -> Measured | None:
        """Of the style pictures at about the area of `size_px`; None unless they are to be matched."""
        transform, area_px = self.settings.recipe.start.transform, size_px[0] * size_px[1]
        if transform == "none" or not self.styles:
            return None
        if area_px not in self._statistics:
            measured = [self._measure(_resized(style.rgb, area_px=area_px)) for style in self.styles]
            mix = mix_colors if transform == "colours" else mix_statistics
            self._statistics[area_px] = mix(measured, self.config.style_weights or (1.0,) * len(measured))
        return self._statistics[area_px]

    def _pool(self, samples: Sequence[np.ndarray]) -> Measured | None:
        transform = self.settings.recipe.start.transform
        if transform == "none" or not self.styles:
            return None
        size = self.config.max_size
        measured = [self._measure(fit_max_size(frame, size) if size else frame) for frame in samples]
        return (pool_colors if transform == "colours" else pool_statistics)(measured)

    @torch.inference_mode()
    def _measure(self, rgb: np.ndarray) -> Measured:
        transform, pixels = self.settings.recipe.start.transform, to_tensor(rgb)
        if transform == "adain":
            pixels, _ = pad_to_multiple(pixels, self.bundle.multiple_px)
        return measure(self.bundle.codec, pixels, transform, device=self.bundle.network.device)


@dataclass(frozen=True)
class _BlendedFrames:
    """Frames that, in their order, remember the one before."""

    restyle: ImageToImage
    memory: TemporalBlend

    def __call__(self, pixels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        painted = None if mask is None else mask[:, 0].numpy() >= 0.5
        results = to_uint8(self.restyle(pixels, mask))
        steady = self.memory.steady(to_uint8(pixels), results, painted)
        return torch.cat([to_tensor(frame) for frame in steady])


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _resized(rgb: np.ndarray, *, area_px: int) -> np.ndarray:
    height, width = rgb.shape[:2]
    scale = (area_px / (height * width)) ** 0.5
    return resize(rgb, max(1, round(height * scale)), max(1, round(width * scale)))
