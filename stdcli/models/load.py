"""Load a model by name into a `Bundle`.

The order is fixed: find the files, check them, pick device and dtype, build diffusers' pipeline, fuse
LoRAs, prepare the style adapter. The pipeline's own sampling loop is never used. Knows no levels and no
sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from stdcli.config.recipe import Recipe
from stdcli.errors import ModelError
from stdcli.models.bundle import Bundle, Network
from stdcli.models.codec import Codec, codec_dtype
from stdcli.models.denoiser import Denoiser
from stdcli.models.folder import read_recipe
from stdcli.models.formulation import check_scheduler
from stdcli.models.lora.fusing import AppliedLora, apply_lora, check_lora
from stdcli.models.outline import StyleOutline, outline_model
from stdcli.models.pipeline import FoundModel, Opened, count_denoiser, find_model, move, open_model
from stdcli.models.spec import ModelSpec
from stdcli.models.student_files import StudentFiles, apply_student, find_student
from stdcli.models.style import StyleAdapter

CODEC = frozenset({"vae"})


def load_model(
    spec: ModelSpec,
    *,
    style_scale: float | None = None,
    styles: bool = False,
    masked: bool = False,
    weights: bool = True,
    tell: Callable[[str], None] = lambda stage: None,
) -> Bundle:
    """Load a model.

    Args:
        spec: which one.
        style_scale: strength of the style picture; None is 1.
        styles: whether there will be style pictures: their adapter is then found before weights are read, and
            installed, so that `identity` names it from the start.
        masked: whether masks will be given, without which an inpainting network is refused.
        weights: False reads configs and headers only: what comes back knows all that is said of the model,
            checked against its files, and computes nothing.
        tell: told what is being done, stage by stage.

    Raises:
        ModelError: not found, damaged, unsafe, incomplete, unknown, a student or LoRA that does not fit, a
            network that needs masks, or no style adapter for `styles`.
        HubError: the Hub refuses or cannot be reached, or offline and not in its cache.
        ResourceError: no such device, or not enough memory on it.
    """
    name, offline = spec.name, spec.offline
    for text in spec.loras:
        check_lora(text, offline=offline)
    student = None if spec.student is None else find_student(spec.student, offline=offline)
    found = find_model(spec, styles=styles, weights=weights)
    opened = open_model(found) if weights else outline_model(found)
    pipe, family = opened.pipe, opened.family
    denoiser = _denoiser(found, opened, student, masked=masked)
    if weights:
        move(pipe, found.choice.device)
    if student is not None or spec.loras:
        tell(f"fusing adapters into {name}")
    doubts = [] if student is None else [*apply_student(pipe, student, denoiser, family=family.name)]
    applied = [apply_lora(pipe, text, family=family.name, offline=offline) for text in spec.loras]
    scale = family.style_scale(1.0 if style_scale is None else style_scale)
    kind = StyleAdapter if weights else StyleOutline
    style = kind(pipe, files=found.adapter, scale=scale, offline=offline)
    if styles or family.needs_style:  # such a network was trained with it
        tell(f"installing the style adapter of {name}")
        style.load()
    if student is not None and student.recipe is None:
        found.notes.append(
            f"the student {student.name} brings no recipe: sampled as the model itself would be"
        )
    network = _network(found, opened, denoiser, style)
    network.recipe = _recipe_of(opened.recipe, student, applied, notes=found.notes)
    network.loras = [(lora.name, lora.scale, lora.files) for lora in applied]
    network.student = None if student is None else (student.name, student.weights)
    network.is_outline = not weights
    codec = _codec(found, pipe)
    bundle = Bundle(network=network, codec=codec, text=family.make_text(pipe))
    network.notes.extend([*doubts, *(note for lora in applied for note in lora.notes)])
    return bundle


def load_denoiser(
    spec: ModelSpec,
    *,
    style_scale: float | None = None,
    styles: bool = False,
    half: bool | None = None,
    before: Callable[[int, torch.device], object] = lambda values, device: None,
) -> Network:
    """Load what training needs of a model and nothing more: no autoencoder, no text or image encoder.

    Its `identity` is that of the whole model, so that it can be compared with what a bank was built from.
    Adapters are trained on a base in any dtype; full weights need `dtype="float32"`.

    Args:
        spec: which model; its student and LoRAs are left out.
        style_scale: as in `load_model`.
        styles: install the projections of the style adapter; the embedded kind has them always.
        half: whether to take the half-precision files of a folder that has both kinds; None goes by `dtype`.
        before: called before weights are read, with how many values the denoiser has and its device to be;
            raises to stop.

    Raises:
        ModelError, HubError, ResourceError: as `load_model`.
    """
    found = find_model(spec, styles=styles, half=half)
    before(count_denoiser(found), found.choice.device)
    opened = open_model(found, only=frozenset({found.family.part, "scheduler"}))
    pipe, family = opened.pipe, opened.family
    denoiser = _denoiser(found, opened, None, masked=False)
    move(pipe, found.choice.device)
    encoder = found.folder.path / "image_encoder" if "image_encoder" in opened.weight_files else None
    scale = family.style_scale(1.0 if style_scale is None else style_scale)
    style = StyleAdapter(pipe, files=found.adapter, scale=scale, offline=spec.offline, own_encoder=encoder)
    if styles or family.needs_style:
        style.load(encoder=False)
    return _network(found, opened, denoiser, style)


def load_codec(spec: ModelSpec) -> Codec:
    """Load a model's codec and nothing else of it; errors as `load_model`."""
    found = find_model(spec, styles=False)
    pipe = open_model(found, only=CODEC).pipe
    move(pipe, found.choice.device)
    return _codec(found, pipe)


def _codec(found: FoundModel, pipe: Any) -> Codec:
    num_parameters = sum(p.numel() for p in pipe.vae.parameters())
    pipe.vae.to(codec_dtype(found.choice.dtype, num_parameters=num_parameters))
    return found.family.make_codec(pipe.vae, factor=pipe.vae_scale_factor, notes=found.notes)


def _denoiser(found: FoundModel, opened: Opened, student: StudentFiles | None, *, masked: bool) -> Denoiser:
    """Around the network of a pipeline; refused without masks where it needs them."""
    make, has_target_time = opened.family.make_denoiser, student is not None and student.has_target_time
    denoiser = make(getattr(opened.pipe, make.part), has_target_time=has_target_time)
    if denoiser.sees_mask and not masked:
        hint = "stdcli inpaint IN --mask MASK"
        what = "this model repaints parts of pictures and needs a mask"
        raise ModelError(what, where=found.source.name, hint=hint)
    return denoiser


def _network(found: FoundModel, opened: Opened, denoiser: Denoiser, style: StyleAdapter) -> Network:
    choice, scheduler = found.choice, opened.pipe.scheduler
    config = {"_class_name": type(scheduler).__name__, **scheduler.config}
    check_scheduler(config, found.source.path)
    try:
        schedule, prediction = opened.family.schedule_of(config)
    except (ValueError, KeyError) as e:
        what = "this model's noise schedule is not supported"
        raise ModelError(what, where=found.source.path, got=str(e)) from e
    return Network(
        name=found.source.name,
        family=opened.family,
        denoiser=denoiser,
        style=style,
        schedule=schedule,
        prediction=prediction,
        recipe=opened.recipe,
        device=choice.device,
        dtype=choice.dtype,
        dtype_reason=choice.reason,
        notes=found.notes,
        revision=found.source.revision,
        weight_files=opened.weight_files,
        need=opened.need,
    )


def _recipe_of(
    stored: Recipe, student: StudentFiles | None, applied: Sequence[AppliedLora], *, notes: list[str]
) -> Recipe:
    """The student's recipe; else that of the last LoRA with one; else the model's own."""
    if student is not None and student.recipe is not None:
        return student.recipe
    recipe = stored
    for lora in applied:
        beside = read_recipe(lora.files[0].parent)
        if beside is not None:
            recipe = beside
            notes.append(f"sampling as the recipe beside {lora.name} says")
    return recipe
