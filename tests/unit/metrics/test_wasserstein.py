"""The sliced Wasserstein distance against closed forms, sorting, and numpy's quantiles."""

import numpy as np
import pytest

from stdcli.metrics import wasserstein as module
from stdcli.metrics.wasserstein import MAX_POINTS, draw, quantiles, wasserstein


def cloud(seed: int, count: int = 2000, dimensions: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 20, (count, dimensions))


def by_sorting(one: np.ndarray, other: np.ndarray) -> float:
    """Exact on every direction, for clouds of one size."""
    directions = module._directions(one.shape[1])
    apart = [np.abs(np.sort(one @ d) - np.sort(other @ d)).mean() for d in directions]
    return float(np.mean(apart))


@pytest.mark.parametrize("dimensions", [1, 3, 49])
def test_directions_are_64_of_length_1_to_all_sides(dimensions):
    directions = module._directions(dimensions)
    assert directions.shape == (64, dimensions)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-12)
    assert np.linalg.norm(directions.mean(0)) < 0.3


def test_a_cloud_is_not_apart_from_itself_whatever_its_order():
    points = cloud(0)
    assert wasserstein(points, points) == 0
    assert wasserstein(points, np.random.default_rng(1).permutation(points)) < 1e-9


@pytest.mark.parametrize("shift", [(10, 0, 0), (0, -7, 0), (3, 4, -12)])
def test_a_shift_is_as_far_as_its_projections(shift):
    points = cloud(0)
    expected = np.abs(module._directions(3) @ np.array(shift)).mean()
    assert wasserstein(points, points + shift) == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(np.linalg.norm(shift) / 2, rel=0.15)  # E|d.v| on the sphere


def test_on_a_line_it_is_the_area_between_distribution_functions():
    wide = np.linspace(-1, 1, 4001)[:, None]
    assert wasserstein(wide, wide / 2) == pytest.approx(0.25, rel=1e-3)  # of U(-1, 1) and U(-1/2, 1/2)
    one, halves = np.zeros((300, 1)), np.repeat([0.0, 1.0], 256)[:, None]
    assert wasserstein(one, halves) == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize(("count", "tolerance"), [(256, 1e-9), (3000, 0.01)])
def test_the_same_by_sorting(count, tolerance):
    one, other = cloud(2, count), cloud(3, count) * (1.5, 0.5, 1) + (4, 0, 0)
    assert wasserstein(one, other) == pytest.approx(by_sorting(one, other), rel=tolerance)
    assert wasserstein(one, other) == wasserstein(other, one)


@pytest.mark.parametrize("count", [1, 100, 257, 5000])
def test_quantiles_are_those_of_numpy_by_hazen(count):
    points = cloud(4, count)
    expected = np.quantile(
        points @ module._directions(3).T, (np.arange(256) + 0.5) / 256, axis=0, method="hazen"
    )
    np.testing.assert_allclose(quantiles(points), expected.T, rtol=1e-9, atol=1e-9)


def test_a_draw_takes_all_up_to_a_limit_and_then_the_same_ones_evenly():
    np.testing.assert_array_equal(draw(MAX_POINTS), np.arange(MAX_POINTS))
    taken = draw(3 * MAX_POINTS)
    assert len(np.unique(taken)) == len(taken) == MAX_POINTS
    assert taken.max() < 3 * MAX_POINTS
    assert taken.mean() == pytest.approx(1.5 * MAX_POINTS, rel=0.01)
    np.testing.assert_array_equal(taken, draw(3 * MAX_POINTS))


def test_a_drawn_cloud_is_near_the_whole_one():
    many = cloud(5, 2 * MAX_POINTS)
    assert wasserstein(many[draw(len(many))], many) < 0.005 * 20
