"""Real pictures for the adversary: samples, ends of the teacher's paths, or the style pictures themselves.

Legend: B items, C latent channels, space: cells, h w of pictures and F h w of clips.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stdcli.bank.reader import Bank
from stdcli.disk.opening import open_file
from stdcli.errors import ConfigError
from stdcli.media.arrays import resize
from stdcli.media.image import read_image
from stdcli.media.sources import kind_of
from stdcli.media.tensors import to_tensor
from stdcli.models.codec import Codec

if TYPE_CHECKING:
    from stdcli.rollout.teacher_rollout import TeacherRollout


def samples(paths: Tensor, x0: Tensor) -> Tensor:
    """The samples that the paths began from: their clean latents as they are."""
    return x0


@dataclass(frozen=True)
class PathEnds:
    """States at level 0, the teacher's results."""

    bank: Bank

    def __call__(self, paths: Tensor, x0: Tensor) -> Tensor:
        """[B, C, *space] like `x0`."""
        return self.bank.states(paths, [0] * len(paths)).to(x0)


@dataclass(frozen=True)
class Styles:
    """Each path's own style picture, squeezed to the size of the samples and encoded; kept once encoded.

    Attributes:
        sha256_of: number of a path -> SHA-256 of its style picture.
        files: SHA-256 -> style picture.
        codec: encodes.
        side_px: of the samples.
        device: of the codec.
    """

    sha256_of: Callable[[int], str]
    files: Mapping[str, Path]
    codec: Codec
    side_px: int
    device: torch.device
    _kept: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __call__(self, paths: Tensor, x0: Tensor) -> Tensor:
        """[B, C, *space] like `x0`."""
        return torch.stack([self._one(self.sha256_of(path)) for path in paths.tolist()]).to(x0)

    @torch.no_grad()
    def _one(self, sha256: str) -> Tensor:
        if sha256 not in self._kept:
            pixels = to_tensor(resize(read_image(self.files[sha256]).rgb, self.side_px, self.side_px))
            self._kept[sha256] = self.codec.encode(pixels.to(self.device))[0].cpu()
        return self._kept[sha256]


def find_styles(folder: Path) -> dict[str, Path]:
    """The pictures in a folder and below it, by their SHA-256.

    Raises:
        ConfigError: there are none.
    """
    files = sorted(path for path in folder.rglob("*") if kind_of(path) == "image" and path.is_file())
    if not files:
        raise ConfigError("no style pictures", [("style_data", f"no picture in {folder}")])
    return {_sha256(path): path for path in files}


def _sha256(path: Path) -> str:
    with open_file(path, ConfigError) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_styles(bank: Bank, folder: Path, *, codec: Codec, device: torch.device) -> Styles:
    """The style pictures of a bank as real pictures.

    Raises:
        ConfigError: the bank has no style pictures or holds clips, or one is not in the folder or below it.
    """
    if (side_px := bank.manifest.resolution_px) is None:
        problem = "a style picture is no clip, and this bank holds clips; --adv-real x0 or path-end"
        raise ConfigError("style pictures for clips", [("adversary.real", problem)])
    rows = list(bank.sources())
    wanted = {row["style_sha256"]: row["style"] for row in rows}
    if None in wanted:
        raise ConfigError("no style pictures", [("style_data", "this bank was built without any")])
    found = find_styles(folder)
    missing = sorted(name for sha256, name in wanted.items() if sha256 not in found)
    if missing:
        problem = f"{len(missing)} style pictures of the bank are not there, such as {missing[0]}"
        raise ConfigError("style pictures are gone", [("style_data", problem)])
    hashes = [row["style_sha256"] for row in rows]
    return Styles(hashes.__getitem__, found, codec, side_px, device)


def make_online_styles(rollout: TeacherRollout, *, codec: Codec, device: torch.device) -> Styles:
    """The style pictures of paths that are walked as real pictures; told apart by number of sample.

    Raises:
        ConfigError: the run has no style pictures.
    """
    if not rollout.styles:
        problem = "gives this run none; --style-data FOLDER, or --adv-real x0"
        raise ConfigError("no style pictures", [("paths.style_data", problem)])
    return Styles(rollout.style_of, rollout.styles, codec, rollout.manifest.resolution_px, device)
