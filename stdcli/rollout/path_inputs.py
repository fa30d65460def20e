"""What each path is made from, drawn from its sample's identity alone: no order of work changes it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from stdcli.config.bank import SELF
from stdcli.data.files import File
from stdcli.diffusion.noise import sample_id
from stdcli.errors import ConfigError
from stdcli.media.arrays import resize
from stdcli.rollout.prompts import Prompts
from stdcli.runtime.seeding import fold

SELF_SHARE = 0.5  # side of the crop that a sample gives as its own style, of the sample's


@dataclass(frozen=True)
class Sample:
    """One path's beginning; plain data, a line of `samples.jsonl`.

    Attributes:
        sample_id: identity: first 63 bits of a hash of the file's content and `repeat`.
        source: name of the file below its folder.
        sha256: of the file.
        repeat: how many paths start from the file before this one.
        frame: of a clip.
        crop: where the square lies, as shares of the room there is, y then x.
        guidance: of the teacher, diffusers' form.
        prompt: None for none.
        style: None, "self", or name of the style picture.
        style_sha256: of the style picture.
        style_crop: where the crop of itself lies, as `crop`.
    """

    sample_id: int
    source: str
    sha256: str
    repeat: int
    frame: int
    crop: tuple[float, float]
    guidance: float
    prompt: str | None
    style: str | None
    style_sha256: str | None
    style_crop: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """As it is in `samples.jsonl`."""
        return asdict(self) | {"crop": list(self.crop), "style_crop": list(self.style_crop)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Sample:
        """The inverse of `to_json`."""
        return cls(**row | {"crop": tuple(row["crop"]), "style_crop": tuple(row["style_crop"])})


def make_sample(
    file: File,
    repeat: int,
    *,
    guidance_range: tuple[float, float],
    prompts: Prompts,
    styles: Sequence[File] | str | None,
    seed: int,
) -> Sample:
    """Everything about one path, drawn from its identity.

    Args:
        file: where it starts.
        repeat: how many paths start from the file before this one.
        guidance_range: lowest and highest guidance.
        prompts: of the files.
        styles: style pictures, "self", or None.
        seed: the user's.

    Raises:
        ConfigError: a prompt is missing.
    """
    id_ = sample_id(file.sha256, repeat)
    draws = torch.rand(8, generator=fold(seed, "sample", id_), dtype=torch.float64).tolist()
    low, high = guidance_range
    is_given = not isinstance(styles, str | None)
    style = styles[int(draws[5] * len(styles))] if is_given else None
    return Sample(
        sample_id=id_,
        source=file.name,
        sha256=file.sha256,
        repeat=repeat,
        frame=int(draws[1] * file.frames),
        crop=(draws[2], draws[3]),
        guidance=low + (high - low) * draws[0],
        prompt=prompts.of(file, draws[4]),
        style=style.name if style else styles,
        style_sha256=style.sha256 if style else None,
        style_crop=(draws[6], draws[7]),
    )


def draw_samples(
    files: Sequence[File], *, count: int, existing: Sequence[Sample], make: Callable[[File, int], Sample]
) -> list[Sample]:
    """The samples there are, and new ones up to `count`: each file once, then each again.

    Args:
        files: to start from.
        count: samples in all.
        existing: samples that a bank has; they stay, in their places.
        make: (file, repeat) -> its sample.

    Raises:
        ConfigError: a prompt is missing.
    """
    samples = list(existing)
    taken = {sample.sample_id for sample in samples}
    for repeat in itertools.count():
        for file in files:
            if len(samples) >= count:
                return samples
            if sample_id(file.sha256, repeat) not in taken:
                samples.append(make(file, repeat))


Loaded = tuple[list[np.ndarray], list[np.ndarray | None]]
"""Pictures uint8 [S, S, 3] of some samples, and their style pictures uint8 [H, W, 3]."""


class Pictures:
    """The pictures of samples, from files found by their content.

    Args:
        files: sources of samples.
        styles: style pictures.
        side_px: of the square that a path starts from.
    """

    def __init__(self, files: Sequence[File], styles: Sequence[File], *, side_px: int) -> None:
        self._files = {file.sha256: file for file in files}
        self._styles = {file.sha256: file for file in styles}
        self._side_px = side_px

    def missing(self, samples: Sequence[Sample]) -> list[str]:
        """Names of files that samples need and that were not given."""
        sources = {s.source for s in samples if s.sha256 not in self._files}
        styles = {s.style for s in samples if s.style_sha256 and s.style_sha256 not in self._styles}
        return sorted(sources | styles)

    def load(self, samples: Sequence[Sample]) -> Loaded:
        """The squares of samples, and their style pictures or None. Raises as `read`."""
        squares = [self.read(sample) for sample in samples]
        pairs = zip(samples, squares, strict=True)
        return squares, [self.read_style(*pair) for pair in pairs]

    def read(self, sample: Sample) -> np.ndarray:
        """The square that a path starts from, uint8 [S, S, 3].

        Raises:
            MediaError: the file cannot be read.
            ConfigError: it was not given.
        """
        if sample.sha256 not in self._files:
            raise ConfigError("a file of this bank is gone", [("data", f"{sample.source} is not there")])
        return square(self._files[sample.sha256].read(sample.frame), self._side_px, position=sample.crop)

    def read_style(self, sample: Sample, picture: np.ndarray) -> np.ndarray | None:
        """The style picture of a path, uint8 [H, W, 3]; None for none. Raises as `read`.

        Args:
            sample: of the path.
            picture: its square.
        """
        if sample.style is None:
            return None
        if sample.style == SELF:
            side = max(1, round(SELF_SHARE * self._side_px))
            top, left = (int(share * (self._side_px - side + 1)) for share in sample.style_crop)
            return resize(
                np.ascontiguousarray(picture[top : top + side, left : left + side]), *picture.shape[:2]
            )
        if sample.style_sha256 not in self._styles:
            raise ConfigError("a file of this bank is gone", [("style_data", f"{sample.style} is not there")])
        return self._styles[sample.style_sha256].read()


def square(rgb: np.ndarray, side_px: int, *, position: tuple[float, float]) -> np.ndarray:
    """A picture shrunk or enlarged until its shorter side is `side_px`, and cropped.

    Args:
        rgb: uint8 [H, W, 3].
        side_px: of the result.
        position: where the square lies, as shares of the room there is, y then x.
    """
    height, width = rgb.shape[:2]
    scale = side_px / min(height, width)
    size = max(side_px, round(width * scale)), max(side_px, round(height * scale))
    small = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS))
    top, left = (
        int(share * (side - side_px + 1)) for share, side in zip(position, small.shape[:2], strict=True)
    )
    return np.ascontiguousarray(small[top : top + side_px, left : left + side_px])
