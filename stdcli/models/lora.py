"""LoRA files: load, prove that every tensor arrived, fuse.

diffusers converts kohya's and its own key formats and injects; upstream may skip keys it cannot place and
go on (diffusers#9291). Here every pair of the file must be found in the model, bit for bit and with its
alpha / rank, or loading fails.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stdcli.config.quantities import split_scale
from stdcli.errors import ModelError
from stdcli.models.locate import locate_lora
from stdcli.models.upstream import FAULTS, BaseTunerLayer, first_line
from stdcli.models.weights import read_metadata, read_shapes

DOWN = re.compile(r"[._]lora(?:_A|_down|\.down|_linear_layer\.down)(?:\.default)?\.weight$")
UP = re.compile(r"[._]lora(?:_B|_up|\.up|_linear_layer\.up)(?:\.default)?\.weight$")
ALPHA = re.compile(r"\.alpha$")
ADAPTER_METADATA = "lora_adapter_metadata"  # where diffusers stores peft's config
WRAPPER = "base_model.model."
"""What peft puts before a wrapped model's names; the code of Single Trajectory Distillation stores it."""
COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
CROSS_WIDTHS = {768: "sd15", 1024: "Stable Diffusion 2", 2048: "sdxl"}


@dataclass(frozen=True)
class AppliedLora:
    """A LoRA that is fused into a model.

    Attributes:
        name: as the user gave it, without the scale.
        scale: factor on its weights.
        path: its file.
    """

    name: str
    scale: float
    path: Path


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
        ModelError, HubError: as `apply_lora`.
    """
    check_lora_file(locate_lora(parse_lora(text)[0], offline=offline).path)


def check_lora_file(path: Path) -> None:
    """The same of a file.

    Raises:
        ModelError: damaged, or of a kind other than LoRA.
    """
    _stems(path, read_shapes(path))


def apply_lora(pipe: Any, text: str, *, family: str, offline: bool) -> AppliedLora:
    """Load one LoRA, check that all of it arrived, and fuse it into the weights.

    W <- W + scale * alpha / rank * B A. Call it before a style adapter is installed.

    Args:
        pipe: diffusers pipeline.
        text: `path[:scale]`, a Hub id, or `OWNER/NAME/FILE.safetensors`.
        family: the model's family, for messages.
        offline: never reach the network.

    Raises:
        ModelError: not found, damaged, of a kind other than LoRA, or not all of it fits the model.
        HubError: cannot be fetched.
    """
    name, scale = parse_lora(text)
    path = locate_lora(name, offline=offline).path
    fuse_lora(pipe, path, scale=scale, family=family)
    return AppliedLora(name, scale, path)


def fuse_lora(pipe: Any, path: Path, *, scale: float, family: str) -> None:
    """`apply_lora` of a file.

    Raises:
        ModelError: damaged, of a kind other than LoRA, or not all of it fits the model.
    """
    shapes = read_shapes(path)
    stems = _stems(path, shapes)
    lost = stems - _fitting(pipe, path)
    if lost:
        raise _misfit(path, family, shapes, lost=lost, total=len(stems))
    weights: Any = str(path.parent)
    if any(WRAPPER in key for key in shapes):  # upstream knows no such names
        weights = {plain_name(key): value for key, value in load_file(path).items()}
    adapter = f"lora_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    try:
        pipe.load_lora_weights(
            weights,
            weight_name=path.name,
            adapter_name=adapter,
            use_safetensors=True,
            local_files_only=True,
        )
    except FAULTS as e:
        raise _misfit(path, family, shapes, lost=stems, total=len(stems), cause=first_line(e)) from e
    _check_arrival(pipe, adapter, path, family=family, shapes=shapes)
    parts = [c for c in COMPONENTS if getattr(pipe, c, None) is not None]
    try:
        pipe.fuse_lora(components=parts, lora_scale=scale, safe_fusing=True, adapter_names=[adapter])
    except ValueError as e:
        raise ModelError("fusing this LoRA gives NaN weights", where=path, got=first_line(e)) from e
    pipe.unload_lora_weights()


def plain_name(key: str) -> str:
    """A key or layer name without peft's wrapper, and under `unet.` where it then names no component."""
    if WRAPPER not in key:
        return key
    rest = key.replace(WRAPPER, "", 1)
    return rest if rest.startswith(tuple(f"{part}." for part in COMPONENTS)) else f"unet.{rest}"


def _stems(path: Path, shapes: Mapping[str, Sequence[int]]) -> set[str]:
    """Layer names of the file, as the file spells them; every key must belong to a down, up, alpha triple."""
    stems = {DOWN.sub("", k) for k in shapes if DOWN.search(k)}
    ups = {UP.sub("", k) for k in shapes if UP.search(k)}
    strange = [k for k, shape in shapes.items() if not _belongs(k, shape)]
    strange += sorted(stems ^ ups)
    if strange or not stems:
        raise ModelError(
            "not a LoRA, or of a kind that is not supported (DoRA, LoHa, LoKr, full difference)",
            where=path,
            got=f"{len(strange)} of {len(shapes)} keys are none of down, up, alpha: {', '.join(strange[:3])}",
            hint=None if stems else "a full model goes to --model",
        )
    return stems


def _belongs(key: str, shape: Sequence[int]) -> bool:
    if DOWN.search(key) or UP.search(key):
        return len(shape) >= 2 and min(shape) > 0
    return bool(ALPHA.search(key)) and math.prod(shape) == 1


def _check_arrival(
    pipe: Any, adapter: str, path: Path, *, family: str, shapes: Mapping[str, Sequence[int]]
) -> None:
    """Compare what the file holds with what is in the model: the tensors themselves and their factors."""
    injected = list(_injected(pipe, adapter))
    arrived = Counter(_mark(*layer) for layer in injected)
    dtypes = {down.dtype for down, _, _ in injected}
    lost = set()
    stored = list(stored_pairs(path))
    for stem, down, up, alpha in stored:
        marks = [_mark(down.to(dtype), up.to(dtype), alpha / len(down)) for dtype in dtypes]
        here = next((mark for mark in marks if arrived[mark]), None)
        if here is None:
            lost.add(stem)
        else:
            arrived[here] -= 1
    if lost or arrived.total():
        raise _misfit(path, family, shapes, lost=lost, total=len(stored))


def _injected(pipe: Any, adapter: str) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Down, up and factor of every layer that upstream gave this adapter."""
    for component in COMPONENTS:
        model = getattr(pipe, component, None)
        for module in model.modules() if model is not None else ():
            if isinstance(module, BaseTunerLayer) and adapter in module.lora_A:
                yield module.lora_A[adapter].weight, module.lora_B[adapter].weight, module.scaling[adapter]


def stored_pairs(path: Path) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """(layer name as the file spells it, down [r, in, ...], up [out, r, ...], alpha) of every pair of a file.

    Without alpha in the file it is the rank r.
    """
    tensors = load_file(path)
    config = json.loads(read_metadata(path).get(ADAPTER_METADATA, "{}"))
    ups = {UP.sub("", k): v for k, v in tensors.items() if UP.search(k)}
    for key, down in tensors.items():
        if not DOWN.search(key):
            continue
        stem = DOWN.sub("", key)
        alpha = tensors.get(f"{stem}.alpha")
        value = float(alpha) if alpha is not None else _configured_alpha(config, stem, down.shape[0])
        yield stem, down, ups[stem], value


def _configured_alpha(config: Mapping[str, Any], stem: str, rank: int) -> float:
    """Alpha of a layer by peft's config in the file's metadata, such that the factor is alpha / rank."""
    component, _, module = plain_name(stem).partition(".")
    alpha = config.get(f"{component}.alpha_pattern", {}).get(
        module, config.get(f"{component}.lora_alpha", rank)
    )
    return alpha * math.sqrt(rank) if config.get(f"{component}.use_rslora") else alpha


def _mark(down: Tensor, up: Tensor, factor: float) -> tuple[str, float]:
    digest = hashlib.sha256()
    for tensor in (down, up):
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest(), round(factor, 6)


def _fitting(pipe: Any, path: Path) -> set[str]:
    """Layer names of the file whose counterpart exists in the model with the same widths."""
    tensors = load_file(path)
    stem_of = {id(v): DOWN.sub("", k) for k, v in tensors.items() if DOWN.search(k)}
    ups = {UP.sub("", k): v for k, v in tensors.items() if UP.search(k)}
    try:
        plain = {plain_name(key): value for key, value in tensors.items()}
        converted = pipe.lora_state_dict(plain, unet_config=pipe.unet.config)[0]
    except (ValueError, LookupError):
        return set()
    models = {c: model for c in COMPONENTS if (model := getattr(pipe, c, None)) is not None}
    layers = {c: _layers(model) for c, model in models.items()}
    fits = set()
    for key, down in converted.items():
        stem = stem_of.get(id(down))  # conversion renames, it does not copy
        if stem is None:
            continue
        component, _, name = DOWN.sub("", key).replace(".processor", "").partition(".")
        name = re.sub(r"self_attn\.to_(q|k|v|out)$", r"self_attn.\1_proj", name).removeprefix("text_model.")
        found = layers.get(component, {})
        weight = found.get(name, found.get(f"{name}.0"))
        if weight is not None and (weight.shape[0], weight.shape[1]) == (ups[stem].shape[0], down.shape[1]):
            fits.add(stem)
    return fits


def _layers(model: nn.Module) -> dict[str, Tensor]:
    """Weights that a LoRA can change, by module name; `text_model.` is in some library versions only."""
    kinds = (nn.Linear, nn.Conv2d)
    return {n.removeprefix("text_model."): m.weight for n, m in model.named_modules() if isinstance(m, kinds)}


def _guess_base(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Family that a LoRA was made for, by the width of the text tokens it reads."""
    if any(k.startswith(("transformer.", "diffusion_model.")) or "double_blocks" in k for k in shapes):
        return "a transformer model (Flux, SD3 or the like)"
    widths = {
        shape[1]
        for k, shape in shapes.items()
        if DOWN.search(k) and "attn2" in k and re.search(r"to[_.]k", k)
    }
    return next((CROSS_WIDTHS[w] for w in widths if w in CROSS_WIDTHS), None)


def _misfit(
    path: Path,
    family: str,
    shapes: Mapping[str, Sequence[int]],
    *,
    lost: set[str],
    total: int,
    cause: str | None = None,
) -> ModelError:
    guess = _guess_base(shapes)
    detail = f"{total - len(lost)} of {total} layers match; first that do not: {', '.join(sorted(lost)[:3])}"
    if cause is not None:
        detail += f" ({cause[:120]})"
    made_for = f"this LoRA was made for {guess}, not for {family}" if guess not in (None, family) else None
    return ModelError(
        made_for or "this LoRA does not fit the model", where=path, got=detail, expected=f"all {total}"
    )
