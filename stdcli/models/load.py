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
from stdcli.diffusion.predictions import prediction_of
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.errors import ModelError
from stdcli.models.bundle import Bundle, Network
from stdcli.models.codec import Codec, codec_dtype
from stdcli.models.families import embedded
from stdcli.models.folder import read_recipe
from stdcli.models.formulation import check_scheduler
from stdcli.models.inpainting import check_masked, sees_mask
from stdcli.models.lora.fusing import AppliedLora, apply_lora, check_lora
from stdcli.models.outline import StyleOutline, outline_model
from stdcli.models.painter_unet import check_unseeing, sees_photo
from stdcli.models.pipeline import FoundModel, Opened, count_denoiser, find_model, move, open_model
from stdcli.models.student_files import StudentFiles, apply_student, find_student
from stdcli.models.style import StyleAdapter
from stdcli.models.unet_denoiser import UNetDenoiser
from stdcli.runtime.devices import DeviceChoice

DENOISER = frozenset({"unet", "scheduler"})
"""Parts of a pipeline that say what a denoiser's output is."""
CODEC = frozenset({"vae"})


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
    weights: bool = True,
    tell: Callable[[str], None] = lambda stage: None,
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
        weights: False reads configs and headers only: what comes back knows all that is said of the model,
            checked against its files, and computes nothing.
        tell: told what is being done, stage by stage.

    Raises:
        ModelError: not found, damaged, unsafe, incomplete, unknown, a student or LoRA that does not fit, a
            network that needs masks, or no style adapter for `styles`.
        HubError: the Hub refuses or cannot be reached, or offline and not in its cache.
        ResourceError: no such device, or not enough memory on it.
    """
    for text in loras:
        check_lora(text, offline=offline)
    distilled = None if student is None else find_student(student, offline=offline)
    found = find_model(
        name, base=base, device=device, dtype=dtype, offline=offline, styles=styles, weights=weights
    )
    opened = open_model(found) if weights else outline_model(found)
    pipe, family = opened.pipe, opened.family
    check_masked(pipe.unet.config, name, masked=masked)
    if weights:
        move(pipe, found.choice.device)
    if distilled is not None or loras:
        tell(f"fusing adapters into {name}")
    doubts = [] if distilled is None else [*apply_student(pipe, distilled, family=family.name)]
    applied = [apply_lora(pipe, text, family=family.name, offline=offline) for text in loras]
    scale = family.style_scale(1.0 if style_scale is None else style_scale)
    kind = StyleAdapter if weights else StyleOutline
    style = kind(pipe, files=found.adapter, scale=scale, offline=offline)
    if styles or family is embedded.FAMILY:  # the embedded network was trained with it
        tell(f"installing the style adapter of {name}")
        style.load()
    bundle = _bundle(found, opened, style=style, applied=applied, student=distilled)
    bundle.notes.extend([*doubts, *(note for lora in applied for note in lora.notes)])
    return bundle


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
    before: Callable[[int, torch.device], object] = lambda values, device: None,
) -> Network:
    """Load what training needs of a model and nothing more: no autoencoder, no text or image encoder.

    Its `identity` is that of the whole model, so that it can be compared with what a bank was built from.
    Adapters are trained on a base in any dtype; full weights need `dtype="float32"`.

    Args:
        name: as in `load_model`, like those not named here.
        styles: install the projections of the style adapter; the embedded kind has them always.
        half: whether to take the half-precision files of a folder that has both kinds; None goes by `dtype`.
        before: called before weights are read, with how many values the denoiser has and its device to be;
            raises to stop.

    Raises:
        ModelError, HubError, ResourceError: as `load_model`.
    """
    found = find_model(name, base=base, device=device, dtype=dtype, offline=offline, styles=styles, half=half)
    before(count_denoiser(found), found.choice.device)
    opened = open_model(found, only=DENOISER)
    pipe, family = opened.pipe, opened.family
    check_masked(pipe.unet.config, name, masked=False)
    check_unseeing(pipe.unet, name)
    move(pipe, found.choice.device)
    encoder = found.folder.path / "image_encoder" if "image_encoder" in opened.weight_files else None
    scale = family.style_scale(1.0 if style_scale is None else style_scale)
    style = StyleAdapter(pipe, files=found.adapter, scale=scale, offline=offline, own_encoder=encoder)
    if styles or family is embedded.FAMILY:
        style.load(encoder=False)
    fields = _network_fields(found, opened)
    return Network(**fields | {"weight_files": {**opened.weight_files, **style.weight_files}})


def load_codec(
    name: str, *, base: str | None = None, device: str = "auto", dtype: str = "auto", offline: bool = False
) -> Codec:
    """Load a model's codec and nothing else of it; arguments and errors as `load_model`."""
    found = find_model(name, base=base, device=device, dtype=dtype, offline=offline, styles=False)
    pipe = open_model(found, only=CODEC).pipe
    move(pipe, found.choice.device)
    return _codec(pipe, found.choice, found.notes)


def _codec(pipe: Any, choice: DeviceChoice, notes: list[str]) -> Codec:
    num_parameters = sum(p.numel() for p in pipe.vae.parameters())
    pipe.vae.to(codec_dtype(choice.dtype, num_parameters=num_parameters))
    return Codec(pipe.vae, factor=pipe.vae_scale_factor, notes=notes)


def multiple_of(unet: Any, *, factor: int) -> int:
    """Pixels that picture sides must be multiples of, so that every level of the UNet halves evenly.

    Args:
        unet: diffusers' UNet2DConditionModel.
        factor: pixels of a latent cell's side.
    """
    return factor * 2 ** (len(unet.config.block_out_channels) - 1)


def _network_fields(found: FoundModel, opened: Opened) -> dict[str, Any]:
    """The fields of `Network`."""
    pipe, choice = opened.pipe, found.choice
    scheduler = {"_class_name": type(pipe.scheduler).__name__, **pipe.scheduler.config}
    check_scheduler(scheduler, found.source.path)
    try:
        schedule = NoiseSchedule.from_config(scheduler)
        prediction = prediction_of(scheduler)
    except (ValueError, KeyError) as e:
        what = "this model's noise schedule is not supported"
        raise ModelError(what, where=found.source.path, got=str(e)) from e
    return {
        "name": found.source.name,
        "family": opened.family.name,
        "denoiser": UNetDenoiser(pipe.unet),
        "schedule": schedule,
        "prediction": prediction,
        "recipe": opened.recipe,
        "device": choice.device,
        "dtype": choice.dtype,
        "dtype_reason": choice.reason,
        "notes": found.notes,
        "revision": found.source.revision,
        "weight_files": opened.weight_files,
        "need": opened.need,
    }


def _bundle(
    found: FoundModel,
    opened: Opened,
    *,
    style: StyleAdapter,
    applied: Sequence[AppliedLora],
    student: StudentFiles | None,
) -> Bundle:
    fields = _network_fields(found, opened) | {"is_outline": isinstance(style, StyleOutline)}
    pipe, notes = opened.pipe, found.notes
    if student is not None:
        fields["student"] = (student.name, student.weights)
        fields["denoiser"] = UNetDenoiser(pipe.unet, has_target_time=student.has_target_time)
        if student.recipe is None:
            notes.append(f"the student {student.name} brings no recipe: sampled as the model itself would be")
    fields["recipe"] = _recipe_of(opened.recipe, student, applied, notes=notes)
    return Bundle(
        **fields,
        codec=_codec(pipe, found.choice, notes),
        text=opened.family.make_text(pipe),
        style=style,
        multiple_px=multiple_of(pipe.unet, factor=pipe.vae_scale_factor),
        needs_style=opened.family is embedded.FAMILY,
        sees_mask=sees_mask(pipe.unet.config),
        sees_photo=sees_photo(pipe.unet),
        loras=[(lora.name, lora.scale, lora.files) for lora in applied],
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
