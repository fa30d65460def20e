"""The strength of a LoRA's layers by peft's config, which lies beside the weights or in their metadata.

A layer's factor is alpha / r, or alpha / sqrt(r) with rank-stabilized LoRA; patterns give single layers
another alpha. What a config asks for beyond that, and what would change numbers, is refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stdcli.disk.reading import parse_object
from stdcli.errors import ModelError
from stdcli.models.configs import read_json
from stdcli.models.diffusers_api import get_pattern_key
from stdcli.models.layout import PEFT_CONFIG, PEFT_FILE
from stdcli.models.weights import read_metadata

ADAPTER_METADATA = "lora_adapter_metadata"  # where diffusers stores peft's config
UNLOADED = {
    "use_dora": "DoRA",
    "modules_to_save": "whole layers beside the low-rank ones (modules_to_save)",
    "lora_bias": "biases of its own (lora_bias)",
    "layer_replication": "replicated layers",
    "target_parameters": "target_parameters",
    "trainable_token_indices": "trained tokens",
    "alora_invocation_tokens": "activated LoRA (aLoRA)",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
    "megatron_config": "Megatron's layers",
    "fan_in_fan_out": "transposed weights (fan_in_fan_out)",
}
"""Settings of peft's LoraConfig that change what a layer computes, and what they are called."""
REBASED = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of `init_lora_weights` that change the base too, so that the LoRA alone is not the result."""
_SIMPLE = re.compile(r"[\w.\\^$|()\[\]?*+-]{1,200}")
_QUANTIFIER = re.compile(r"[*+?]")


class PeftConfig:
    """A peft config that was read and found to be loadable.

    Args:
        values: LoraConfig's, without the component's prefix.
        where: the file they come from.

    Raises:
        ModelError: another method than LoRA, or a setting of `UNLOADED` or `REBASED`; values of odd types.
    """

    def __init__(self, values: Mapping[str, Any], where: Path) -> None:
        self._where = where
        kind = values.get("peft_type") or "LORA"
        if kind != "LORA":
            raise self._refused(f"{kind} of peft, no LoRA")
        for key, name in UNLOADED.items():
            if values.get(key):
                raise self._refused(name)
        init = values.get("init_lora_weights")
        if isinstance(init, str) and init.lower().startswith(REBASED):
            raise self._refused(
                f"{init}, which also changed the model it was trained on",
                hint="save it as a plain LoRA: save_pretrained(path_initial_model_for_weight_conversion=...)",
            )
        self._rank = self._number(values, "r")
        self._alpha = self._number(values, "lora_alpha")
        self._ranks = self._pattern(values, "rank_pattern")
        self._alphas = self._pattern(values, "alpha_pattern")
        self._stabilized = bool(values.get("use_rslora"))

    def alpha(self, module: str, rank: int) -> float | None:
        """Alpha of a layer such that its factor is alpha / r; None where the config says nothing of it.

        Args:
            module: its full name.
            rank: r, of its tensors.

        Raises:
            ModelError: the config gives it another rank.
        """
        expected = self._ranks.get(get_pattern_key(self._ranks, module), self._rank)
        if expected is not None and expected != rank:
            raise ModelError(
                "the config beside this LoRA is not its own",
                where=self._where,
                got=f"rank {rank} of {module} in the weights",
                expected=f"{expected:g}",
                hint="keep each LoRA in a folder of its own, with its own adapter_config.json",
            )
        alpha = self._alphas.get(get_pattern_key(self._alphas, module), self._alpha)
        return alpha * math.sqrt(rank) if alpha is not None and self._stabilized else alpha

    def _refused(self, got: str, hint: str | None = None) -> ModelError:
        return ModelError(
            "this adapter is more than a plain LoRA, which is all that is loaded",
            where=self._where,
            got=got,
            hint=hint,
        )

    def _number(self, values: Mapping[str, Any], key: str) -> float | None:
        value = values.get(key)
        return None if value is None else self._checked(key, value)

    def _pattern(self, values: Mapping[str, Any], key: str) -> dict[str, float]:
        found = values.get(key) or {}
        if not isinstance(found, dict):
            raise self._odd(key, found)
        for name in found:
            # peft takes them for expressions; ones that may take forever are not compiled
            unsafe = not _SIMPLE.fullmatch(name) or re.search(r"\)[*+{]|\(\?", name)
            if unsafe or len(_QUANTIFIER.findall(name)) > 3:
                raise self._odd(key, name)
            try:
                re.compile(name)
            except re.error as e:
                raise self._odd(key, name) from e
        return {name: self._checked(f"{key} {name}", value) for name, value in found.items()}

    def _checked(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._odd(key, value)
        return value

    def _odd(self, key: str, value: object) -> ModelError:
        return ModelError("cannot read this LoRA's config", where=self._where, got=f"{key}: {value!r:.60}")


def read_configs(path: Path) -> tuple[dict[str, PeftConfig], Path | None]:
    """The peft configs of a LoRA file by component, and the file they were read from beside it.

    Args:
        path: the weights.

    Returns:
        Those in the file's own metadata and None, or that of `adapter_config.json` in its folder, for
        whatever component, under ""; empty where there is neither, or where it is that of peft's own file.

    Raises:
        ModelError: damaged, or as `PeftConfig`.
    """
    text = read_metadata(path).get(ADAPTER_METADATA)
    if text is not None:
        return {part: PeftConfig(values, path) for part, values in _by_component(text, path).items()}, None
    beside = path.parent / PEFT_CONFIG
    of_another = path.name != PEFT_FILE and (path.parent / PEFT_FILE).is_file()
    if of_another or not beside.is_file():
        return {}, None
    return {"": PeftConfig(read_json(beside), beside)}, beside


def _by_component(text: str, path: Path) -> dict[str, dict[str, Any]]:
    """`unet.r` and the like, as diffusers stores them; names without a component are for all."""
    try:
        values = parse_object(text, path, ModelError)
    except ModelError as e:
        got = f"{ADAPTER_METADATA}: {e.what}"
        raise ModelError("cannot read this LoRA's config", where=path, got=got) from e
    found: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        component, _, name = key.rpartition(".")
        found.setdefault(component, {})[name] = value
    return found
