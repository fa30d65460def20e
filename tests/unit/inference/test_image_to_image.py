"""What a stylizer starts from: one map of colours or statistics for all frames of a clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from stdcli.config.schema import StylizeConfig
from stdcli.diffusion.colors import color_statistics, match_colors, pool_colors
from stdcli.diffusion.noise import make_noise
from stdcli.diffusion.statistics import channel_statistics, match_statistics, pool_statistics
from stdcli.inference.image_to_image import FRAME_ID, ImageToImage
from stdcli.inference.session import StyleSession
from stdcli.inference.settings import resolve_sampling
from stdcli.media.image import Picture
from stdcli.models.denoiser import Denoiser
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from stdcli.reporter import LogReporter
from tests.tiny_models import save_tiny_embedded

PIXELS = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 1.4 - 0.9
STYLE = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(3))
STYLE *= torch.tensor([1.0, 0.5, 0.2]).view(3, 1, 1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_model(ModelSpec(str(save_tiny_embedded(tmp_path_factory.mktemp("model")))))


@pytest.fixture
def start(bundle, monkeypatch):
    """(statistics of style and content) -> the clean latents of the first call."""
    states = []
    original = Denoiser.__call__

    def kept(self, x, t, condition):
        states.append(x.clone())
        return original(self, x, t, condition)

    monkeypatch.setattr(Denoiser, "__call__", kept)
    settings = resolve_sampling(
        StylizeConfig(steps=1, strength=0.6, guidance=1.0), bundle.network.recipe, bundle.network.schedule
    )
    level = settings.plan.levels[0]
    picture = np.zeros((32, 32, 3), np.uint8)
    condition, _ = bundle.condition(styles=[Image.fromarray(picture)], size_px=(32, 48), guidance=1.0)

    def run(style, content=None, pixels=PIXELS, mask=None):
        states.clear()
        result = ImageToImage(bundle, settings, condition, None, style, 0, content)(pixels, mask)
        assert result.shape == pixels.shape
        noise = make_noise((1, *states[0].shape[1:]), 0, FRAME_ID)
        return (states[0] - level.sigma * noise) / level.alpha

    return run


def unit(pixels: torch.Tensor) -> torch.Tensor:
    return pixels / 2 + 0.5


@torch.no_grad()
def latents(bundle, pixels: torch.Tensor) -> torch.Tensor:
    return bundle.codec.encode(pixels)


def test_colors_of_a_clip_are_moved_by_one_map(bundle, start):
    style, content = color_statistics(STYLE), pool_colors([color_statistics(unit(PIXELS))])
    wanted = match_colors(unit(PIXELS), style, content=content) * 2 - 1
    torch.testing.assert_close(start(style, content), latents(bundle, wanted), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        start(style, content, pixels=PIXELS[1:]), latents(bundle, wanted)[1:], rtol=0, atol=1e-4
    )
    other = pool_colors([color_statistics(unit(PIXELS) / 3)])
    assert (start(style, other) - latents(bundle, wanted)).abs().max() > 0.1


def test_statistics_of_a_clip_are_moved_by_one_map(bundle, start):
    style = channel_statistics(latents(bundle, STYLE * 2 - 1))
    content = pool_statistics([channel_statistics(latents(bundle, PIXELS / 2))])
    wanted = match_statistics(latents(bundle, PIXELS), style, content=content)
    torch.testing.assert_close(start(style, content), wanted, rtol=0, atol=1e-4)
    assert (start(style) - wanted).abs().max() > 0.1


def test_what_is_known_is_the_picture_itself_and_not_its_recolored_self(bundle, start):
    style, cells = color_statistics(STYLE), torch.zeros(1, 1, 4, 6)
    cells[..., 2:] = 1
    mask = cells.repeat_interleave(8, -1).repeat_interleave(8, -2).expand(2, 1, 32, 48)
    recolored = latents(bundle, match_colors(unit(PIXELS), style) * 2 - 1)
    wanted = torch.where(cells > 0, recolored, latents(bundle, PIXELS))
    torch.testing.assert_close(start(style, mask=mask), wanted, rtol=0, atol=1e-4)
    assert (wanted - recolored).abs().max() > 0.1


def test_every_step_is_told_before_it_is_taken(bundle):
    """Guided, so that an evaluation is two forwards: steps are counted, not forwards."""
    config = StylizeConfig(steps=2, strength=0.6, guidance=2.0)
    told: list[str] = []
    style = Picture(np.zeros((32, 32, 3), np.uint8))
    settings = resolve_sampling(config, bundle.network.recipe, bundle.network.schedule)
    session = StyleSession(bundle, config, settings, [style], LogReporter())
    frames = np.zeros((1, 32, 32, 3), np.uint8)
    quiet = session.stylize(frames)
    assert np.array_equal(session.telling(told.append).stylize(frames), quiet)
    assert told == ["encoding", "step 1 of 2", "step 2 of 2", "decoding"]


def test_what_comes_up_about_the_model_is_said_once(bundle):
    config = StylizeConfig(steps=1, strength=0.6)
    told: list[str] = []
    reporter = LogReporter()
    reporter.warning = told.append
    settings = resolve_sampling(config, bundle.network.recipe, bundle.network.schedule)
    picture = Picture(np.zeros((32, 32, 3), np.uint8))
    session = StyleSession(bundle, config, settings, [picture], reporter)
    frames = np.zeros((1, 32, 32, 3), np.uint8)
    bundle.network.notes.append("coded in tiles")
    session.stylize(frames)
    session.in_style_of(picture.rgb).stylize(frames)
    assert told == ["coded in tiles"]
