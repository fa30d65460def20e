"""The parts of a page: markup, numbers and which is best, labels, heat maps, pictures that are chosen."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from stdcli.evaluate.page.figure import Frame, color_error_map, draw_svg
from stdcli.evaluate.page.gallery import Gallery, find_pairs
from stdcli.evaluate.page.labels import LETTER_PT, LINE_PT, place_labels
from stdcli.evaluate.page.markup import Markup, join, tag
from stdcli.evaluate.page.numbers import Numbers, places
from stdcli.evaluate.page.summary import duration
from stdcli.evaluate.page.table import notes, table
from tests.tiny_reports import make_images, make_report


def numbers(means: list[float | None], *, better: str = "lower", counts: list[int] | None = None) -> Numbers:
    """One metric, a method per mean."""
    report: dict[str, Any] = make_report(("palette",))
    report["metrics"][0]["better"] = better
    report["methods"] = [
        report["methods"][0] | {"id": f"m{index}", "family": f"f{index}"} for index in range(len(means))
    ]
    counts = counts or [3] * len(means)
    report["table"] = [
        {"method": f"m{index}", "metric": "palette", "mean": mean, "sd": 0.1, "count": count}
        for index, (mean, count) in enumerate(zip(means, counts, strict=True))
    ]
    return Numbers(report)


def test_text_is_escaped_and_markup_is_kept() -> None:
    made = tag("p", "<b>&\"'", tag("i", 3), None, title='"><script>', data_key="a", hidden=True, lang=None)
    assert made == (
        '<p title="&quot;&gt;&lt;script&gt;" data-key="a" hidden>&lt;b&gt;&amp;&quot;&#x27;<i>3</i></p>'
    )
    assert tag("img", alt="") == '<img alt="">'
    assert join([Markup("<br>"), "<br>", None], between=" ") == "<br> &lt;br&gt;"


@pytest.mark.parametrize(
    ("means", "better", "best"),
    [
        ([3.0, 1.5, 2.0], "lower", {1}),
        ([3.0, 1.5, 2.0], "higher", {0}),
        ([0.1234, 0.12341, 0.2], "lower", {0, 1}),  # they print the same
        ([0.1234, 0.1239, 0.2], "lower", {0}),
        ([0.1234, 0.2, 0.20004], "higher", {1, 2}),
        ([2.5, 2.5, 2.5], "lower", set()),
        ([2.5], "higher", set()),
        ([-0.5, 0.25], "lower", {0}),
        ([None, 4.5, 3.5], "lower", {2}),
        ([float("nan"), 4.5, 3.5], "higher", {1}),
        ([None, None], "lower", set()),
    ],
)
def test_the_best(means: list[float | None], better: str, best: set[int]) -> None:
    found = numbers(means, better=better)
    assert found.best(found.metrics[0]) == {f"m{index}" for index in best}


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ([0.5, 0.25], 3),
        ([12.34, 1.5], 1),
        ([123.4], 0),
        ([99999.5], 0),
        ([4.0, 30.0], 0),
        ([0.00123], 5),
        ([1e-12], 6),
        ([-3.5], 2),
        ([0.0], 0),
        ([], 0),
    ],
)
def test_the_largest_has_three_digits(values: list[float], count: int) -> None:
    assert places(values) == count


def test_numbers_of_a_metric_have_the_same_decimals_and_a_minus_sign() -> None:
    found = numbers([-0.5, 0.0625])
    assert [found.text(found.metrics[0], value) for value in (-0.5, 0.0625)] == ["\u22120.500", "0.062"]


def test_no_number_says_why() -> None:
    found = numbers([None, 2.5])
    assert table(found).count(">n/a</td>") == 1
    assert "no result has what it needs" not in notes(found)
    assert "no result has what it needs: palette." in notes(numbers([None, None]))


def test_counts_that_differ_are_named() -> None:
    assert "Not the same number of results" not in notes(numbers([1.5, 2.5], counts=[3, 3]))
    assert "Not the same number of results under every method: palette." in notes(
        numbers([1.5, 2.5], counts=[3, 2])
    )


def test_one_title_twice_gets_ids() -> None:
    report = make_report(("palette", "texture"))
    report["metrics"][1]["title"] = "palette"
    found = Numbers(report)
    assert [found.label(metric) for metric in found.metrics] == ["palette (palette)", "palette (texture)"]


def test_groups_come_in_order_and_unknown_ones_last() -> None:
    report = make_report(("ms", "ssim", "palette", "edges"))
    report["metrics"][0]["group"] = "taste"
    ids = [metric["id"] for metric in Numbers(report).metrics]
    assert ids == ["palette", "ssim", "edges", "ms"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (59.97, "1 min 0 s"), (97.4, "1 min 37 s"), (3600, "1 h 0 min"), (7530, "2 h 5 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def boxes(points: list[tuple[float, float]], texts: list[str], area: tuple[float, ...]) -> np.ndarray:
    labels = place_labels(points, texts, area=area)
    found = []
    for (x, y), text, label in zip(points, texts, labels, strict=True):
        width = LETTER_PT * len(text)
        left = x + label.x - {"left": 0, "center": width / 2, "right": width}[label.side]
        found.append((left, y + label.y - LINE_PT / 2, left + width, y + label.y + LINE_PT / 2))
    return np.array(found)


def test_labels_cover_neither_each_other_nor_points_nor_the_edge() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        points = [tuple(map(float, point)) for point in rng.uniform((20, 20), (480, 280), (8, 2))]
        found = boxes(points, ["a label", "student, 4"] * 4, (0, 0, 500, 300))
        assert (found[:, :2] >= 0).all() and (found[:, 2:] <= (500, 300)).all()
        for index, box in enumerate(found):
            others = np.delete(found, index, axis=0)
            apart = (others[:, :2] >= box[2:] - 1e-9) | (others[:, 2:] <= box[:2] + 1e-9)
            assert apart.any(axis=1).all()
            inside = (np.array(points) > box[:2]) & (np.array(points) < box[2:])
            assert not inside.all(axis=1).any()


def test_one_point_has_its_label_to_the_right_and_at_the_edge_to_the_left() -> None:
    assert boxes([(50, 50)], ["abc"], (0, 0, 100, 100))[0, 0] > 50
    assert boxes([(95, 50)], ["abc"], (0, 0, 100, 100))[0, 2] < 95


def test_a_drawing_has_the_pages_colors_and_no_dates() -> None:
    made = draw_svg(lambda axes: axes.set_title("cost in $ < 3$ \u6f22"), name="one", frame=Frame(200, 100))
    assert made.startswith("<svg") and made.endswith("</svg>")
    assert "cost in $ &lt; 3$ \u6f22" in made  # neither mathematics nor a warning
    assert "var(--ink)" in made and "#0e0f" not in made
    assert not re.search(r"http|<style|metadata|20\d\d-", made)


def test_heat_goes_from_black_to_yellow_and_is_gray_where_unknown() -> None:
    colors = color_error_map(np.array([[0.0, 0.1, 0.2, 9.0, np.nan]], np.float32), top=0.2)
    assert colors.dtype == np.uint8 and colors.shape == (1, 5, 3)
    assert colors[0, 0].max() < 10 and colors[0, 2].min() > 150
    assert (colors[0, 2] == colors[0, 3]).all() and (colors[0, 4] == 128).all()
    light = colors[0, :3].astype(int).sum(axis=1)
    assert light[0] < light[1] < light[2]


def test_all_heat_maps_share_a_scale() -> None:
    images = {key: image for key, image in make_images().items() if not key.startswith("error/")}
    for index in range(8):
        images[f"error/lcm-4/walk/ink/{index:04d}"] = np.full((8, 8), index / 100, np.float32)
    report = make_report(("palette",))
    pairs = find_pairs(report, images)
    gallery = Gallery(images, pairs, [method["id"] for method in report["methods"]])
    assert gallery.top == pytest.approx(0.07)


def test_frames_are_chosen_evenly_from_those_with_an_error() -> None:
    report = make_report(("palette",))
    images = make_images()
    frames = {(pair.content, pair.style): pair.frames for pair in find_pairs(report, images)}
    assert frames["walk", "ink"] == ("0001", "0002", "0003", "0005", "0006", "0007")
    assert frames["cat", "ink"] == ()
    images = {key: image for key, image in images.items() if not key.startswith("error/")}
    frames = {(pair.content, pair.style): pair.frames for pair in find_pairs(report, images)}
    assert frames["walk", "ink"] == ("0000", "0001", "0003", "0004", "0006", "0007")


def test_pairs_keep_the_reports_order_and_are_thinned_evenly() -> None:
    report = make_report(("palette",))
    report["results"].reverse()
    found = [(pair.content, pair.style) for pair in find_pairs(report, make_images())]
    contents, styles = ("cat", "astronaut", "walk"), ("ink", "night")
    assert found == [(content, style) for content in contents for style in styles]
    example = report["results"][0]
    names = [f"c{index:03d}" for index in range(301)]
    report["contents"] = [report["contents"][0] | {"id": name} for name in names]
    report["results"] = [example | {"content": name, "style": "ink"} for name in names]
    image = np.zeros((4, 4, 3), np.uint8)
    pairs = find_pairs(report, {f"result/lcm-4/{name}/ink": image for name in names})
    chosen = [int(pair.content[1:]) for pair in pairs]
    assert len(chosen) == 100 and (chosen[0], chosen[-1]) == (0, 300)
    assert set(np.diff(chosen)) <= {3, 4}
