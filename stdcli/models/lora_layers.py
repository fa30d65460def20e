"""A student's LoRA as one pair of matrices per UNet layer, read from any key format and put into two.

Tensors and alphas are never changed on the way, so that going from one format to the other and back gives the
same file. Nothing is skipped: a key that is not understood is an error. Knows no models.

Legend: r rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stdcli.errors import ModelError, NumericsError
from stdcli.models.kohya import PREFIX, kohya_name, module_name
from stdcli.models.lora import check_lora_file, plain_name, stored_pairs


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

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the layer's weight can have this shape."""
        change = (len(self.up), *self.down.shape[1:])
        return tuple(n for n in change if n > 1) == tuple(n for n in shape if n > 1)

    def change(self, shape: tuple[int, ...]) -> Tensor:
        """What is added to a weight of this shape, float32.

        Source: Hu 2021 (LoRA) section 4.1.
        """
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return (self.alpha / self.rank * product).reshape(shape)


def read_layers(path: Path) -> dict[str, LoraLayer]:
    """The layers of a LoRA file by the full name of their module in diffusers' UNet.

    Args:
        path: in peft's (`lora_A`), diffusers' (`lora.down`) or kohya's (`lora_unet_...lora_down`) key format.

    Raises:
        ModelError: damaged, of a kind other than LoRA, or a layer that is not one of a UNet by diffusers'
            names.
        NumericsError: a value is NaN or infinite.
    """
    check_lora_file(path)
    layers: dict[str, LoraLayer] = {}
    strange = []
    for stem, down, up, alpha in stored_pairs(path):
        module = _module_of(stem)
        if module is None or module in layers:
            strange.append(stem)
            continue
        layers[module] = LoraLayer(down, up, alpha)
    if strange:
        raise ModelError(
            "this LoRA has layers outside the UNet, or names that are not those of diffusers' UNet",
            where=path,
            got=f"{len(strange)} of {len(strange) + len(layers)} layers: {', '.join(sorted(strange)[:3])}",
            expected="names such as unet.mid_block... or lora_unet_mid_block_...",
        )
    check_finite(layers, path)
    return dict(sorted(layers.items()))


def check_finite(layers: Mapping[str, LoraLayer], path: Path) -> None:
    """Refuse layers with a value that is none.

    Raises:
        NumericsError: NaN or infinite; names the layer.
    """
    for name, layer in layers.items():
        if not (layer.down.isfinite().all() and layer.up.isfinite().all()):
            raise NumericsError("a weight is NaN or infinite", where=f"{path}: {name}", got=layer.down.dtype)


def cast(layers: Mapping[str, LoraLayer], dtype: torch.dtype | None) -> dict[str, LoraLayer]:
    """The same in another dtype; None keeps each tensor's own."""
    if dtype is None:
        return dict(layers)
    return {
        name: replace(layer, down=layer.down.to(dtype), up=layer.up.to(dtype))
        for name, layer in layers.items()
    }


def to_diffusers(layers: Mapping[str, LoraLayer]) -> dict[str, Tensor]:
    """Tensors of a file for diffusers' `load_lora_weights`; the alphas go to `adapter_config`."""
    tensors = {}
    for name, layer in layers.items():
        tensors[f"unet.{name}.lora_A.weight"] = layer.down.contiguous()
        tensors[f"unet.{name}.lora_B.weight"] = layer.up.contiguous()
    return tensors


def adapter_config(layers: Mapping[str, LoraLayer]) -> dict[str, Any]:
    """Peft's config of the layers under diffusers' prefix: values that older versions know too."""
    ranks = {name: layer.rank for name, layer in layers.items()}
    alphas = {name: layer.alpha for name, layer in layers.items()}
    rank, alpha = _usual(ranks), _usual(alphas)
    config = {"r": rank, "lora_alpha": alpha, "target_modules": sorted(layers)}
    odd_ranks = {name: value for name, value in ranks.items() if value != rank}
    odd_alphas = {name: value for name, value in alphas.items() if value != alpha}
    config |= {"rank_pattern": odd_ranks} if odd_ranks else {}
    config |= {"alpha_pattern": odd_alphas} if odd_alphas else {}
    return {f"unet.{key}": value for key, value in config.items()}


def to_kohya(layers: Mapping[str, LoraLayer]) -> dict[str, Tensor]:
    """Tensors of a file in kohya's format, each layer with its alpha."""
    tensors = {}
    for name, layer in layers.items():
        stem = kohya_name(name)
        tensors[f"{stem}.alpha"] = torch.tensor(float(layer.alpha))  # peft's config may have an int
        tensors[f"{stem}.lora_down.weight"] = layer.down.contiguous()
        tensors[f"{stem}.lora_up.weight"] = layer.up.contiguous()
    return tensors


def _module_of(stem: str) -> str | None:
    if stem.startswith(PREFIX):
        return module_name(stem)
    name = plain_name(stem).replace(".processor.", ".")
    if not name.startswith("unet."):
        return None
    name = name.removeprefix("unet.")
    return f"{name}.0" if name.endswith(".to_out") else name  # diffusers' oldest spelling


def _usual(values: Mapping[str, float]) -> float:
    """The most frequent value, the largest of several, as an int where it is one."""
    counted = list(values.values())
    value = max(sorted(set(counted), reverse=True), key=counted.count)
    return int(value) if value == int(value) else value
