"""Where the files of models and students lie in their folders, by name, and which of them are ever read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from stdcli.config.recipe import NETWORKS

LORA_FILE = "pytorch_lora_weights.safetensors"
EMBEDDER_FILE = "target_time_embedder.safetensors"
"""Beside a LoRA that is told where a step aims."""
PEFT_FILE = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
INDEX_FILE = "model_index.json"
RECIPE_FILE = "recipe.json"
STUDENT_FILES = (
    LORA_FILE,
    EMBEDDER_FILE,
    PEFT_FILE,
    PEFT_CONFIG,
    RECIPE_FILE,
    *(f"{part}/config.json" for part in NETWORKS),
    *(f"{part}/diffusion_pytorch_model*.safetensors" for part in NETWORKS),
)
COMPONENTS = (
    *NETWORKS,
    "vae",
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "image_encoder",
    "feature_extractor",
    "ip_adapter",
    "ip_adapter/image_encoder",
)
WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(?P<fp16>\.fp16)?(-\d{5}-of-\d{5})?\.safetensors")
TEXT_SUFFIXES = frozenset({".json", ".txt"})


def wanted_files(found: Iterable[str], *, half: bool, weights: bool = True) -> Iterator[str]:
    """Pick what a pipeline needs from a repository's file names.

    Root checkpoints, other frameworks' weights, pickles, code and the safety checker stay out. Of a
    component's plain and fp16 weights one set is taken: fp16 if `half` or if there is no other.

    Args:
        found: file names, "/"-separated.
        half: prefer fp16 files.
        weights: False leaves all weights out.
    """
    variants: dict[str, dict[bool, list[str]]] = {}
    for name in sorted(found):
        path = PurePosixPath(name)
        folder = str(path.parent)
        match = WEIGHTS.fullmatch(path.name)
        if name in (INDEX_FILE, RECIPE_FILE) or (folder in COMPONENTS and path.suffix in TEXT_SUFFIXES):
            yield name
        elif folder in COMPONENTS and match is not None:
            variants.setdefault(folder, {}).setdefault(match["fp16"] is not None, []).append(name)
        elif folder == "ip_adapter" and path.suffix == ".safetensors" and weights:
            yield name
    for by_variant in variants.values() if weights else ():
        yield from by_variant[half if half in by_variant else not half]
