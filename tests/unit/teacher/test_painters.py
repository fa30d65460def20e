"""What the style encoder is taught of artworks."""

from __future__ import annotations

import pytest
import torch

from stdcli.console import Console
from stdcli.teacher import painters
from stdcli.teacher.imitation import principal_statistics
from stdcli.teacher.style_losses import STYLE_LAYERS, style_statistics
from stdcli.teacher.vgg import VggFeatures
from tests.tiny_pictures import noise_set


def test_artworks_are_looked_at_whole_and_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    network = VggFeatures(STYLE_LAYERS[-1])
    for k, parameter in enumerate(network.parameters()):
        generator = torch.Generator().manual_seed(k)
        parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    monkeypatch.setattr(painters, "load_vgg", lambda last: network)
    art = noise_set(3, seed=0)
    found = painters.look_at(art, torch.device("cpu"), Console("quiet"))
    assert found.shape == (3, painters.FORETOLD) and found[:, 3:].abs().max() == 0
    squares = torch.stack([art.square(index, size_idx=1) for index in range(3)])
    expected = principal_statistics(style_statistics(network, squares).moments(), kept=64)
    assert torch.allclose(found[:, :2].abs(), expected[:, :2].abs(), atol=1e-2)
