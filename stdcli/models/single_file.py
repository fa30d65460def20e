"""Open a single-file checkpoint (`.safetensors` in the original Stable Diffusion layout).

Such a file has weights but neither configs nor tokenizer: those come from a base folder in diffusers
format, whose own weights, if it has any, fill in parts that the file lacks. Nothing is ever fetched on the
file's behalf.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stdcli.config.pasting import pasted
from stdcli.errors import ModelError
from stdcli.models.diffusers_api import (
    FAULTS,
    AutoencoderKL,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    SingleFileComponentError,
    UNet2DConditionModel,
    first_line,
    load_part,
)
from stdcli.models.families.family import Family
from stdcli.models.folder import SD2_WIDTH, ModelFolder, weight_files
from stdcli.models.formulation import schedule_overrides
from stdcli.models.inpainting import sees_mask
from stdcli.models.weights import read_metadata, read_shapes

UNET = "model.diffusion_model."
UNET_MARK = "model.diffusion_model.input_blocks.0.0.weight"
OUT_MARK = "model.diffusion_model.out.2.weight"
SDXL_MARK = "model.diffusion_model.label_emb.0.0.weight"
CROSS_MARK = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
PARTS = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
CLASSES = {"vae": AutoencoderKL, "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


def family_name(path: Path) -> str:
    """The family of a checkpoint, by its tensor names.

    Raises:
        ModelError: damaged, not a full checkpoint, or of a family or formulation that is not supported.
    """
    shapes = read_shapes(path)
    if len(shapes.get(UNET_MARK, ())) != 4 or len(shapes.get(OUT_MARK, ())) != 4:
        lora = any("lora" in k for k in shapes)
        raise ModelError(
            "not a Stable Diffusion checkpoint",
            where=path,
            got=f"tensors such as {', '.join(sorted(shapes)[:2])}",
            expected=f"{UNET_MARK} and {OUT_MARK}, of four dimensions",
            hint=f"this is a LoRA: --lora {pasted(path)}" if lora else None,
        )
    channels = _channels(shapes)
    if channels["in_channels"] != channels["out_channels"] and not sees_mask(channels):
        raise ModelError(
            "this UNet takes more than a latent (an edit model)",
            where=path,
            got=f"{channels['in_channels']} input channels",
            expected=f"{channels['out_channels']}, or {2 * channels['out_channels'] + 1} for inpainting",
        )
    schedule_overrides(path, shapes, read_metadata(path))
    if SDXL_MARK in shapes:
        return "sdxl"
    if shapes.get(CROSS_MARK, ())[1:2] == (SD2_WIDTH,):
        raise ModelError("Stable Diffusion 2 is not a supported family", where=path, expected="sd15 or sdxl")
    return "sd15"


def base_needed(path: Path, family: Family) -> ModelError:
    """The error for a checkpoint without `--base`, with the command that gets one."""
    name, repo = family.name, family.names.repo
    fetch = f'hf download {repo} --include "*.json" --include "*.txt" --local-dir {name}-base'
    return ModelError(
        "a single-file checkpoint has no configs and no tokenizer",
        where=path,
        expected=f"--base FOLDER, a diffusers folder of the same family ({name})",
        hint=f"{fetch}, then --base {name}-base",
    )


def open_checkpoint(
    path: Path, base: ModelFolder, *, pipeline: Any, dtype: torch.dtype
) -> tuple[Any, dict[str, list[Path]]]:
    """Build a pipeline from a checkpoint and a base folder.

    Args:
        path: the checkpoint.
        base: folder with configs and tokenizers, and with the weights of parts that the checkpoint lacks.
        pipeline: diffusers pipeline class.
        dtype: of all weights but the autoencoder's, which stay in float32.

    Returns:
        The pipeline, and the files that each part's weights came from.

    Raises:
        ModelError: a part is in neither place, or the configs are for another network.
    """
    shapes = read_shapes(path)
    config = {"config": str(base.path), "local_files_only": True}
    absent = [part for part in PARTS if part in base.components and not _has(shapes, part)]
    try:
        files = {part: _base_files(path, base, part, dtype) for part in absent}
        parts = {
            part: load_part(
                CLASSES[part],
                base.path / part,
                files=files[part],
                dtype=torch.float32 if part == "vae" else dtype,
            )
            for part in absent
        }
        if "vae" not in parts:
            # upstream would cast it to `dtype`, and what float16 loses does not come back
            parts["vae"] = AutoencoderKL.from_single_file(
                str(path), subfolder="vae", torch_dtype=torch.float32, **config
            )
        parts["unet"] = UNet2DConditionModel.from_single_file(  # inpainting models have plain bases too
            str(path),
            subfolder="unet",
            torch_dtype=dtype,
            in_channels=_channels(shapes)["in_channels"],
            **config,
        )
        pipe = pipeline.from_single_file(
            str(path), torch_dtype=dtype, feature_extractor=None, image_encoder=None, **config, **parts
        )
    except (*FAULTS, SingleFileComponentError) as e:
        raise misfit(path, base, first_line(e)) from e
    for part in ("unet", *PARTS):
        module = getattr(pipe, part, None)
        if module is not None and any(p.is_meta for p in module.parameters()):
            raise misfit(path, base, f"the checkpoint does not fill {part}")
    apply_overrides(pipe, path)
    present = [part for part in ("unet", *PARTS) if getattr(pipe, part, None) is not None]
    return pipe, {part: files.get(part, [path]) for part in present}


def parts_of(path: Path) -> dict[str, int]:
    """Number of values of each part that a checkpoint holds.

    Raises:
        ModelError: damaged.
    """
    prefixes = {"unet": (UNET,), **PARTS}
    shapes = read_shapes(path).items()
    counts = {
        part: sum(math.prod(shape) for key, shape in shapes if key.startswith(starts))
        for part, starts in prefixes.items()
    }
    return {part: count for part, count in counts.items() if count}


def unet_config(path: Path, base: ModelFolder) -> dict[str, Any]:
    """The config of a checkpoint's UNet: the base's, with the channels that the file has.

    Raises:
        ModelError: damaged, or the base has no config.
    """
    return {**base.config("unet"), "in_channels": _channels(read_shapes(path))["in_channels"]}


def _channels(shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """As in a UNet's config."""
    return {"in_channels": shapes[UNET_MARK][1], "out_channels": shapes[OUT_MARK][0]}


def _has(shapes: Mapping[str, Sequence[int]], part: str) -> bool:
    return any(key.startswith(PARTS[part]) for key in shapes)


def _base_files(path: Path, base: ModelFolder, part: str, dtype: torch.dtype) -> list[Path]:
    try:
        return weight_files(base, part, half=dtype != torch.float32)
    except ModelError as e:
        hint = f"--base with a complete {base.path.name}, weights included"
        raise ModelError(
            f"no {part} in this checkpoint, nor in its base folder", where=path, hint=hint
        ) from e


def misfit(path: Path, base: ModelFolder, cause: str) -> ModelError:
    """The error for a checkpoint and a base folder of different networks."""
    return ModelError(
        "this checkpoint and this base folder do not make a model",
        where=path,
        got=cause,
        expected=f"a base folder of the same family, not {base.path}",
    )


def apply_overrides(pipe: Any, path: Path) -> None:
    """Let a checkpoint's own words on its training win over the base folder's scheduler config.

    Raises:
        ModelError: damaged, or it contradicts itself.
    """
    overrides = schedule_overrides(path, read_shapes(path), read_metadata(path))
    if overrides:
        pipe.scheduler.register_to_config(**overrides)
