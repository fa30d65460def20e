"""From a model's name to diffusers' pipeline: find the files, check them, pick device and dtype, build it.

What can be told of the files is told before any weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stdcli.config.recipe import Recipe
from stdcli.errors import HubError, ModelError, ResourceError
from stdcli.models.diffusers_api import FAULTS, class_named, first_line, load_part
from stdcli.models.families.family import Family
from stdcli.models.families.registry import FAMILIES, family_of
from stdcli.models.folder import (
    OWN_CLASSES,
    WITH_WEIGHTS,
    ModelFolder,
    component_files,
    read_folder,
    read_recipe,
    stored_recipe,
    weight_files,
)
from stdcli.models.locate import EMBEDDED, LocatedFiles, locate_model
from stdcli.models.single_file import base_needed, family_name, open_checkpoint, parts_of
from stdcli.models.spec import ModelSpec
from stdcli.models.style import AdapterFiles, find_adapter, folder_adapter
from stdcli.models.weights import count_values
from stdcli.runtime.devices import DeviceChoice, choose
from stdcli.runtime.free_memory import measure_room
from stdcli.runtime.memory_need import Need


@dataclass(frozen=True)
class FoundModel:
    """A model whose weights are not read yet.

    Attributes:
        source: where it is.
        folder: its table of contents; of a single file, that of its base.
        family: what it is.
        choice: device and dtype.
        half: whether half-precision files are taken where there are both.
        adapter: its style adapter, if it has one.
        wants_styles: whether there will be style pictures.
        notes: what the user should know.
    """

    source: LocatedFiles
    folder: ModelFolder
    family: Family
    choice: DeviceChoice
    half: bool
    adapter: AdapterFiles | None
    wants_styles: bool
    notes: list[str]

    @property
    def installs_style(self) -> bool:
        """Whether a style adapter is installed at once."""
        return self.adapter is not None and (self.wants_styles or self.family.needs_style)


@dataclass
class Opened:
    """A pipeline and where its parts came from.

    Attributes:
        pipe: diffusers' pipeline.
        family: what it is.
        weight_files: of each component, loaded or not.
        recipe: the model's own, else its family's.
        need: what it takes of memory.
    """

    pipe: Any
    family: Family
    weight_files: dict[str, list[Path]]
    recipe: Recipe
    need: Need


def find_model(
    spec: ModelSpec, *, styles: bool, half: bool | None = None, weights: bool = True
) -> FoundModel:
    """All that is known of a model before its weights are read; arguments and errors as `load_denoiser`.

    Without `weights` none are fetched from the Hub, only configs and tokenizers.
    """
    name, offline = spec.name, spec.offline
    choice = choose(spec.device, spec.dtype)
    is_half = choice.dtype != torch.float32 if half is None else half
    source = locate_model(name, offline=offline, half=is_half, weights=weights or offline)
    if name == EMBEDDED and not source.path.is_dir():
        hint = "pip install --force-reinstall stdcli"
        raise ModelError("the embedded model is not in this installation", where=source.path, hint=hint)
    notes: list[str] = []
    if source.path.is_file():
        folder, family = _base_of(source, spec.base, offline=offline)
    else:
        folder = read_folder(source.path)
        family = family_of(folder)
        choice = choose(spec.device, spec.dtype, float16_ok=family.float16_ok)
        is_half = choice.dtype != torch.float32 if half is None else half
        if spec.base is not None:
            notes.append(f"--base {spec.base} is not used: {name} has configs of its own")
    adapter = folder_adapter(folder) or family.adapter
    if styles and (weights or offline):
        adapter = find_adapter(adapter, offline=offline)
    elif styles:
        adapter = _adapter_here(adapter, notes)
    return FoundModel(source, folder, family, choice, is_half, adapter, styles, notes)


def _adapter_here(adapter: AdapterFiles | None, notes: list[str]) -> AdapterFiles:
    """The adapter with local paths if it is here, else as it is, and noted."""
    try:
        return find_adapter(adapter, offline=True)
    except HubError:
        notes.append(f"not here yet, a run fetches it: the style adapter {adapter.weights} of {adapter.repo}")
        return adapter


def open_model(found: FoundModel, *, only: frozenset[str] | None = None) -> Opened:
    """Build the pipeline of a model, or some parts of it.

    Args:
        found: of `find_model`.
        only: the parts to load; None is all.

    Raises:
        ModelError: damaged, incomplete, or files that do not fit together.
        ResourceError: it surely does not fit into main memory.
    """
    if not found.source.path.is_file():
        return _open_folder(found, only=only)
    need = check_room(found, count_parts(found), only=only)
    opened = _open_file(found, need)
    if only is not None:
        opened.pipe.register_modules(**dict.fromkeys(opened.pipe.components.keys() - only))
    return opened


def _open_folder(found: FoundModel, *, only: frozenset[str] | None = None) -> Opened:
    folder, family, choice, half = found.folder, found.family, found.choice, found.half
    files = {
        part: weight_files(folder, part, half=half)
        for part in WITH_WEIGHTS
        if part in folder.components and (folder.path / part).is_dir()
    }
    need = check_room(found, {part: count_values(paths) for part, paths in files.items()}, only=only)
    fp16 = {part for part, paths in files.items() if ".fp16" in paths[0].name}
    variant = "fp16" if fp16 and (half or fp16 == files.keys()) else None
    left_out = {} if only is None else dict.fromkeys(folder.components.keys() - only)
    try:
        loaded = {p: _load_part(folder, p, files[p]) for p in fp16 - left_out.keys() if not variant}
        pipe = family.pipeline.from_pretrained(
            str(folder.path),
            dtype={"default": choice.dtype, "vae": torch.float32},
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            **{**found.family.left_out, **left_out, **loaded},
        )
    except FAULTS as e:
        raise ModelError(
            "this model's files do not fit together", where=folder.path, got=first_line(e)
        ) from e
    _check_complete(pipe, files)
    return Opened(pipe, family, files, recipe_of(found), need)


def check_room(found: FoundModel, parts: Mapping[str, int], *, only: frozenset[str] | None = None) -> Need:
    """Refuse, or warn in the notes, before parts of so many values are read; see `Need.check`.

    Args:
        found: the model.
        parts: part -> number of values.
        only: the parts that are loaded; None is all, and the style adapter where it is installed.

    Raises:
        ResourceError: the weights surely do not fit.
    """
    read = {part: count for part, count in parts.items() if only is None or part in only}
    if found.installs_style and only is None and found.adapter.repo is None:
        folders = [found.adapter.encoder and Path(found.adapter.encoder)]
        encoder = [path for folder in folders if folder for path in component_files(folder, half=found.half)]
        read["style"] = count_values([Path(found.adapter.weights), *encoder])
    need = Need(found.source.name, read, found.choice)
    device = found.choice.device
    gpu_bytes = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    warning = need.check(measure_room(), gpu_bytes=gpu_bytes)
    if warning is not None:
        found.notes.append(warning)
    return need


def count_parts(found: FoundModel) -> dict[str, int]:
    """Number of values of a checkpoint's parts, and of those that its base folder gives."""
    counts = parts_of(found.source.path)
    lacking = [part for part in WITH_WEIGHTS if part in found.family.components and part not in counts]
    for part in lacking:
        with suppress(ModelError):  # said better by who opens it
            counts[part] = count_values(weight_files(found.folder, part, half=found.half))
    return counts


def count_denoiser(found: FoundModel) -> int:
    """Number of values of a model's denoiser, from headers alone."""
    if found.source.path.is_file():
        return count_parts(found)[found.family.part]
    return count_values(weight_files(found.folder, found.family.part, half=found.half))


def _load_part(folder: ModelFolder, part: str, files: Sequence[Path]) -> torch.nn.Module:
    """A part with fp16 files only, in float32: upstream would take such files for all other parts too."""
    name = folder.components[part]
    kind = OWN_CLASSES.get(name) or class_named(name)
    return load_part(kind, folder.path / part, files=files, dtype=torch.float32)


def _base_of(source: LocatedFiles, base: str | None, *, offline: bool) -> tuple[ModelFolder, Family]:
    """The base folder of a single-file checkpoint, and the family of both."""
    family = FAMILIES[family_name(source.path)]
    if base is None:
        raise base_needed(source.path, family)
    folder = read_folder(locate_model(base, offline=offline, weights=False).path)
    if family_of(folder) is not family:
        raise ModelError(
            "checkpoint and base folder are of different families",
            where=source.path,
            got=f"{family.name} with a base of class {folder.class_name}",
            expected=f"--base with an {family.name} folder",
        )
    return folder, family


def _open_file(found: FoundModel, need: Need) -> Opened:
    path, pipeline = found.source.path, found.family.pipeline
    pipe, files = open_checkpoint(path, found.folder, pipeline=pipeline, dtype=found.choice.dtype)
    return Opened(pipe, found.family, files, recipe_of(found), need)


def recipe_of(found: FoundModel) -> Recipe:
    """The model's own recipe, else its family's. Raises ModelError: it is not valid."""
    path = found.source.path
    stored = stored_recipe(path) if path.is_file() else read_recipe(found.folder.path)
    return stored or found.family.recipe


def _check_complete(pipe: Any, files: dict[str, list[Path]]) -> None:
    """Upstream only logs when a file lacks tensors, and leaves random numbers in their place."""
    for part, paths in files.items():
        if getattr(pipe, part, None) is None:
            continue
        parameters = dict(getattr(pipe, part).named_parameters())
        needs, has = sum(p.numel() for p in parameters.values()), count_values(paths)
        empty = [name for name, p in parameters.items() if p.is_meta]
        if empty:
            raise ModelError("this weights file lacks tensors", where=paths[0], expected=", ".join(empty[:3]))
        if has < needs:
            raise ModelError(
                "this weights file lacks tensors", where=paths[0], got=f"{has} values", expected=needs
            )


def move(pipe: Any, device: torch.device) -> None:
    """Put a pipeline on its device, ready to infer. Raises ResourceError: not enough memory there."""
    try:
        pipe.to(device)
    except torch.OutOfMemoryError as e:
        raise ResourceError(
            "not enough memory for this model", where=device, hint="--dtype float16, or --device cpu"
        ) from e
    for part in WITH_WEIGHTS:
        module = getattr(pipe, part, None)
        if module is not None:
            module.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # faster convolutions
