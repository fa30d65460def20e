"""SSIM and edge correlation against closed forms, scikit-image and numpy."""

import numpy as np
import pytest

from stdcli.metrics import edges, ssim
from stdcli.metrics.luminance import luma
from stdcli.metrics.metric import NotMeasurable, Subject
from tests.tiny_subjects import NoBackbones, flat, noise, smooth

metrics = pytest.importorskip("skimage.metrics")


def measured(metric, result, content) -> float:
    clip = [picture if picture.ndim == 4 else picture[None] for picture in (result, content)]
    return metric.measure(Subject(clip[0], content=clip[1]), NoBackbones())


def gradient(rgb: np.ndarray) -> np.ndarray:
    """By convolution with a kernel that is written out, borders continued."""
    y = rgb @ np.array([0.299, 0.587, 0.114])
    kernel = np.exp(-(np.arange(-6, 7) ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    for _ in range(2):
        padded = np.pad(y, ((6, 6), (0, 0)), "edge")
        y = sum(weight * padded[i : i + len(y)] for i, weight in enumerate(kernel)).T
    return np.hypot(*np.gradient(y))


def test_luma_of_the_primaries():
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
    np.testing.assert_allclose(luma(colors), [76.245, 149.685, 29.07, 255], rtol=1e-12)


@pytest.mark.parametrize("metric", [edges, ssim], ids=["edges", "ssim"])
def test_a_picture_keeps_its_own_content(metric):
    assert measured(metric, noise(0), noise(0)) == pytest.approx(1, abs=1e-12)


def test_ssim_of_flat_pictures_is_that_of_their_means():
    c1 = (0.01 * 255) ** 2
    expected = (2 * 60 * 110 + c1) / (60**2 + 110**2 + c1)
    assert measured(ssim, flat(60), flat(110)) == pytest.approx(expected, rel=1e-6)


def test_ssim_is_that_of_scikit_image():
    one, other = smooth(0), np.clip(smooth(0) * 0.7 + noise(1) * 0.3, 0, 255).astype(np.uint8)
    gray = [rgb @ np.array([0.299, 0.587, 0.114]) for rgb in (one, other)]
    expected = metrics.structural_similarity(
        *gray, win_size=11, sigma=1.5, gaussian_weights=True, use_sample_covariance=False, data_range=255
    )
    assert 0.2 < expected < 0.95
    assert measured(ssim, other, one) == pytest.approx(expected, rel=1e-9)


def test_ssim_of_a_clip_is_the_mean_of_its_frames():
    clip, content = np.stack([noise(0), smooth(1)]), np.stack([smooth(0), smooth(1)])
    expected = (measured(ssim, noise(0), smooth(0)) + 1) / 2
    assert measured(ssim, clip, content) == pytest.approx(expected, rel=1e-9)


def test_a_tiny_picture_has_no_ssim():
    with pytest.raises(NotMeasurable, match="11 px"):
        measured(ssim, noise(0, 10, 30), noise(1, 10, 30))


def test_edges_recomputed():
    one, other = smooth(0), np.clip(smooth(0) * 0.5 + smooth(1) * 0.5, 0, 255).astype(np.uint8)
    expected = np.corrcoef(gradient(one).ravel(), gradient(other).ravel())[0, 1]
    assert 0.1 < expected < 0.9
    assert measured(edges, one, other) == pytest.approx(expected, abs=1e-4)


def test_a_negative_of_half_the_contrast_has_the_same_edges():
    content = smooth(0) // 2 * 2
    assert measured(edges, 200 - content // 2, content) == pytest.approx(1, abs=1e-9)


def test_edges_of_another_picture_are_elsewhere():
    assert abs(measured(edges, smooth(0), smooth(5))) < 0.3


def test_flat_results_have_no_edge_in_common_and_flat_contents_none_at_all():
    assert measured(edges, flat(90), smooth(0)) == 0
    with pytest.raises(NotMeasurable, match="no edges"):
        measured(edges, smooth(0), flat(90))


def test_flat_frames_of_the_content_do_not_count():
    clip, content = np.stack([smooth(0), smooth(1)]), np.stack([flat(0), smooth(2)])
    assert measured(edges, clip, content) == pytest.approx(measured(edges, smooth(1), smooth(2)), rel=1e-9)
