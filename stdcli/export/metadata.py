"""What exported files say of themselves: `modelspec.*`, `ss_*`, `std.*` and peft's config, all as text.

No path of the machine goes in, no prompt and no date, so that the same student gives the same bytes.

Source: Stability-AI/ModelSpec 1.0.1; kohya-ss/sd-scripts, SS_METADATA_MINIMUM_KEYS and sai_model_spec.py;
    diffusers, loaders/lora_base.py for `lora_adapter_metadata`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stdcli.config.recipe import Recipe
from stdcli.export.lora_formats import adapter_config, has_sdxl_blocks
from stdcli.models.families.registry import names_of
from stdcli.models.folder import STORED_RECIPE
from stdcli.models.lora.peft_config import ADAPTER_METADATA
from stdcli.models.lora.reading import LoraLayer

ORIGINAL_CODE = "https://github.com/Stability-AI/generative-models"
VERSION = "1"
KOHYA_NOTE = (
    "for ComfyUI, A1111, Forge, sd-scripts: --format kohya; of diffusers' format they load a part, or "
    "none, without a word"
)


def lora_metadata(
    layers: Mapping[str, LoraLayer],
    recipe: Recipe | None,
    *,
    kohya: bool,
    title: str,
    family: str | None,
    hashes: Mapping[str, str],
) -> dict[str, str]:
    """Metadata of a LoRA file.

    Args:
        layers: what is in it.
        recipe: how the student wants to be sampled; None where it brings none.
        kohya: whether keys and alphas are kohya's; else diffusers', whose alphas are here alone.
        title: name of the model.
        family: name of it, or None where it is not known.
        hashes: further `std.*` values, without the prefix.
    """
    config = adapter_config(layers)
    found = _model_metadata(recipe, title=title, family=family, hashes=hashes, suffix="/lora")
    is_original = kohya and has_sdxl_blocks(layers)
    found["modelspec.implementation"] = ORIGINAL_CODE if is_original else "diffusers"
    if not kohya:
        return found | {ADAPTER_METADATA: json.dumps(config, indent=2, sort_keys=True)}
    mixed = "unet.rank_pattern" in config or "unet.alpha_pattern" in config
    rank, alpha = config["unet.r"], config["unet.lora_alpha"]
    of_convolutions = any(layer.down.ndim == 4 and layer.down.shape[-1] > 1 for layer in layers.values())
    arguments = {"conv_dim": str(rank), "conv_alpha": str(alpha)} if of_convolutions and not mixed else {}
    return found | {
        "ss_v2": "False",
        "ss_base_model_version": names_of(family).kohya,
        "ss_network_module": "networks.lora",
        "ss_network_dim": "Dynamic" if mixed else str(rank),
        "ss_network_alpha": "Dynamic" if mixed else str(alpha),
        "ss_network_args": json.dumps(arguments),
    }


def merged_metadata(
    recipe: Recipe | None, *, title: str, family: str, prediction: str, hashes: Mapping[str, str]
) -> dict[str, str]:
    """Metadata of a merged single file; `prediction` is diffusers' `prediction_type`, the rest as above."""
    found = _model_metadata(recipe, title=title, family=family, hashes=hashes)
    kind = "v" if prediction == "v_prediction" else prediction
    return found | {"modelspec.implementation": ORIGINAL_CODE, "modelspec.prediction_type": kind}


def usage_hint(recipe: Recipe | None) -> str | None:
    """What a user of plain diffusers types to sample like `stylize`; None without exact timesteps."""
    if recipe is None or recipe.timesteps is None:
        return None
    scheduler = "LCMScheduler" if recipe.sampler == "renoise" else "TCDScheduler"
    eta = f", eta={recipe.gamma:g}" if recipe.gamma else ""
    hint = (
        f"{scheduler}; pipe(image=..., timesteps={list(recipe.timesteps)}, strength=1.0, "
        f"guidance_scale={recipe.guidance:g}{eta})"
    )
    starts = {"none": "", "adain": "latents", "colours": "colours"}
    matched = starts[recipe.start.transform]
    return hint + (f", the picture's {matched} matched to the style's first" if matched else "")


def _model_metadata(
    recipe: Recipe | None, *, title: str, family: str | None, hashes: Mapping[str, str], suffix: str = ""
) -> dict[str, str]:
    found: dict[str, Any] = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": names_of(family).modelspec + suffix,
        "modelspec.title": title,
        "std.version": VERSION,
        **{f"std.{name}": value for name, value in hashes.items()},
    }
    if recipe is not None:
        found |= _recipe_metadata(recipe)
    return {key: str(value) for key, value in found.items()}


def _recipe_metadata(recipe: Recipe) -> dict[str, Any]:
    trained = recipe.trained
    timesteps = recipe.timesteps or ()
    start_t = trained.start_t if trained is not None else next(iter(timesteps), None)
    cfg = "fused" if recipe.guidance_fused else "live" if recipe.guidance != 1 else "none"
    found = {
        STORED_RECIPE: recipe.as_json(),
        "std.strength": f"{recipe.strength:g}",
        "std.steps": recipe.steps,
        "std.guidance": f"{recipe.guidance:g}",
        "std.cfg_mode": cfg,
        "std.sampler": recipe.sampler,
        "std.final": recipe.final,
        "std.start_transform": recipe.start.transform,
        "modelspec.description": f"a student of {recipe.steps} steps for pictures noised to strength "
        f"{trained.strength if trained is not None else recipe.strength:g}",
    }
    found |= {"std.timesteps": ",".join(map(str, timesteps))} if timesteps else {}
    hint = usage_hint(recipe)
    found |= {"modelspec.usage_hint": hint} if hint else {}
    if start_t is not None:
        found |= {"std.start_t": f"{start_t:g}", "modelspec.timestep_range": f"0,{int(start_t)}"}
    if trained is not None:
        found |= {
            "std.method": trained.method,
            "std.supported_steps": ",".join(map(str, trained.supported_steps)),
            "std.teacher": trained.base,
            "std.teacher_sha256": trained.base_sha256["unet"],
        }
    return found
