"""Where pairs come from, and that batch n is always batch n."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stdcli.console import Console
from stdcli.teacher.data import load_data
from stdcli.teacher.pairs import PairSampler, Repaints, build_repaints, prefetched
from tests.tiny_pictures import flat_set, noise_set, write_flat

COLOURS = torch.tensor([[10 * i, 250 - 10 * i, 120] for i in range(6)], dtype=torch.uint8)
NATIVE, PROCEDURAL, TRANSFER = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def sampler(weights: tuple[float, float, float] = (0.35, 0.25, 0.4), **changes: object) -> PairSampler:
    rng = torch.Generator().manual_seed(0)
    repaints = Repaints(
        pictures=torch.randint(0, 256, (5, 3, 48, 48), dtype=torch.uint8, generator=rng),
        photos=torch.randint(0, 256, (5, 3, 48, 48), dtype=torch.uint8, generator=rng),
        art_index=torch.tensor([0, 1, 2, 3, 5]),
        size_idx=torch.tensor([0, 1, 2, 0, 1]),
    )
    base = PairSampler(noise_set(2, seed=1), flat_set(COLOURS), repaints, 32, weights, 0)
    return replace(base, **changes)


def colours_of(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 3] of pictures that have one colour each."""
    assert (pictures.amax((2, 3)) - pictures.amin((2, 3))).max() < 1e-6
    return ((pictures[:, :, 0, 0] + 1) * 127.5).round().to(torch.uint8)


def test_a_batch_depends_on_the_seed_and_its_number_alone() -> None:
    first, second = sampler(), sampler()
    for step in (3, 1, 2):
        second.batch(step, 6)
    ours, theirs = first.batch(7, 6), second.batch(7, 6)
    assert torch.equal(ours.pictures, theirs.pictures)
    assert torch.equal(ours.styles, theirs.styles)
    assert not torch.equal(ours.pictures, first.batch(8, 6).pictures)
    assert not torch.equal(ours.pictures, sampler(seed=1).batch(7, 6).pictures)


def test_threads_draw_the_same_batches() -> None:
    plain = sampler()
    with prefetched(plain, threads=3) as ahead:
        for step in (0, 1, 2, 5):
            drawn, wanted = ahead.batch(step, 4), plain.batch(step, 4)
            assert torch.equal(drawn.pictures, wanted.pictures)
            assert torch.equal(drawn.styles, wanted.styles)
            assert torch.equal(drawn.is_native, wanted.is_native)


def test_an_error_in_a_thread_reaches_the_trainer() -> None:
    broken = sampler(TRANSFER, repaints=Repaints(*(torch.empty(0) for _ in range(4))))
    with prefetched(broken, threads=1) as ahead, pytest.raises(RuntimeError):
        ahead.batch(0, 1)


def test_native_pairs_are_crops_of_one_artwork() -> None:
    batch = sampler(NATIVE).batch(0, 24)
    assert torch.equal(colours_of(batch.pictures), colours_of(batch.styles))
    assert len(colours_of(batch.pictures).unique(dim=0)) > 3
    assert batch.is_native.all()
    known = {tuple(colour) for colour in COLOURS.tolist()}
    assert {tuple(colour) for colour in colours_of(batch.pictures).tolist()} <= known


def test_transfer_pairs_show_the_artwork_that_was_used() -> None:
    base = sampler(TRANSFER)
    batch = base.batch(0, 40)
    assert not batch.is_native.any()
    styles = colours_of(batch.styles)
    found = set()
    for picture, style in zip(batch.pictures, styles, strict=True):
        crop = ((picture + 1) * 127.5).round().to(torch.uint8)
        item = next(i for i, whole in enumerate(base.repaints.pictures) if _contains(whole, crop))
        assert style.tolist() == COLOURS[base.repaints.art_index[item]].tolist()
        found.add(item)
    assert len(found) == 5


def _contains(whole: torch.Tensor, crop: torch.Tensor) -> bool:
    """Whether a 32-pixel crop, or its mirror image, is a piece of a 48-pixel picture."""
    windows = whole.unfold(1, 32, 1).unfold(2, 32, 1)[0]  # red channel: [17, 17, 32, 32]
    return any(bool((windows == image[0]).all((2, 3)).any()) for image in (crop, crop.flip(-1)))


def test_procedural_pairs_share_a_style_and_not_a_picture() -> None:
    batch = sampler(PROCEDURAL).batch(0, 6)
    assert not torch.equal(batch.pictures, batch.styles)
    assert batch.pictures.min() >= -1 and batch.pictures.max() <= 1


def test_sources_come_as_often_as_their_weights_say() -> None:
    count = 1000
    batch = sampler((0.7, 0.0, 0.3), crop_px=8).batch(0, count)
    share = batch.is_native.float().mean().item()
    assert share == pytest.approx(0.7, abs=4 * (0.21 / count) ** 0.5)


def test_styles_may_be_smaller_than_pictures() -> None:
    whole, small = sampler(NATIVE).batch(0, 4), sampler(NATIVE, style_crop_px=16).batch(0, 4)
    assert small.pictures.shape == (4, 3, 32, 32)
    assert torch.equal(small.styles, whole.styles[..., :16, :16])


def test_repaints_depend_on_the_seed_and_their_number_alone() -> None:
    content, art = noise_set(2, seed=1), noise_set(3, seed=2)
    few = build_repaints(content, art, count=2, side_px=16, seed=4)
    more = build_repaints(content, art, count=3, side_px=16, seed=4)
    assert torch.equal(more.pictures[:2], few.pictures)
    assert torch.equal(more.art_index[:2], few.art_index)
    assert torch.equal(more.size_idx[:2], few.size_idx)
    assert len(more) == 3


def test_repaints_have_the_colours_of_their_artwork() -> None:
    repaints = build_repaints(noise_set(2, seed=1), flat_set(COLOURS), count=4, side_px=16, seed=0)
    for picture, index in zip(repaints.pictures, repaints.art_index, strict=True):
        assert (picture.int() - COLOURS[index].view(3, 1, 1).int()).abs().max() <= 1


@pytest.mark.parametrize("weights", [NATIVE, TRANSFER], ids=["native", "transfer"])
def test_no_held_out_picture_is_ever_trained_on(tmp_path: Path, weights: tuple[float, float, float]) -> None:
    """Held-out pictures are red; nothing red may turn up among pictures, styles or repaints."""
    for kind in ("content", "style"):
        write_flat(tmp_path / kind, train=(0, 0, 200), held_out=(200, 0, 0))
    data = load_data(tmp_path / "content", tmp_path / "style", console=Console("quiet"))
    assert len(data.held_content) == len(data.held_art) == 2
    repaints = build_repaints(data.content, data.art, count=20, side_px=16, seed=0)
    batch = PairSampler(data.content, data.art, repaints, 16, weights, 0).batch(0, 64)
    for pictures in (batch.pictures, batch.styles):
        assert (pictures[:, 0] == -1).all()
