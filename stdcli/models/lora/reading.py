"""A LoRA file as one pair of matrices per layer, read from any program's key format.

Tensors are never changed on the way, and nothing is skipped: a key that is not understood is an error. Knows
no models.

Legend: r rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from stdcli.errors import ModelError
from stdcli.models.layout import PEFT_CONFIG
from stdcli.models.lora.kohya import LAYERS_PER_BLOCK
from stdcli.models.lora.peft_config import PeftConfig, read_configs
from stdcli.models.lora.spelling import UNUSED, ParameterKey, module_key
from stdcli.models.lora.unsupported import adapter_kind, base_kind, file_kind
from stdcli.models.weights import read_shapes

DOWN = re.compile(r"[._]lora(?:_A|_down|\.down|_linear_layer\.down)(?:\.default)?\.weight$")
UP = re.compile(r"[._]lora(?:_B|_up|\.up|_linear_layer\.up)(?:\.default)?\.weight$")
ALPHA = re.compile(r"\.alpha$")
DIFFERENCE = re.compile(r"\.diff(_b)?$")
"""ComfyUI's and LyCORIS' spelling of what is added to a whole weight, or to a bias."""
CROSS_WIDTHS = {768: "sd15", 1024: "Stable Diffusion 2", 2048: "sdxl"}


@dataclass(frozen=True)
class LoraLayer:
    """What a LoRA adds to one layer: W + alpha / r * up down.

    Attributes:
        down: [r, in], or [r, in, kh, kw] of a convolution.
        up: [out, r], or [out, r, 1, 1].
        alpha: alpha; r means a factor of 1.
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """r."""
        return len(self.down)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether the layer's weight can have this shape."""
        change = (len(self.up), *self.down.shape[1:])
        return tuple(n for n in change if n > 1) == tuple(n for n in shape if n > 1)

    def change(self, shape: Sequence[int]) -> Tensor:
        """What is added to a weight of this shape, float32.

        Source: Hu 2021 (LoRA) section 4.1.
        """
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return (self.alpha / self.rank * product).reshape(tuple(shape))


@dataclass(frozen=True)
class LoraFile:
    """All of a LoRA file.

    Attributes:
        path: the file.
        layers: low-rank changes by place.
        differences: what is added as it is, by component and full name of the parameter.
        spelled: the file's own name of each of both.
        unplaced: names of what has no place in Stable Diffusion, or has the place of another.
        files: whatever decides its numbers: it, and peft's config if alphas were read from there.
        notes: what the user should know of it.
    """

    path: Path
    layers: Mapping[ParameterKey, LoraLayer]
    differences: Mapping[ParameterKey, Tensor]
    spelled: Mapping[ParameterKey, str]
    unplaced: Sequence[str]
    files: Sequence[Path]
    notes: Sequence[str]


def check_lora_file(path: Path) -> list[Path]:
    """Refuse what no model could take, by the file's header alone.

    Returns:
        The file, and peft's config where its numbers need that.

    Raises:
        ModelError: damaged, of a kind other than LoRA, or with a peft config that asks for more.
    """
    shapes = read_shapes(path)
    downs = {DOWN.sub("", k): shape for k, shape in shapes.items() if DOWN.search(k)}
    ups = {UP.sub("", k): shape for k, shape in shapes.items() if UP.search(k)}
    strange = [k for k, shape in shapes.items() if not _belongs(k, shape)]
    strange += sorted(downs.keys() ^ ups.keys())
    foreign = adapter_kind(shapes)
    if strange or foreign or not (downs or any(DIFFERENCE.search(k) for k in shapes)):
        raise _no_lora(path, shapes, strange, foreign or file_kind(strange or shapes), is_lora=bool(downs))
    mismatched = [
        stem for stem, down in downs.items() if ups[stem][1] != down[0] or math.prod(ups[stem][2:]) != 1
    ]
    if mismatched:
        raise ModelError(
            "the two matrices of a layer of this LoRA do not fit each other",
            where=path,
            got=f"{mismatched[0]}: down {list(downs[mismatched[0]])}, up {list(ups[mismatched[0]])}",
            expected="down [r, in, ...] and up [out, r]",
        )
    if all(f"{stem}.alpha" in shapes for stem in downs):
        return [path]
    beside = read_configs(path)[1]
    return [path] if beside is None else [path, beside]


def read_lora(path: Path, *, layers_per_block: int = LAYERS_PER_BLOCK) -> LoraFile:
    """Read a LoRA file.

    Args:
        path: in peft's (`lora_A`), diffusers' (`lora.down`), kohya's (`lora_unet_...lora_down`) or ComfyUI's
            (`diffusion_model....lora_down`) key format, also mixed. Alphas are the file's own, else those of
            peft's config in its metadata or beside it, else the rank, which a note then says.
        layers_per_block: of the UNet it is for, by which kohya's and ComfyUI's names count.

    Raises:
        ModelError: as `check_lora_file`.
        NumericsError: a value is NaN or infinite.
    """
    files = check_lora_file(path)
    tensors = load_file(path)
    configs = read_configs(path)[0] if any(DOWN.search(key) for key in tensors) else {}
    layers: dict[ParameterKey, LoraLayer] = {}
    differences: dict[ParameterKey, Tensor] = {}
    spelled: dict[ParameterKey, str] = {}
    unplaced, guessed = [], 0
    for stem, down, up in _pairs(tensors):
        if stem in UNUSED:
            continue
        target = module_key(stem, layers_per_block=layers_per_block)
        if target is None or target in layers:
            unplaced.append(stem)
            continue
        alpha = _alpha(tensors.get(f"{stem}.alpha"), configs, target, rank=len(down))
        guessed += alpha is None
        layers[target] = LoraLayer(down, up, len(down) if alpha is None else alpha)
        spelled[target] = stem
    for key in filter(DIFFERENCE.search, tensors):
        stem = DIFFERENCE.sub("", key)
        if stem in UNUSED:
            continue
        target = module_key(stem, layers_per_block=layers_per_block)
        if target is None:
            unplaced.append(key)
            continue
        parameter = (target[0], f"{target[1]}.{'bias' if key.endswith('_b') else 'weight'}")
        differences[parameter], spelled[parameter] = tensors[key], key
    notes = [_guess_note(path, guessed, len(layers))] if guessed else []
    return LoraFile(path, layers, differences, spelled, unplaced, files, notes)


def misfit(path: Path, family: str, lost: Sequence[str], total: int) -> ModelError:
    """The error of a LoRA of which not every layer has its place.

    Args:
        path: the file.
        family: of the model, for the message.
        lost: the file's names of layers without a place.
        total: number of its layers.
    """
    shapes = read_shapes(path)
    whole = sorted(filter(DIFFERENCE.search, lost))
    if whole:
        return _no_lora(path, shapes, whole, None, is_lora=True)
    guess = _guess_base(shapes)
    detail = f"{total - len(lost)} of {total} layers match; first that do not: {', '.join(sorted(lost)[:3])}"
    what = f"this LoRA was made for {guess}, not for {family}"
    return ModelError(
        "this LoRA does not fit the model" if guess in (None, family) else what,
        where=path,
        got=detail,
        expected=f"all {total}",
    )


def _guess_base(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """What a LoRA was made for, by its names and by the width of the text tokens that it reads."""
    foreign = base_kind(shapes)
    if foreign is not None:
        return foreign.removeprefix("a LoRA of ")
    downs = [(k, shape) for k, shape in shapes.items() if DOWN.search(k)]
    widths = {shape[1] for k, shape in downs if "attn2" in k and re.search(r"to[_.]k", k)}
    return next((CROSS_WIDTHS[w] for w in widths if w in CROSS_WIDTHS), None)


def _guess_note(path: Path, guessed: int, total: int) -> str:
    return (
        f"{path.name} says no alpha for {guessed} of its {total} layers, nor does an {PEFT_CONFIG} beside "
        "it: taken as the rank, a factor of 1; if that looks too strong, find that file where it came from"
    )


def _no_lora(
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    strange: Sequence[str],
    kind: str | None,
    *,
    is_lora: bool,
) -> ModelError:
    keys = f"keys such as {', '.join(sorted(shapes)[:3])}"
    count = f"{len(strange)} of {len(shapes)} keys are none of down, up, alpha: {', '.join(strange[:3])}"
    return ModelError(
        "not a LoRA, or of a kind that is not supported (DoRA, LoHa, LoKr, full difference)"
        if kind is None
        else f"this is {kind}, not a LoRA of a kind that is supported (no DoRA, LoHa, LoKr)",
        where=path,
        got=count if strange else keys,
        expected="pairs of down and up, with or without alpha",
        hint=None if is_lora else "a full model goes to --model",
    )


def _belongs(key: str, shape: Sequence[int]) -> bool:
    if DOWN.search(key) or UP.search(key):
        return len(shape) >= 2 and min(shape) > 0
    if DIFFERENCE.search(key):
        return math.prod(shape) > 0
    return bool(ALPHA.search(key)) and math.prod(shape) == 1


def _pairs(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    ups = {UP.sub("", k): v for k, v in tensors.items() if UP.search(k)}
    for key, down in tensors.items():
        if DOWN.search(key):
            yield (stem := DOWN.sub("", key)), down, ups[stem]


def _alpha(
    stored: Tensor | None, configs: Mapping[str, PeftConfig], target: ParameterKey, *, rank: int
) -> float | None:
    """Alpha of a layer; None where nothing says it."""
    if stored is not None:
        return float(stored)
    component, module = target
    config = configs.get(component, configs.get(""))
    if config is None:
        return None
    return config.alpha(module if component == "unet" else f"text_model.{module}", rank)
