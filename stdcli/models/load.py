"""Load a model by name into a `Bundle`.

The order is fixed: find the files, check them, pick device and dtype, build diffusers' pipeline, fuse
LoRAs, prepare the style adapter. The pipeline's own sampling loop is never used. Knows no levels and no
sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stdcli.config.recipe import Recipe
from stdcli.diffusion.predictions import PredictionType
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.errors import ModelError, ResourceError
from stdcli.models.bundle import Bundle, Network
from stdcli.models.codec import Codec, codec_dtype
from stdcli.models.denoiser import Denoiser
from stdcli.models.families import embedded, sd15, sdxl
from stdcli.models.families.family import Family
from stdcli.models.folder import (
    WITH_WEIGHTS,
    ModelFolder,
    check_folder,
    read_folder,
    read_recipe,
    stored_recipe,
    weight_files,
)
from stdcli.models.inpainting import check_masked, sees_mask
from stdcli.models.locate import EMBEDDED, Source, locate_model
from stdcli.models.lora import AppliedLora, apply_lora, check_lora
from stdcli.models.patch_autoencoder import PatchAutoencoder
from stdcli.models.single_file import base_needed, family_name, open_checkpoint
from stdcli.models.student_files import StudentFiles, apply_student, find_student
from stdcli.models.style import AdapterFiles, StyleAdapter, find_adapter, own_adapter
from stdcli.models.upstream import FAULTS, class_named, first_line, load_part
from stdcli.models.weights import count_values
from stdcli.runtime.devices import DeviceChoice, choose

DENOISER = frozenset({"unet", "scheduler"})
"""Parts of a pipeline that say what a denoiser's output is."""
CODEC = frozenset({"vae"})
FAMILIES = {family.name: family for family in (embedded.FAMILY, sd15.FAMILY, sdxl.FAMILY)}


@dataclass(frozen=True)
class _Found:
    """A model whose weights are not read yet."""

    source: Source
    folder: ModelFolder
    family: Family
    choice: DeviceChoice
    half: bool
    adapter: AdapterFiles | None
    notes: list[str]


@dataclass
class _Opened:
    """A pipeline and where its parts came from."""

    pipe: Any
    family: Family
    weight_files: dict[str, list[Path]]
    recipe: Recipe


def load_model(
    name: str,
    *,
    base: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
    student: str | None = None,
    loras: Sequence[str] = (),
    style_scale: float | None = None,
    styles: bool = False,
    masked: bool = False,
) -> Bundle:
    """Load a model.

    Args:
        name: `embedded`, a local diffusers folder, a `.safetensors` checkpoint, or `OWNER/NAME[@REVISION]`.
        base: folder (or Hub id) with configs and tokenizers for a single-file checkpoint.
        device: "auto", "cpu", "mps", "cuda" or "cuda:N".
        dtype: "auto", "float32", "float16" or "bfloat16".
        offline: never reach the network, for Hub ids or the style adapter of a model without its own.
        student: one distilled from this model, see `find_student`; its recipe is taken before any other.
        loras: `path[:scale]` or Hub ids, fused in this order; the last recipe beside one is taken.
        style_scale: strength of the style picture; None is 1.
        styles: whether there will be style pictures: their adapter is then found before weights are read, and
            installed, so that `identity` names it from the start.
        masked: whether masks will be given, without which an inpainting network is refused.

    Raises:
        ModelError: not found, damaged, unsafe, incomplete, unknown, a student or LoRA that does not fit, a
            network that needs masks, or no style adapter for `styles`.
        HubError: the Hub refuses or cannot be reached, or offline and not in its cache.
        ResourceError: no such device, or not enough memory on it.
    """
    for text in loras:
        check_lora(text, offline=offline)
    distilled = None if student is None else find_student(student, offline=offline)
    found = _find(name, base=base, device=device, dtype=dtype, offline=offline, styles=styles)
    opened = _open(found)
    pipe, family = opened.pipe, opened.family
    check_masked(pipe.unet.config, name, masked=masked)
    _move(pipe, found.choice.device)
    if distilled is not None:
        apply_student(pipe, distilled, family=family.name)
    applied = [apply_lora(pipe, text, family=family.name, offline=offline) for text in loras]
    scale = family.style_scale(1.0 if style_scale is None else style_scale)
    style = StyleAdapter(pipe, files=found.adapter, scale=scale, offline=offline)
    if styles or family is embedded.FAMILY:  # the embedded network was trained with it
        style.load()
    return _bundle(found, opened, style=style, applied=applied, student=distilled)


def load_denoiser(
    name: str,
    *,
    base: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
    style_scale: float | None = None,
    styles: bool = False,
    half: bool | None = None,
) -> Network:
    """Load what training needs of a model and nothing more: no autoencoder, no text or image encoder.

    Its `identity` is that of the whole model, so that it can be compared with what a bank was built from.
    Adapters are trained on a base in any dtype; full weights need `dtype="float32"`.

    Args:
        name: as in `load_model`, like those not named here.
        styles: install the projections of the style adapter; the embedded kind has them always.
        half: whether to take the half-precision files of a folder that has both kinds; None goes by `dtype`.

    Raises:
        ModelError, HubError, ResourceError: as `load_model`.
    """
    found = _find(name, base=base, device=device, dtype=dtype, offline=offline, styles=styles, half=half)
    opened = _open(found, only=DENOISER)
    pipe, family = opened.pipe, opened.family
    check_masked(pipe.unet.config, name, masked=False)
    _move(pipe, found.choice.device)
    encoder = found.folder.path / "image_encoder" if "image_encoder" in opened.weight_files else None
    scale = family.style_scale(1.0 if style_scale is None else style_scale)
    style = StyleAdapter(pipe, files=found.adapter, scale=scale, offline=offline, own_encoder=encoder)
    if styles or family is embedded.FAMILY:
        style.load(encoder=False)
    facts = _facts(found, opened)
    return Network(**facts | {"weight_files": {**opened.weight_files, **style.weight_files}})


def load_codec(
    name: str, *, base: str | None = None, device: str = "auto", dtype: str = "auto", offline: bool = False
) -> Codec:
    """Load a model's codec and nothing else of it; arguments and errors as `load_model`."""
    found = _find(name, base=base, device=device, dtype=dtype, offline=offline, styles=False)
    pipe = _open(found, only=CODEC).pipe
    _move(pipe, found.choice.device)
    return _codec(pipe, found.choice, found.notes)


def _codec(pipe: Any, choice: DeviceChoice, notes: list[str]) -> Codec:
    num_parameters = sum(p.numel() for p in pipe.vae.parameters())
    pipe.vae.to(codec_dtype(choice.dtype, num_parameters=num_parameters))
    return Codec(pipe.vae, factor=pipe.vae_scale_factor, notes=notes)


def _find(
    name: str,
    *,
    base: str | None,
    device: str,
    dtype: str,
    offline: bool,
    styles: bool,
    half: bool | None = None,
) -> _Found:
    """All that is known of a model before its weights are read; `half` of None goes by the dtype."""
    choice = choose(device, dtype)
    is_half = choice.dtype != torch.float32 if half is None else half
    source = locate_model(name, offline=offline, half=is_half)
    if name == EMBEDDED and not source.path.is_dir():
        hint = "pip install --force-reinstall stdcli"
        raise ModelError("the embedded model is not in this installation", where=source.path, hint=hint)
    notes: list[str] = []
    if source.path.is_file():
        folder, family = _base_of(source, base, offline=offline)
    else:
        folder = read_folder(source.path)
        family = family_of(folder)
        choice = choose(device, dtype, float16_ok=family.float16_ok)
        is_half = choice.dtype != torch.float32 if half is None else half
        if base is not None:
            notes.append(f"--base {base} is not used: {name} has configs of its own")
    adapter = own_adapter(folder) or family.adapter
    if styles:
        adapter = find_adapter(adapter, offline=offline)
    return _Found(source, folder, family, choice, is_half, adapter, notes)


def _open(found: _Found, *, only: frozenset[str] | None = None) -> _Opened:
    if not found.source.path.is_file():
        return _open_folder(found, only=only)
    opened = _open_file(found.source, found.folder, found.family, found.choice)
    if only is not None:
        opened.pipe.register_modules(**dict.fromkeys(opened.pipe.components.keys() - only))
    return opened


def family_of(folder: ModelFolder) -> Family:
    """The family of a diffusers folder that can be loaded; raises ModelError for any other."""
    textless = not {"text_encoder", "text_encoder_2"} & folder.components.keys()
    for family in FAMILIES.values():
        if folder.class_name in family.class_names and textless == (family is embedded.FAMILY):
            check_folder(folder, needed=family.components)
            return family
    known = ", ".join(sorted(set().union(*(f.class_names for f in FAMILIES.values()))))
    got, expected = folder.class_name, f"one of {known}"
    raise ModelError("unknown kind of model", where=folder.path, got=got, expected=expected)


def _open_folder(found: _Found, *, only: frozenset[str] | None = None) -> _Opened:
    folder, family, choice, half = found.folder, found.family, found.choice, found.half
    files = {
        part: weight_files(folder, part, half=half)
        for part in WITH_WEIGHTS
        if part in folder.components and (folder.path / part).is_dir()
    }
    fp16 = {part for part, paths in files.items() if ".fp16" in paths[0].name}
    variant = "fp16" if fp16 and (half or fp16 == files.keys()) else None
    skipped = {"feature_extractor": None}  # the style adapter brings one that does not depend on torchvision
    if family is sd15.FAMILY:
        skipped |= {"safety_checker": None, "requires_safety_checker": False}
    left_out = {} if only is None else dict.fromkeys(folder.components.keys() - only)
    try:
        apart = {p: _load_part(folder, p, files[p]) for p in fp16 - left_out.keys() if not variant}
        pipe = family.pipeline.from_pretrained(
            str(folder.path),
            dtype={"default": choice.dtype, "vae": torch.float32},
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            **skipped | left_out | apart,
        )
    except FAULTS as e:
        raise ModelError(
            "this model's files do not fit together", where=folder.path, got=first_line(e)
        ) from e
    _check_complete(pipe, files)
    return _Opened(pipe, family, files, read_recipe(folder.path) or family.recipe)


def _load_part(folder: ModelFolder, part: str, files: Sequence[Path]) -> torch.nn.Module:
    """A part with fp16 files only, in float32: upstream would take such files for all other parts too."""
    name = folder.components[part]
    kind = PatchAutoencoder if name == PatchAutoencoder.__name__ else class_named(name)
    return load_part(kind, folder.path / part, files=files, dtype=torch.float32)


def _base_of(source: Source, base: str | None, *, offline: bool) -> tuple[ModelFolder, Family]:
    """The base folder of a single-file checkpoint, and the family of both."""
    family = FAMILIES[family_name(source.path)]
    if base is None:
        raise base_needed(source.path, family.name)
    folder = read_folder(locate_model(base, offline=offline, weights=False).path)
    if family_of(folder) is not family:
        raise ModelError(
            "checkpoint and base folder are of different families",
            where=source.path,
            got=f"{family.name} with a base of class {folder.class_name}",
            expected=f"--base with an {family.name} folder",
        )
    return folder, family


def _open_file(source: Source, folder: ModelFolder, family: Family, choice: DeviceChoice) -> _Opened:
    pipe, files = open_checkpoint(source.path, folder, pipeline=family.pipeline, dtype=choice.dtype)
    return _Opened(pipe, family, files, stored_recipe(source.path) or family.recipe)


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


def _move(pipe: Any, device: torch.device) -> None:
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


def multiple_of(unet: Any, *, factor: int) -> int:
    """Pixels that picture sides must be multiples of, so that every level of the UNet halves evenly.

    Args:
        unet: diffusers' UNet2DConditionModel.
        factor: pixels of a latent cell's side.
    """
    return factor * 2 ** (len(unet.config.block_out_channels) - 1)


def _facts(found: _Found, opened: _Opened) -> dict[str, Any]:
    """The fields of `Network`."""
    pipe, choice = opened.pipe, found.choice
    scheduler = dict(pipe.scheduler.config)
    try:
        schedule = NoiseSchedule.from_config(scheduler)
        prediction = PredictionType(scheduler.get("prediction_type", "epsilon"))
    except (ValueError, KeyError) as e:
        what = "this model's noise schedule is not supported"
        raise ModelError(what, where=found.source.path, got=str(e)) from e
    return {
        "name": found.source.name,
        "family": opened.family.name,
        "denoiser": Denoiser(pipe.unet),
        "schedule": schedule,
        "prediction": prediction,
        "recipe": opened.recipe,
        "device": choice.device,
        "dtype": choice.dtype,
        "dtype_reason": choice.reason,
        "notes": found.notes,
        "revision": found.source.revision,
        "weight_files": opened.weight_files,
    }


def _bundle(
    found: _Found,
    opened: _Opened,
    *,
    style: StyleAdapter,
    applied: Sequence[AppliedLora],
    student: StudentFiles | None,
) -> Bundle:
    facts = _facts(found, opened)
    pipe, notes = opened.pipe, found.notes
    if student is not None:
        facts["student"] = (student.name, student.weights)
        facts["denoiser"] = Denoiser(pipe.unet, sees_target=student.sees_target)
        if student.recipe is None:
            notes.append(f"the student {student.name} brings no recipe: sampled as the model itself would be")
    facts["recipe"] = _recipe_of(opened.recipe, student, applied, notes=notes)
    return Bundle(
        **facts,
        codec=_codec(pipe, found.choice, notes),
        text=opened.family.make_text(pipe),
        style=style,
        multiple_px=multiple_of(pipe.unet, factor=pipe.vae_scale_factor),
        needs_style=opened.family is embedded.FAMILY,
        sees_mask=sees_mask(pipe.unet.config),
        loras=[(lora.name, lora.scale, lora.path) for lora in applied],
    )


def _recipe_of(
    own: Recipe, student: StudentFiles | None, applied: Sequence[AppliedLora], *, notes: list[str]
) -> Recipe:
    """The student's recipe; else that of the last LoRA with one; else the model's own."""
    if student is not None and student.recipe is not None:
        return student.recipe
    recipe = own
    for lora in applied:
        beside = read_recipe(lora.path.parent)
        if beside is not None:
            recipe = beside
            notes.append(f"sampling as the recipe beside {lora.name} says")
    return recipe
