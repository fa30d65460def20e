"""What a model says of how it was trained: a single-file checkpoint, or a folder's scheduler.

Single files have no config; their authors leave marks, tensors that are no network's, or metadata. A mark of
a formulation that is not sampled here is an error: read as epsilon prediction, such a model gives mud.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stdcli.errors import ModelError

NETWORKS = (
    "model.",
    "model_ema.",
    "first_stage_model.",
    "vae.",
    "cond_stage_model.",
    "conditioner.",
    "denoiser.",
)
"""How the names of all tensors of networks begin, and of what trainers store beside them."""
V = "v_prediction"
PREDICTIONS = {"": None, "epsilon": None, "eps": None, "v": V, "v_prediction": V, "v_pred": V, "vpred": V}
"""Values of `modelspec.prediction_type` in diffusers' words; None is as the base says."""
KEYS = ("modelspec.prediction_type", "modelspec.predict_key")
_FOREIGN = re.compile(r"(edm|cosxl|flow|rectified|rf|sigma_(min|max|data))(?![a-z])", re.IGNORECASE)
_KNOWN = {"edm_vpred": "EDM with v prediction, as CosXL", "edm_mean": "EDM, as Playground 2.5"}


def schedule_overrides(path: Path, names: Iterable[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Values for the base folder's scheduler.

    `v_pred` and `ztsnr` are empty marker tensors that v-prediction finetunes of SDXL carry.

    Args:
        path: the checkpoint, for messages.
        names: of all its tensors.
        metadata: of the file.

    Raises:
        ModelError: trained by a formulation that is not sampled here (EDM, flow matching, or one unknown).
    Source: comfyanonymous/ComfyUI, comfy/supported_models.py, for the marks; Stability-AI/ModelSpec 1.0.1.
    """
    loose = sorted(name for name in names if not name.startswith(NETWORKS))
    foreign = [name for name in loose if _FOREIGN.match(name)]
    named = next((metadata[key].lower().replace("-", "_") for key in KEYS if metadata.get(key)), "")
    if foreign or named not in PREDICTIONS:
        kind = _KNOWN.get(foreign[0].partition(".")[0]) if foreign else None
        raise ModelError(
            "this checkpoint was trained by a formulation that is not sampled here"
            + (f": {kind}" if kind else ""),
            where=path,
            got=", ".join(foreign[:2]) or f"prediction type {named}",
            expected="epsilon or v prediction",
        )
    found: dict[str, Any] = {}
    if "v_pred" in loose or PREDICTIONS[named]:
        found["prediction_type"] = V
    if "ztsnr" in loose:
        found["rescale_betas_zero_snr"] = True
    return found


def check_scheduler(config: Mapping[str, Any], where: Path) -> None:
    """Refuse the scheduler of a formulation whose times and scalings are not those of a table of betas.

    Args:
        config: diffusers' `scheduler_config.json`.
        where: the model, for messages.

    Raises:
        ModelError: EDM or another with continuous noise levels.
    Source: diffusers, EDMEulerScheduler, and EulerDiscreteScheduler for `timestep_type`.
    """
    name = str(config.get("_class_name", ""))
    marks = {key: config.get(key) for key in ("sigma_data", "sigma_max", "sigma_min")}
    continuous = config.get("timestep_type", "discrete") != "discrete"
    marked = [f"{key} {value}" for key, value in marks.items() if value is not None]
    if not ("EDM" in name or continuous or (marked and "FlowMatch" not in name)):
        return
    raise ModelError(
        "this model was trained by a formulation that is not sampled here: EDM, as CosXL",
        where=where,
        got=", ".join([name, *marked, *(["timestep_type continuous"] if continuous else [])]),
        expected="a scheduler with a table of betas, or of a flow",
    )
