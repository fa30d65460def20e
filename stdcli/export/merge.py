"""A student melted into the model it changes: a model of its own, as a diffusers folder or a single file.

Works on tensors of safetensors files, shard by shard; no network is built. What the student does not change
is copied. Knows no recipes and no pipelines.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from stdcli.disk.reading import read_text
from stdcli.errors import ModelError, NumericsError
from stdcli.models.families.family import Family
from stdcli.models.folder import WITH_WEIGHTS, ModelFolder, component_files, weight_files
from stdcli.models.layout import INDEX_FILE
from stdcli.models.lora.reading import LoraLayer
from stdcli.models.original_names import original_clip, original_open_clip, original_unet, original_vae
from stdcli.models.style import ADAPTER_FOLDER
from stdcli.models.weights import is_finite, read_shapes, save_tensors

UNET = "unet"
_TEXTS = frozenset({".json", ".txt"})


@dataclass(frozen=True)
class Merge:
    """What is melted into what.

    Attributes:
        name: of the base, as it was given.
        folder: the base, a diffusers folder.
        family: of the base.
        layers: low-rank changes by module; empty for a student of full weights.
        unet: folder of a student's full weights, in place of the base's UNet; None for layers.
        dtype: of all weights; None keeps those that are stored.
    """

    name: str
    folder: ModelFolder
    family: Family
    layers: Mapping[str, LoraLayer]
    unet: Path | None
    dtype: torch.dtype | None

    def unet_files(self) -> list[Path]:
        """Files of the UNet that is changed or taken."""
        return component_files(self.unet or self.folder.path / UNET, half=False)


def check_merge(merge: Merge) -> None:
    """Refuse a student of which not every layer has its place in the base.

    Raises:
        ModelError: names the first layers without a place.
    """
    expected = _shapes(component_files(merge.folder.path / UNET, half=False))
    if merge.unet is not None:
        mine = _shapes(merge.unet_files())
        lost = {name for name in mine.keys() | expected.keys() if mine.get(name) != expected.get(name)}
        total = len(expected)
    else:
        lost = {
            name
            for name, layer in merge.layers.items()
            if f"{name}.weight" not in expected or not layer.fits(expected[f"{name}.weight"])
        }
        total = len(merge.layers)
    if lost:
        raise ModelError(
            "this student does not fit the model",
            where=merge.folder.path,
            got=f"{total - len(lost)} of {total} match; first that do not: {', '.join(sorted(lost)[:3])}",
            expected=f"all {total}",
        )


def write_folder(merge: Merge, out: Path) -> None:
    """Write a diffusers folder.

    Args:
        merge: checked by `check_merge`.
        out: an empty folder.

    Raises:
        NumericsError: a merged value is NaN, infinite or too large for the dtype.
        ModelError: a part of the base has no safetensors.
        OSError, SafetensorError: the disk is full or refuses.
    """
    base = merge.folder
    _copy(base.path / INDEX_FILE, out / INDEX_FILE)
    for part in base.components:
        if part != UNET and (base.path / part).is_dir():
            _write_part(merge, base.path / part, out / part)
    adapter = base.path / ADAPTER_FOLDER
    if adapter.is_dir():
        for folder in (adapter, *(path for path in sorted(adapter.iterdir()) if path.is_dir())):
            _write_part(merge, folder, out / folder.relative_to(base.path))
    folder = merge.unet or base.path / UNET
    _copy_texts(folder, out / UNET)
    for path, tensors in _unet_parts(merge):
        save_tensors(out / UNET / _plain(path.name), tensors, {"format": "pt"})


def single_file_tensors(merge: Merge) -> dict[str, Tensor]:
    """All tensors of a checkpoint in the original layout; held in memory at once.

    Args:
        merge: checked by `check_merge`; of a family with a single-file layout.

    Raises:
        NumericsError, ModelError: as `write_folder`.
    """
    base = merge.folder
    unet = {name: value for _, part in _unet_parts(merge) for name, value in part.items()}
    tensors = original_unet(unet, base.config(UNET))
    tensors |= original_vae(_part(merge, "vae"), base.config("vae"))
    tensors |= original_clip(_part(merge, "text_encoder"), merge.family.names.clip or "")
    if "text_encoder_2" in merge.family.components:
        tensors |= original_open_clip(_part(merge, "text_encoder_2"))
    return tensors


def _unet_parts(merge: Merge) -> Iterator[tuple[Path, dict[str, Tensor]]]:
    """(file, its tensors with the student in them) of every file of the UNet."""
    for path in merge.unet_files():
        tensors = {}
        for name, value in load_file(path).items():
            layer = merge.layers.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
            changed = value if layer is None else value.float() + layer.change(tuple(value.shape))
            tensors[name] = changed.to(merge.dtype or value.dtype).contiguous()
            if not is_finite(tensors[name]):
                got = tensors[name].dtype
                raise NumericsError("a merged weight is NaN or infinite", where=name, got=got)
        yield path, tensors


def _part(merge: Merge, part: str) -> dict[str, Tensor]:
    files = weight_files(merge.folder, part, half=False)
    return {k: _cast(v, merge.dtype) for path in files for k, v in load_file(path).items()}


def _write_part(merge: Merge, folder: Path, out: Path) -> None:
    """Copy a part, its half-precision files under plain names where it has no others."""
    _copy_texts(folder, out)
    if folder.name in WITH_WEIGHTS:
        files = component_files(folder, half=False)
    else:
        files = sorted(folder.glob("*.safetensors"))
    for path in files:
        if merge.dtype is None:
            _copy(path, out / _plain(path.name))
            continue
        tensors = {name: _cast(value, merge.dtype) for name, value in load_file(path).items()}
        save_tensors(out / _plain(path.name), tensors, {"format": "pt"})


def _copy_texts(folder: Path, out: Path) -> None:
    """Configs, tokenizers and indices of shards, where they are not of a half-precision copy beside."""
    out.mkdir(parents=True, exist_ok=True)
    texts = [path for path in sorted(folder.iterdir()) if path.suffix in _TEXTS and path.is_file()]
    plain = {path.name for path in texts if ".fp16" not in path.name}
    for path in texts:
        if ".fp16" not in path.name:
            _copy(path, out / path.name)
        elif _plain(path.name) not in plain:
            (out / _plain(path.name)).write_text(_plain(read_text(path, ModelError)), "utf-8")


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)  # without the original's permissions, which may forbid changes


def _plain(name: str) -> str:
    return name.replace(".fp16", "")


def _cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return value if dtype is None or not value.is_floating_point() else value.to(dtype)


def _shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    return {name: shape for path in files for name, shape in read_shapes(path).items()}
