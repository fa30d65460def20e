"""A student's LoRA as one pair of matrices per UNet layer; refused is what an export or a start cannot hold.

Knows no models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stdcli.errors import ModelError, NumericsError
from stdcli.models.lora.reading import LoraFile, LoraLayer, read_lora
from stdcli.models.weights import is_finite

UNET = "unet"


def read_layers(path: Path) -> dict[str, LoraLayer]:
    """The layers of a LoRA file by the full name of their module in diffusers' UNet.

    Args:
        path: in any format of `read_lora`.

    Raises:
        ModelError: damaged, of a kind other than LoRA, or as `unet_layers`.
        NumericsError: a value is NaN or infinite.
    """
    layers = unet_layers(read_lora(path))
    check_finite(layers, path)
    return layers


def unet_layers(lora: LoraFile) -> dict[str, LoraLayer]:
    """The same of a file that was read.

    Raises:
        ModelError: it has layers outside a UNet, or changes that are no layers.
    """
    outside = [lora.spelled[key] for key in lora.layers if key[0] != UNET]
    strange = sorted([*outside, *lora.unplaced])
    total = len(lora.layers) + len(lora.unplaced)
    if strange:
        alone = len(outside) == total
        raise ModelError(
            "this is a LoRA of text encoders alone: it changes no UNet"
            if alone
            else "this LoRA has layers outside the UNet, or names that are not those of its layers",
            where=lora.path,
            got=f"{len(strange)} of {total} layers: {', '.join(strange[:3])}",
            expected="names such as unet.mid_block... or lora_unet_mid_block_...",
        )
    if lora.differences:
        names = [lora.spelled[key] for key in lora.differences]
        raise ModelError(
            "this LoRA also changes biases or whole weights, which an export does not hold",
            where=lora.path,
            got=f"{len(names)} of them: {', '.join(names[:3])}",
            hint="it can be used as it is: stylize --lora",
        )
    return {key[1]: layer for key, layer in lora.layers.items()}


def check_finite(layers: Mapping[str, LoraLayer], path: Path) -> None:
    """Refuse layers with a value that is none.

    Raises:
        NumericsError: NaN or infinite; names the layer.
    """
    for name, layer in layers.items():
        if not (is_finite(layer.down) and is_finite(layer.up)):
            raise NumericsError("a weight is NaN or infinite", where=f"{path}: {name}", got=layer.down.dtype)
