"""Style distances against their formula in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stdcli.teacher.style_losses import (
    STYLE_LAYERS,
    StyleStatistics,
    content_distance,
    style_distance,
    style_statistics,
)
from stdcli.teacher.vgg import VggFeatures


@pytest.fixture(scope="module")
def network() -> VggFeatures:
    network = VggFeatures(STYLE_LAYERS[-1])
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        spread = 1.4 / parameter[0].numel() ** 0.5 if parameter.ndim == 4 else 0.1
        parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    return network


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 24, 16, generator=torch.Generator().manual_seed(seed))


def formula(ours: list[np.ndarray], theirs: list[np.ndarray]) -> list[tuple[float, float]]:
    """The two terms of each layer, of features [C, h, w]."""
    terms = []
    for x, s in zip(ours, theirs, strict=True):
        x, s = (f.reshape(len(f), -1).astype(np.float64) for f in (x, s))
        gram_x, gram_s = (f @ f.T / f.shape[1] for f in (x, s))
        texture = ((gram_x - gram_s) ** 2).sum() / (gram_s**2).sum()
        moved = ((x.mean(1) - s.mean(1)) ** 2).sum() + ((x.std(1) - s.std(1)) ** 2).sum()
        terms.append((texture, moved / ((s.mean(1) ** 2).sum() + (s.std(1) ** 2).sum())))
    return terms


def test_style_distance_is_its_formula(network: VggFeatures) -> None:
    x, s = pictures(1), pictures(2) ** 2
    ours, theirs = style_statistics(network, x), style_statistics(network, s)
    plain, balanced = style_distance(ours, theirs), style_distance(ours, theirs, balanced=True)
    for row in range(2):
        features = [[f[row].numpy() for f in network(picture, STYLE_LAYERS)] for picture in (x, s)]
        terms = formula(*features)
        assert plain[row].item() == pytest.approx(np.mean([a + b for a, b in terms]), rel=1e-3)
        roots = np.mean([a**0.5 + b**0.5 for a, b in terms])
        assert balanced[row].item() == pytest.approx(roots, rel=1e-2)


def test_deviations_are_of_all_cells(network: VggFeatures) -> None:
    found = style_statistics(network, pictures(1))
    features = network(pictures(1), STYLE_LAYERS)[-1].flatten(2).numpy().astype(np.float64)
    assert features.shape[2] == 6  # so few that dividing by one less would show
    assert np.allclose(found.deviations[-1].numpy(), features.std(2), rtol=1e-2, atol=2e-3)
    assert features.std(2).max() > 0.1


def test_equal_statistics_have_no_distance_wherever_things_are(network: VggFeatures) -> None:
    one, other = (style_statistics(network, pictures(seed)) for seed in (1, 3))
    assert style_distance(one, one).max() == 0
    assert style_distance(one, other).min() > 1e-3
    swapped = one.rows(torch.tensor([1, 0]))
    assert torch.equal(swapped.grams[2][0], one.grams[2][1])
    assert torch.equal(swapped.moments()[0], one.moments()[1])
    assert style_distance(one, swapped).min() > 1e-4


def test_moments_are_logarithms_of_means_and_deviations() -> None:
    means, deviations = torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 0.0]])
    found = StyleStatistics((torch.zeros(1, 2, 2),), (means,), (deviations,)).moments()
    assert torch.allclose(found, torch.tensor([[0.0, 1.0, 3.0, 0.0]]).log1p())


def test_content_distance_is_relative() -> None:
    theirs = torch.tensor([2.0, 4.0]).view(2, 1, 1, 1).expand(2, 3, 4, 5)
    assert torch.allclose(content_distance(theirs * 1.5, theirs), torch.tensor([0.25, 0.25]))
