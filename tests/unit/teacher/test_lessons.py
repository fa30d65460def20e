"""What batches of lessons hold."""

from __future__ import annotations

import pytest
import torch

from stdcli.teacher.lessons import Lesson, Lessons
from stdcli.teacher.paintings import Paintings
from tests.tiny_pictures import noise_set

ART = noise_set(3, seed=1)


def make_lessons(art_share: float, *, rows: dict[str, int] | None = None) -> Lessons:
    generator = torch.Generator().manual_seed(0)
    photos = torch.randint(0, 128, (4, 3, 256, 256), dtype=torch.uint8, generator=generator)
    styles = torch.stack([torch.full((3, 256, 256), 40 * k, dtype=torch.uint8) for k in range(2)])
    paintings = Paintings(photos, photos + 100, torch.tensor([0, 1, 1, 0]), styles, ("s0.png", "noise-1.png"))
    return Lessons(paintings, ART, art_share, crop_px=32, style_px=48, rows=rows or {}, seed=3)


def batches(lessons: Lessons, count: int = 12) -> list[Lesson]:
    return [lessons.batch(step, 8) for step in range(count)]


def test_shapes_and_ranges() -> None:
    lesson = make_lessons(0.5).batch(0, 8)
    assert lesson.shown.shape == lesson.targets.shape == (8, 3, 32, 32)
    assert lesson.styles.shape == (4, 3, 48, 48) and lesson.style_of.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert lesson.shown.min() >= 0 and lesson.targets.max() <= 1


def test_a_batch_depends_on_seed_and_number_alone() -> None:
    one, again, other = make_lessons(0.5), make_lessons(0.5), make_lessons(0.5)
    other.batch(0, 8)
    first, second, third = one.batch(5, 8), again.batch(5, 8), other.batch(6, 8)
    assert torch.equal(first.targets, second.targets) and torch.equal(first.styles, second.styles)
    assert not torch.equal(first.targets, third.targets)


def test_paintings_are_cut_where_their_photos_are_and_amounts_mix_them() -> None:
    """Photo and painting differ by 100/255 all over; of that there is as much as the amount says."""
    for lesson in batches(make_lessons(0.0)):
        difference = (lesson.targets - lesson.shown).mean((1, 2, 3))
        assert torch.allclose(difference, lesson.amounts * 100 / 255, atol=0.02)
    sharp = [
        (lesson.targets[k] - lesson.shown[k]).std().item() < 1e-4
        for lesson in batches(make_lessons(0.0))
        for k in range(8)
    ]
    assert 0.3 < sum(sharp) / len(sharp) < 0.8  # half of the photos are shown as they are


def test_amounts_are_all_some_or_none() -> None:
    amounts = torch.cat([lesson.amounts for lesson in batches(make_lessons(0.0), 60)])
    assert 0.04 < (amounts == 0).float().mean() < 0.17
    assert 0.65 < (amounts == 1).float().mean() < 0.85
    assert (amounts[(amounts > 0) & (amounts < 1)] - 0.5).abs().mean() > 0.1


def test_artworks_are_shown_without_their_detail() -> None:
    found = batches(make_lessons(1.0), 4)
    shown = torch.cat([lesson.shown for lesson in found])
    whole = torch.cat([lesson.targets[lesson.amounts == 1] for lesson in found])
    assert shown.std() < 0.8 * whole.std()  # of independent pixels little is left
    assert abs(shown.mean() - whole.mean()) < 0.02
    assert whole.std().item() == pytest.approx(12**-0.5, rel=0.03)  # the artwork itself, uniform noise
    for lesson in found:
        none = lesson.amounts == 0
        assert torch.equal(lesson.targets[none], lesson.shown[none])


def test_sources_are_rows_of_what_is_known() -> None:
    rows = {"noise-1.png": 7}
    for lesson in batches(make_lessons(0.0, rows=rows)):
        for picture, source in zip(lesson.styles, lesson.sources, strict=True):
            assert source.item() == (7 if picture.mean() > 0.1 else -1)  # style 1 is noise-1.png
    sources = torch.cat([lesson.sources for lesson in batches(make_lessons(1.0, rows=rows))])
    assert set(sources.tolist()) == {-1, 7}
