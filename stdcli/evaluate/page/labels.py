"""Where to write beside points so that labels cover neither each other nor points nor the edge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

LETTER_PT, LINE_PT, GAP_PT = 6.2, 13.0, 7.0
MAX_RINGS = 6  # how far a label may move, in lines

Box = tuple[float, float, float, float]  # left, bottom, right, top


@dataclass(frozen=True)
class Label:
    """A label's place relative to its point.

    Attributes:
        x, y: offset in points.
        side: which end of the text is there, as `ha` of matplotlib.
    """

    x: float
    y: float
    side: str


def place_labels(points: Sequence[tuple[float, float]], texts: Sequence[str], *, area: Box) -> list[Label]:
    """Labels for points, in turn, each at the first free place: right, left, above, below, then further off.

    Args:
        points: in typographic points.
        texts: one per point.
        area: what labels should stay inside of.

    Returns:
        One label per point. Where no place is free, it goes to the right of its point.
    """
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    labels = []
    for (x, y), text in zip(points, texts, strict=True):
        free = (
            label
            for label in _candidates()
            if _inside(box := _box(label, (x, y), text), area) and not _meets(box, taken)
        )
        label = next(free, Label(GAP_PT, 0.0, "left"))
        taken.append(_box(label, (x, y), text))
        labels.append(label)
    return labels


def _candidates() -> Iterator[Label]:
    for ring in range(MAX_RINGS):
        for lift in (ring * LINE_PT, -ring * LINE_PT)[: 1 if ring == 0 else 2]:
            yield Label(GAP_PT, lift, "left")
            yield Label(-GAP_PT, lift, "right")
            if ring:
                yield Label(0.0, lift, "center")


def _box(label: Label, point: tuple[float, float], text: str) -> Box:
    width = LETTER_PT * len(text)
    left = point[0] + label.x - {"left": 0.0, "center": width / 2, "right": width}[label.side]
    middle = point[1] + label.y
    return left, middle - LINE_PT / 2, left + width, middle + LINE_PT / 2


def _inside(box: Box, area: Box) -> bool:
    return box[0] >= area[0] and box[1] >= area[1] and box[2] <= area[2] and box[3] <= area[3]


def _meets(box: Box, others: Iterable[Box]) -> bool:
    return any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
        for other in others
    )
