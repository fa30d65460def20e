"""Where pairs come from, and that batch n is always batch n."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stdcli.console import Console
from stdcli.teacher.data import load_data
from stdcli.teacher.pairs import PairSampler, prefetched
from tests.tiny_pictures import flat_set, noise_set, write_flat

PHOTO_COLORS = torch.tensor([[i, 0, 0] for i in range(7)], dtype=torch.uint8)
ART_COLORS = torch.tensor([[100 + i, 0, 0] for i in range(5)], dtype=torch.uint8)


def sampler(**changes: object) -> PairSampler:
    base = PairSampler(
        content=noise_set(2, seed=1),
        art=noise_set(3, seed=2),
        photo_px=32,
        style_px=16,
        art_share=0.5,
        repeat_after=0,
        seed=0,
    )
    return replace(base, **changes)


def reds(pictures: torch.Tensor) -> list[int]:
    """Red channel of pictures that have one colour each, in 1/255."""
    assert (pictures.amax((2, 3)) - pictures.amin((2, 3))).max() < 1e-6
    return (pictures[:, 0, 0, 0] * 255).round().int().tolist()


def test_a_batch_depends_on_the_seed_and_its_number_alone() -> None:
    first, second = sampler(), sampler()
    for step in (3, 1, 2):
        second.batch(step, 6)
    ours, theirs = first.batch(7, 6), second.batch(7, 6)
    assert torch.equal(ours.photos, theirs.photos)
    assert torch.equal(ours.styles, theirs.styles)
    assert not torch.equal(ours.photos, first.batch(8, 6).photos)
    assert not torch.equal(ours.photos, sampler(seed=1).batch(7, 6).photos)


def test_batches_come_again_where_they_should() -> None:
    endless, repeating = sampler(), sampler(repeat_after=3)
    assert not endless.repeats and repeating.repeats
    assert [endless.batch(step, 1).number for step in (0, 2, 3, 7)] == [0, 2, 3, 7]
    assert [repeating.batch(step, 1).number for step in (0, 2, 3, 7)] == [0, 2, 0, 1]
    for step, number in ((2, 2), (3, 0), (7, 1)):
        assert torch.equal(repeating.batch(step, 4).photos, endless.batch(number, 4).photos)
        assert torch.equal(repeating.batch(step, 4).styles, endless.batch(number, 4).styles)
    with prefetched(repeating, threads=2) as ahead:
        assert ahead.repeats
        assert torch.equal(ahead.batch(4, 4).photos, endless.batch(1, 4).photos)


def test_shapes_and_range() -> None:
    batch = sampler().batch(0, 4)
    assert batch.photos.shape == (4, 3, 32, 32) and batch.styles.shape == (4, 3, 16, 16)
    for pictures in (batch.photos, batch.styles):
        assert pictures.dtype == torch.float32
        assert 0 <= pictures.min() < 0.1 and 0.9 < pictures.max() <= 1


@pytest.mark.parametrize("threads", [0, 3])
def test_threads_draw_the_same_batches(threads: int) -> None:
    plain = sampler()
    with prefetched(plain, threads=threads) as ahead:
        for step in (0, 1, 2, 5):
            drawn, wanted = ahead.batch(step, 4), plain.batch(step, 4)
            assert torch.equal(drawn.photos, wanted.photos)
            assert torch.equal(drawn.styles, wanted.styles)


def test_an_error_in_a_thread_reaches_the_trainer() -> None:
    broken = sampler(art=noise_set(0, seed=0))
    with prefetched(broken, threads=1) as ahead, pytest.raises(RuntimeError):
        ahead.batch(0, 1)


def test_styles_are_artworks_and_photos_mostly_photos() -> None:
    count = 2000
    flat = sampler(content=flat_set(PHOTO_COLORS), art=flat_set(ART_COLORS), photo_px=8, style_px=8)
    batch = replace(flat, art_share=0.2).batch(0, count)
    styles, photos = reds(batch.styles), reds(batch.photos)
    assert set(styles) == set(range(100, 105))
    assert set(photos) == set(range(7)) | set(range(100, 105))
    share = sum(red >= 100 for red in photos) / count
    assert share == pytest.approx(0.2, abs=4 * (0.16 / count) ** 0.5)


def test_photo_and_style_are_drawn_independently() -> None:
    """Each of the 35 pairs of a photo and an artwork comes up about equally often."""
    count = 3500
    flat = sampler(content=flat_set(PHOTO_COLORS), art=flat_set(ART_COLORS), photo_px=8, style_px=8)
    batch = replace(flat, art_share=0.0).batch(1, count)
    index = torch.tensor(reds(batch.photos)) * 5 + torch.tensor(reds(batch.styles)) - 100
    counts = torch.bincount(index, minlength=35).double()
    assert ((counts - 100) ** 2 / 100).sum() < 65.2  # chi squared, 34 degrees, p = 0.001


def test_no_held_out_picture_is_ever_trained_on(tmp_path: Path) -> None:
    """Held-out pictures are red; nothing red may turn up among photos or styles."""
    for kind in ("content", "style"):
        write_flat(tmp_path / kind, train=(0, 0, 200), held_out=(200, 0, 0))
    data = load_data(tmp_path / "content", tmp_path / "style", console=Console("quiet"))
    assert len(data.held_content) == len(data.held_art) == 2
    batch = sampler(content=data.content, art=data.art).batch(0, 64)
    for pictures in (batch.photos, batch.styles):
        assert (pictures[:, 0] == 0).all()
