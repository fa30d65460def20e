"""The public class for programs: a model opened once, that restyles arrays, pictures and files.

Legend: N pictures or frames, H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, Unpack, overload

import numpy as np
from PIL import Image

from stdcli.config.load import resolve
from stdcli.config.schema import StylizeConfig
from stdcli.errors import ConfigError, MediaError
from stdcli.inference.clips import sample_indices
from stdcli.inference.open import open_session, start_session
from stdcli.inference.session import StyleSession
from stdcli.inference.stylize import restyle_files
from stdcli.inference.targets import check_styled, plan, read_style
from stdcli.media.arrays import as_frames
from stdcli.media.image import Picture, picture_from, read_image, to_pillow
from stdcli.reporter import LogReporter, Reporter

StrPath: TypeAlias = str | os.PathLike[str]
ImageLike: TypeAlias = np.ndarray | Image.Image | StrPath
"""uint8 [H, W, 3] sRGB, a Pillow picture, or the path of a file."""
OneImage = TypeVar("OneImage", bound=Image.Image | StrPath)
PATHS = (str, os.PathLike)
LOADED = ("model", "base", "student", "lora", "style_scale", "device", "dtype", "offline")
"""Settings that decide what is loaded."""
IN_MEMORY = "(a picture in memory)"


class StylizeSettings(TypedDict, total=False):
    """Settings of `stdcli stylize`, by name; those left out, or None, are the model's own to decide."""

    base: str | None
    student: str | None
    style_weights: Sequence[float] | None
    style_scale: float | None
    prompt: str | None
    negative_prompt: str | None
    pooled: Literal["zero", "keep"]
    lora: str | Sequence[str]
    steps: int | None
    timesteps: Sequence[int] | None
    strength: float | None
    guidance: float | None
    gamma: float | None
    sampler: Literal["jump", "renoise"] | None
    final: Literal["level0", "x0"] | None
    match_style_statistics: bool | None
    num_solver_steps: int | None
    seed: int
    max_size: int | None
    batch: int | None
    fps: str | float | None
    start: str | float | None
    duration: str | float | None
    temporal: Literal["off", "blend", "flow"]
    codec: Literal["h264", "hevc", "vp9", "av1", "prores", "ffv1"] | None
    crf: int | None
    pix_fmt: str | None
    audio: bool
    dtype: str
    device: str
    offline: bool


class Stylizer:
    """A model opened with style pictures or a prompt: call it with what is to be restyled.

        stylizer = Stylizer.from_pretrained("embedded", style="painting.jpg", steps=4)
        painted = stylizer(photo)

    Results are those of `stdcli stylize`, byte for byte. Not for several threads at once.

    Attributes:
        config: every setting that was resolved, `StylizeConfig`.
    """

    def __init__(self, session: StyleSession, given: dict[str, Any], *, preset: str | None = None) -> None:
        self.config = session.config
        self._session, self._given, self._preset = session, given, preset

    @classmethod
    def from_pretrained(
        cls,
        model: StrPath = "embedded",
        *,
        style: ImageLike | Sequence[ImageLike] = (),
        preset: str | None = None,
        reporter: Reporter | None = None,
        **settings: Unpack[StylizeSettings],
    ) -> Stylizer:
        """Load a model.

        Args:
            model: "embedded", a diffusers folder, a .safetensors file, or a Hub id with optional @revision.
            style: one style picture or several, which are blended by `style_weights`.
            preset: name of a preset of `stylize`; settings win over it.
            reporter: told of warnings and progress; None writes to the logger "stdcli".
            settings: as the options of `stdcli stylize`, see `StylizeSettings`.

        Raises:
            ConfigError: settings that are wrong, or neither a style nor a prompt.
            MediaError: a style picture that cannot be read.
            ModelError, HubError, ResourceError: the model cannot be loaded.
        """
        given: dict[str, Any] = {"model": model, "style": _listed(style), **settings}
        config = _resolved(given, preset)
        pictures = _pictures(given["style"] or config.style)
        session = open_session(config, pictures, reporter or LogReporter())
        return cls(session, given, preset=preset)

    def using(
        self, *, style: ImageLike | Sequence[ImageLike] | None = None, **settings: Unpack[StylizeSettings]
    ) -> Stylizer:
        """The same model in another style or with other settings; nothing is loaded again.

        What is not named stays as it was; None takes a setting back.

        Raises:
            ConfigError: settings that are wrong, or that decide what is loaded.
            MediaError: a style picture that cannot be read.
        """
        problems = [(name, "decides what is loaded") for name in settings if name in LOADED]
        if problems:
            raise ConfigError("the model is open already", problems, hint="Stylizer.from_pretrained(...)")
        given = {**self._given, **settings}
        styles = self._session.styles
        if style is not None:
            given["style"] = _listed(style)
            styles = _pictures(given["style"])
        config = _resolved(given, self._preset)
        session = start_session(self._session.bundle, config, styles, self._session.reporter)
        return Stylizer(session, given, preset=self._preset)

    @property
    def settings(self) -> dict[str, Any]:
        """What is in force: steps, timesteps, strength, guidance and the rest, JSON-ready."""
        return self._session.settings.metadata()

    @overload
    def __call__(self, image: np.ndarray, *, clip: bool = False) -> np.ndarray: ...
    @overload
    def __call__(self, image: Image.Image | StrPath) -> Image.Image: ...
    @overload
    def __call__(self, image: list[OneImage] | tuple[OneImage, ...]) -> list[Image.Image]: ...
    def __call__(self, image: Any, *, clip: bool = False) -> Any:
        """Restyle pictures.

        Args:
            image: uint8 [H, W, 3], or [N, H, W, 3] of one size; a Pillow picture, a path, or a list of these.
            clip: whether N frames belong to one clip: its colors are matched by one map, and each frame is
                steadied by the one before (setting `temporal`).

        Returns:
            For arrays, uint8 of the same shape; else a Pillow picture, RGB or RGBA, for each.

        Raises:
            MediaError: something else, or a file that cannot be read.
            ModelError, HubError: no style adapter for the model, or it does not fit.
            ResourceError: one picture does not fit into memory.
            NumericsError: a state became NaN or infinite.
        """
        if isinstance(image, np.ndarray):
            frames = as_frames(image)
            result = self._clip(frames) if clip else self._batched(self._session, frames)
            return result.reshape(image.shape)
        if isinstance(image, list | tuple):
            return [self(each) for each in image]
        picture = _picture(image)
        for note in picture.info["notes"]:
            self._session.reporter.warning(note)
        return to_pillow(Picture(self._session.stylize(picture.rgb[None])[0], picture.alpha))

    def restyle_files(
        self,
        inputs: StrPath | Sequence[StrPath],
        output: StrPath | None = None,
        *,
        overwrite: bool = False,
        metadata: bool = True,
    ) -> list[str]:
        """Restyle files as `stdcli stylize` does: pictures, folders, globs, clips with their sound.

        Args:
            inputs: one or several.
            output: file or folder; None writes beside each input.
            overwrite: whether results may replace files.
            metadata: whether the recipe is stored inside and beside the results.

        Returns:
            Paths of the results; those that an earlier run had made, and that are left alone, come first.

        Raises:
            StdcliError: as the command; see `stdcli/errors.py`.
        """
        if IN_MEMORY in self.config.style:
            problem = "pictures in memory have no name that the record of a file could give"
            raise ConfigError("results in files need styles in files", [("style", problem)])
        names = [os.fspath(name) for name in _listed(inputs)]
        to = None if output is None else os.fspath(output)
        work = plan(self.config, names, output=to, overwrite=overwrite, metadata=metadata)
        if work.left_out:
            self._session.reporter.warning(work.left_out)
        made = restyle_files(self._session, work, overwrite=overwrite, metadata=metadata)
        return [*map(str, work.finished), *(str(result.path) for result in made)]

    def _clip(self, frames: np.ndarray) -> np.ndarray:
        session = self._session.for_clip([frames[index] for index in sample_indices(len(frames))])
        return self._batched(session, frames, session.batch_for(frames.shape[1:3]))

    def _batched(self, session: StyleSession, frames: np.ndarray, size: int | None = None) -> np.ndarray:
        """Frames in parts of `size`, or of the setting `batch`; pictures come one by one else."""
        size = size or self.config.batch or 1
        parts = (frames[first : first + size] for first in range(0, len(frames), size))
        return np.concatenate([session.stylize(part) for part in parts])


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _resolved(given: dict[str, Any], preset: str | None) -> StylizeConfig:
    """Settings as the command line would resolve them."""
    plain = {
        key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in given.items()
    }
    plain["style"] = [os.fspath(one) if isinstance(one, PATHS) else IN_MEMORY for one in given["style"]]
    config = resolve("stylize", preset=preset, flags=plain).config
    check_styled(config)
    return config


def _pictures(styles: Sequence[ImageLike]) -> list[Picture]:
    return [read_style(Path(one)) if isinstance(one, PATHS) else _picture(one) for one in styles]


def _picture(image: Any) -> Picture:
    if isinstance(image, PATHS):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return picture_from(image)
    if isinstance(image, np.ndarray) and image.ndim != 4:
        return Picture(as_frames(image)[0])
    expected = "uint8 [H, W, 3], a Pillow picture or a path"
    raise MediaError("not a picture", got=f"a {type(image).__name__}", expected=expected)
