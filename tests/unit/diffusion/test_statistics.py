"""AdaIN of latents."""

import numpy as np
import pytest
import torch

from stdcli.diffusion.statistics import (
    Statistics,
    channel_statistics,
    match_statistics,
    mix_statistics,
    pool_statistics,
)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_statistics_are_numpys():
    z = draw(2, 3, 4, 5)
    statistics = channel_statistics(z)
    np.testing.assert_allclose(statistics.mean[..., 0, 0], z.numpy().mean((2, 3)), rtol=1e-12)
    np.testing.assert_allclose(statistics.std[..., 0, 0], z.numpy().std((2, 3)), rtol=1e-12)


def test_statistics_of_clips_are_over_frames_too():
    z = draw(2, 3, 4, 5, 2) * torch.arange(1, 5)[:, None, None] + torch.arange(4)[:, None, None]
    statistics = channel_statistics(z)
    assert statistics.mean.shape == statistics.std.shape == (2, 3, 1, 1, 1)
    np.testing.assert_allclose(statistics.mean.flatten(1), z.numpy().mean((2, 3, 4)), rtol=1e-12)
    np.testing.assert_allclose(statistics.std.flatten(1), z.numpy().std((2, 3, 4)), rtol=1e-12)
    style = 3 * draw(1, 3, 2, 5, 5, seed=1) + 2
    matched = channel_statistics(match_statistics(z, style))
    torch.testing.assert_close(matched.mean, channel_statistics(style).mean.expand(2, -1, -1, -1, -1))
    torch.testing.assert_close(matched.std, channel_statistics(style).std.expand(2, -1, -1, -1, -1))
    pooled = pool_statistics([channel_statistics(z)])
    np.testing.assert_allclose(pooled.std.flatten(), z.numpy().std((0, 2, 3, 4)), rtol=1e-12)


def test_matched_latents_have_the_styles_statistics_and_the_contents_layout():
    z, style = draw(2, 3, 8, 6), 3 * draw(1, 3, 5, 5, seed=1) + 2
    matched = match_statistics(z, style)
    for index in range(2):
        np.testing.assert_allclose(matched[index].mean((1, 2)), style[0].mean((1, 2)), rtol=1e-12)
        np.testing.assert_allclose(
            matched[index].numpy().std((1, 2)), style[0].numpy().std((1, 2)), rtol=1e-12
        )
    correlation = np.corrcoef(matched[1, 2].flatten(), z[1, 2].flatten())[0, 1]
    assert correlation == pytest.approx(1, abs=1e-12)


def test_matching_to_itself_changes_nothing():
    z = draw(2, 3, 8, 8)
    torch.testing.assert_close(match_statistics(z, z), z, rtol=0, atol=1e-12)
    assert match_statistics(z.half(), z).dtype == torch.float16


def test_a_flat_channel_takes_the_styles_mean_and_stays_flat():
    z = torch.full((1, 1, 4, 4), 0.7)
    matched = match_statistics(z, draw(1, 1, 4, 4).float() + 5)
    assert torch.isfinite(matched).all() and matched.std(correction=0).item() < 1e-4
    assert matched.mean().item() == pytest.approx(draw(1, 1, 4, 4).mean().item() + 5, abs=1e-4)


def test_several_styles_are_mixed_by_weight():
    one, two = (
        Statistics(torch.full((1, 2, 1, 1), m), torch.full((1, 2, 1, 1), s))
        for m, s in ((1.0, 2.0), (5.0, 4.0))
    )
    mixed = mix_statistics([one, two], [3, 1])
    assert mixed.mean.flatten().tolist() == [2, 2] and mixed.std.flatten().tolist() == [2.5, 2.5]
    z = draw(1, 2, 6, 6)
    own = channel_statistics(match_statistics(z, mixed))
    assert own.mean.flatten().tolist() == pytest.approx(
        [2, 2]
    ) and own.std.flatten().tolist() == pytest.approx([2.5, 2.5])


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [2.0, -1.0], [float("nan"), 1.0]])
def test_wrong_weights_are_refused(weights):
    style = channel_statistics(draw(1, 2, 4, 4))
    with pytest.raises(ValueError, match="as many weights >= 0, not all 0"):
        mix_statistics([style, style], weights)


def test_pooled_statistics_are_those_of_latents_side_by_side():
    z = torch.cat([draw(1, 3, 4, 5), 2 * draw(1, 3, 4, 5, seed=1) + 3, draw(1, 3, 4, 5, seed=2) - 1])
    pooled = pool_statistics([channel_statistics(z[:2]), channel_statistics(z[2:])])
    together = z.numpy().transpose(1, 0, 2, 3).reshape(3, -1)
    np.testing.assert_allclose(pooled.mean[..., 0, 0], together.mean(1)[None], rtol=1e-12)
    np.testing.assert_allclose(pooled.std[..., 0, 0], together.std(1)[None], rtol=1e-12)
    with pytest.raises(ValueError, match="no statistics"):
        pool_statistics([])


def test_given_content_makes_one_map_for_all_latents():
    z, style = torch.cat([draw(1, 3, 8, 6), 2 * draw(1, 3, 8, 6, seed=1) + 3]), draw(1, 3, 5, 5, seed=2)
    content = pool_statistics([channel_statistics(z)])
    matched = match_statistics(z, style, content=content)
    whole = match_statistics(torch.cat(list(z[:, None]), 3), style)
    torch.testing.assert_close(torch.cat(list(matched[:, None]), 3), whole, rtol=0, atol=1e-12)
    assert (matched - match_statistics(z, style)).abs().mean() > 0.3
