"""`stdcli stylize`: pictures and clips restyled by a model, from resolved settings to files on disk.

Everything that can be refused is refused before the model is loaded; everything that will happen is said
before it happens.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stdcli.apply.clips import stylize_clip
from stdcli.apply.outputs import find_inputs, output_paths, record, write_sidecar
from stdcli.apply.pictures import compute_size, stylize_frames
from stdcli.apply.settings import Settings, settle
from stdcli.apply.stylizer import Stylizer
from stdcli.config.schema import StylizeConfig
from stdcli.console import Console
from stdcli.diffusion.colours import ColourStatistics, colour_statistics, mix_colours
from stdcli.diffusion.statistics import Statistics, channel_statistics, mix_statistics
from stdcli.errors import ConfigError, MediaError
from stdcli.media.arrays import resize
from stdcli.media.image import Picture, read_image, write_image
from stdcli.media.recipe import KEY
from stdcli.media.sources import Source
from stdcli.media.tensors import pad_to_multiple, to_tensor
from stdcli.media.video import VideoInfo, probe
from stdcli.models.bundle import Bundle, Condition
from stdcli.models.load import load_model

CLIP_BATCH = {"cuda": 16, "mps": 8, "cpu": 4}


@dataclass(frozen=True)
class Target:
    """One input and where its result goes; `clip` is None for pictures."""

    source: Source
    path: Path
    clip: VideoInfo | None


@dataclass
class Session:
    """A loaded model, the style, and what was worked out from them once.

    Attributes:
        bundle: the model.
        config: the user's values.
        settings: the values in force.
        styles: style pictures.
        notes: what came up while stylizing and the user should know; emptied by whoever tells it.
    """

    bundle: Bundle
    config: StylizeConfig
    settings: Settings
    styles: Sequence[Picture]
    notes: list[str] = field(default_factory=list)
    _conditions: dict[tuple[int, int], tuple[Condition, Condition | None]] = field(default_factory=dict)
    _statistics: dict[int, Statistics | ColourStatistics] = field(default_factory=dict)

    def stylize(self, frames: np.ndarray) -> np.ndarray:
        """Restyle frames of one size: uint8 [B, H, W, 3] -> the same."""
        bundle = self.bundle
        size = compute_size(frames.shape[1:3], max_size=self.config.max_size, multiple_px=bundle.multiple_px)
        if size not in self._conditions:
            self._conditions[size] = self._make_condition(size)
            self.notes += self._conditions[size][0].notes
        condition, unconditional = self._conditions[size]
        stylizer = Stylizer(
            bundle, self.settings, condition, unconditional, self._style_statistics(size), self.config.seed
        )
        return stylize_frames(frames, stylizer, max_size=self.config.max_size, multiple_px=bundle.multiple_px)

    def _make_condition(self, size_px: tuple[int, int]) -> tuple[Condition, Condition | None]:
        return self.bundle.condition(
            prompt=self.config.prompt,
            negative_prompt=self.config.negative_prompt,
            styles=[Image.fromarray(style.rgb) for style in self.styles],
            style_weights=self.config.style_weights,
            size_px=size_px,
            guidance=self.settings.recipe.guidance,
        )

    def _style_statistics(self, size_px: tuple[int, int]) -> Statistics | ColourStatistics | None:
        """Of the style pictures at about the area of `size_px`; None unless they are to be matched."""
        transform, area_px = self.settings.recipe.start.transform, size_px[0] * size_px[1]
        if transform == "none" or not self.styles:
            return None
        if area_px not in self._statistics:
            pictures = [_resized(style, area_px=area_px) for style in self.styles]
            weights = self.config.style_weights or (1.0,) * len(pictures)
            if transform == "colours":
                found = mix_colours(
                    [colour_statistics(to_tensor(picture) / 2 + 0.5) for picture in pictures], weights
                )
            else:
                found = mix_statistics([channel_statistics(self._encode(p)) for p in pictures], weights)
            self._statistics[area_px] = found
        return self._statistics[area_px]

    @torch.inference_mode()
    def _encode(self, picture: np.ndarray) -> torch.Tensor:
        padded, _ = pad_to_multiple(to_tensor(picture), self.bundle.multiple_px)
        return self.bundle.codec.encode(padded.to(self.bundle.device))


def _resized(style: Picture, *, area_px: int) -> np.ndarray:
    height, width = style.rgb.shape[:2]
    scale = (area_px / (height * width)) ** 0.5
    return resize(style.rgb, max(1, round(height * scale)), max(1, round(width * scale)))


def stylize(
    config: StylizeConfig,
    inputs: Sequence[str],
    *,
    output: Path | None,
    overwrite: bool,
    metadata: bool,
    dry_run: bool,
    console: Console,
) -> None:
    """Restyle everything that `inputs` names.

    Args:
        config: resolved settings.
        inputs: files, folders and globs.
        output: file or folder; None for beside each input.
        overwrite: whether results may replace files.
        metadata: whether the recipe is stored inside and beside the results.
        dry_run: say what would be done and stop before any denoising.
        console: where to say it.

    Raises:
        StdcliError: see `stdcli/errors.py`; nothing half written is left behind.
    """
    sources = [source for name in inputs for source in find_inputs(name)]
    paths = output_paths(sources, output, overwrite=overwrite)
    fps = None if config.fps is None else Fraction(config.fps)
    targets = [
        Target(source, path, probe(source.path, fps=fps) if source.kind == "video" else None)
        for source, path in zip(sources, paths, strict=True)
    ]
    styles = [_read_style(Path(path)) for path in config.style]
    if not styles and not config.prompt:
        raise ConfigError(
            "no style to paint in", [("--style", "name a picture")], hint="stdcli stylize IN --style REF"
        )
    bundle = load_model(
        config.model,
        base=config.base,
        device=config.device,
        dtype=config.dtype,
        offline=config.offline,
        loras=config.lora,
        style_scale=config.style_scale,
    )
    settings = settle(config, bundle.recipe, bundle.schedule)
    console.note(settings.line())
    console.detail(bundle.dtype_reason)
    if dry_run:
        for target in targets:
            console.result(f"would write {target.path}", path=target.path, dry_run=True, **settings.facts())
        return
    session = Session(bundle, config, settings, styles)
    _tell(bundle, console)
    for target in targets:
        _run(session, target, overwrite=overwrite, metadata=metadata, console=console)


def _read_style(path: Path) -> Picture:
    try:
        return read_image(path)
    except MediaError as error:
        error.where = f"--style {path}"
        raise


def _tell(bundle: Bundle, console: Console) -> None:
    for note in bundle.notes:
        console.warning(note)


def _run(session: Session, target: Target, *, overwrite: bool, metadata: bool, console: Console) -> None:
    started_s = time.perf_counter()
    facts = session.settings.facts()
    data = (
        record(session.config, facts, session.bundle.identity, source=target.source.path)
        if metadata
        else None
    )
    target.path.parent.mkdir(parents=True, exist_ok=True)
    if target.clip is None:
        frames, notes = 1, _run_picture(session, target, data, overwrite=overwrite)
    else:
        frames, notes = _run_clip(session, target, data, overwrite=overwrite, console=console)
    for note in (*session.notes, *notes):
        console.warning(note)
    session.notes.clear()
    if data is not None:
        write_sidecar(target.path, data)
    seconds = time.perf_counter() - started_s
    speed = f", {frames / seconds:.1f} frames per second" if target.clip else ""
    console.result(
        f"{target.path}  ({seconds:.1f} s{speed})",
        path=target.path,
        frames=frames,
        seconds=round(seconds, 3),
        **facts,
    )


def _run_picture(session: Session, target: Target, data: dict | None, *, overwrite: bool) -> list[str]:
    picture = read_image(target.source.path)
    rgb = session.stylize(picture.rgb[None])[0]
    text = None if data is None else {KEY: json.dumps(data)}
    result = Picture(rgb, picture.alpha)
    notes = write_image(target.path, result, text=text, overwrite=overwrite, source=target.source.path)
    return [*picture.info["notes"], *notes]


def _run_clip(
    session: Session, target: Target, data: dict | None, *, overwrite: bool, console: Console
) -> tuple[int, list[str]]:
    batch_size = session.config.batch or CLIP_BATCH[session.bundle.device.type]
    with console.progress(target.source.path.name, target.clip.frames) as progress:
        return stylize_clip(
            target.source.path,
            target.path,
            session.stylize,
            info=target.clip,
            batch_size=batch_size,
            comment=None if data is None else json.dumps(data),
            overwrite=overwrite,
            progress=progress,
        )
