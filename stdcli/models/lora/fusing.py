"""LoRA files: find, prove that every tensor has its place, fuse.

Upstream may skip keys it cannot place and go on (diffusers#9291). Here every layer of the file must be found
in the model with its shape, or loading fails before anything is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stdcli.config.quantities import split_scale
from stdcli.errors import ModelError
from stdcli.models.layout import EMBEDDER_FILE, LORA_FILE, NETWORKS
from stdcli.models.locate import locate_lora
from stdcli.models.lora.kohya import LAYERS_PER_BLOCK
from stdcli.models.lora.reading import LoraFile, check_lora_file, misfit, read_lora
from stdcli.models.lora.spelling import COMPONENTS, ParameterKey
from stdcli.models.weights import is_finite
from stdcli.runtime.peak_memory import give_back


@dataclass(frozen=True)
class AppliedLora:
    """A LoRA that is fused into a model.

    Attributes:
        name: as the user gave it, without the scale.
        scale: factor on its weights.
        files: its weights, and peft's config where that decides its strength.
        notes: what the user should know of it.
    """

    name: str
    scale: float
    files: Sequence[Path]
    notes: Sequence[str]


def parse_lora(text: str) -> tuple[str, float]:
    """Split `path[:scale]`; a missing scale is 1.

    Raises:
        ModelError: the scale is not finite, or there is no path.
    """
    try:
        return split_scale(text)
    except ValueError as e:
        expected = "PATH or PATH:SCALE, as in style.safetensors:0.8"
        raise ModelError("cannot read this LoRA", got=text, expected=expected) from e


def check_lora(text: str, *, offline: bool) -> None:
    """Refuse what no model could take, before one is loaded: `apply_lora`'s checks but for the fit.

    Raises:
        ModelError: as `apply_lora`, or a student that is more than a LoRA.
        HubError: as `apply_lora`.
    """
    name, _ = parse_lora(text)
    path = locate_lora(name, offline=offline).path
    check_lora_file(path)
    if path.name == LORA_FILE and path.with_name(EMBEDDER_FILE).is_file():
        raise ModelError(
            "this student is told where each step aims, which a LoRA is not",
            where=path,
            got=f"{EMBEDDER_FILE} beside it",
            hint=f"--student {name}",
        )


def apply_lora(pipe: Any, text: str, *, family: str, offline: bool) -> AppliedLora:
    """Load one LoRA, check that all of it has its place, and fuse it into the weights.

    W <- W + scale * alpha / rank * B A. Call it before a style adapter is installed.

    Args:
        pipe: diffusers pipeline.
        text: `path[:scale]`, a Hub id, or `OWNER/NAME/FILE.safetensors`.
        family: the model's family, for messages.
        offline: never reach the network.

    Raises:
        ModelError: not found, damaged, of a kind other than LoRA, not all of it fits the model, or a value
            that goes in or comes out is NaN or infinite.
        HubError: cannot be fetched.
    """
    name, scale = parse_lora(text)
    lora = fuse_lora(pipe, locate_lora(name, offline=offline).path, scale=scale, family=family)
    return AppliedLora(name, scale, lora.files, lora.notes)


@torch.no_grad()
def fuse_lora(pipe: Any, path: Path, *, scale: float, family: str) -> LoraFile:
    """`apply_lora` of a file; returns what was in it.

    Sums are taken in float32 and rounded once to the dtype of the weights.

    Raises:
        ModelError: damaged, of a kind other than LoRA, not all of it fits the model, or a value that goes in
            or comes out is NaN or infinite.
    """
    lora = read_lora(path, layers_per_block=_layers_per_block(pipe))
    targets = _targets(pipe)
    lost = [*lora.unplaced, *_unmatched(lora, targets)]
    if lost:
        raise misfit(path, family, lost, len(lora.spelled) + len(lora.unplaced))
    for key, values in _values(lora):
        _check_finite(values, f"{path}: {lora.spelled[key]}")
    if _network(pipe).device.type == "meta":  # an outline: there is nothing to fuse into
        return lora
    for number, (key, change) in enumerate(_changes(lora, targets), start=1):
        weight = targets[key]
        fused = (weight.float() + scale * change).to(weight.dtype)
        _check_finite([fused], f"{path}: {key[1]}")
        weight.copy_(fused)
        if number % 32 == 0:  # sums of all sizes leave holes in the heap
            del change, fused
            give_back()
    give_back()
    return lora


def _network(pipe: Any) -> nn.Module:
    return next(network for part in NETWORKS if (network := getattr(pipe, part, None)) is not None)


def _layers_per_block(pipe: Any) -> int:
    """Of its network; the usual where that differs by block, which the original names know nothing of."""
    stored = _network(pipe).config.get("layers_per_block")
    return stored if isinstance(stored, int) else LAYERS_PER_BLOCK


def _values(lora: LoraFile) -> Iterator[tuple[ParameterKey, list[Tensor]]]:
    yield from ((key, [layer.down, layer.up]) for key, layer in lora.layers.items())
    yield from ((key, [value]) for key, value in lora.differences.items())


def _check_finite(values: Sequence[Tensor], where: str) -> None:
    for value in values:
        if not is_finite(value):
            raise ModelError("fusing this LoRA gives NaN or infinite weights", where=where, got=value.dtype)


def _targets(pipe: Any) -> dict[ParameterKey, Tensor]:
    """Parameters of a pipeline by component and name; `text_model.` is in some library versions only."""
    models = {c: model for c in COMPONENTS if isinstance(model := getattr(pipe, c, None), nn.Module)}
    return {
        (component, name.removeprefix("text_model.")): parameter
        for component, model in models.items()
        for name, parameter in model.named_parameters()
    }


def _unmatched(lora: LoraFile, targets: Mapping[ParameterKey, Tensor]) -> Iterator[str]:
    """The file's names of what has no counterpart of its shape."""
    for (component, module), layer in lora.layers.items():
        weight = targets.get((component, f"{module}.weight"))
        if weight is None or weight.ndim < 2 or not layer.fits(weight.shape):
            yield lora.spelled[component, module]
    for key, value in lora.differences.items():
        if key not in targets or targets[key].shape != value.shape:
            yield lora.spelled[key]


def _changes(lora: LoraFile, targets: Mapping[ParameterKey, Tensor]) -> Iterator[tuple[ParameterKey, Tensor]]:
    """What is added to each parameter, float32, on its device."""
    for (component, module), layer in lora.layers.items():
        key = (component, f"{module}.weight")
        weight = targets[key]
        layer = replace(layer, down=layer.down.to(weight.device), up=layer.up.to(weight.device))
        yield key, layer.change(weight.shape)
    for key, value in lora.differences.items():
        yield key, value.to(targets[key].device).float()
