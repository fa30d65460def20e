"""A report as one HTML file that needs nothing else: no network, no folder beside it.

The page forbids itself, by a content security policy, to load anything that is not inside it, and to run any
script but its own. Text of users is escaped where markup is made (`page/markup.py`), and control characters
in it before anything is made of it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from stdcli.evaluate.page import summary
from stdcli.evaluate.page.gallery import ContentStylePair, Gallery, find_pairs
from stdcli.evaluate.page.markup import Markup, join, tag
from stdcli.evaluate.page.numbers import Numbers
from stdcli.evaluate.page.plots import plots
from stdcli.evaluate.page.result_grid import Grid, slider
from stdcli.evaluate.page.table import notes, protocols, table
from stdcli.visible import visible

PAGE = files("stdcli.evaluate.page")


def render(report: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> str:
    """The page of a report; the same bytes for the same report and images.

    Args:
        report: what `report.json` holds.
        images: uint8 [H, W, 3] by `content/ID`, `style/ID` and `result/METHOD/CONTENT/STYLE`; of clips
            `content/ID/0000`, `result/METHOD/CONTENT/STYLE/0000` and `error/METHOD/CONTENT/STYLE/0000`,
            the last float32 [H, W], at least 0. Any may be absent. They are shrunk to at most 384 pixels,
            further where there are many, and of many frames and pairs some are chosen.

    Returns:
        HTML, below 8 MB.

    Raises:
        ResourceError: matplotlib is not installed.
        ValueError: an image of another shape or dtype.
    """
    report = _shown(report)
    numbers = Numbers(report)
    pairs = find_pairs(report, images)
    gallery = Gallery(images, pairs, [method["id"] for method in numbers.methods])
    sections = [
        (name, title, body)
        for name, title, body in _sections(report, numbers, (pairs, gallery))
        if body is not None
    ]
    script = PAGE.joinpath("page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    links = (tag("a", title, href=f"#{name}") for name, title, _ in sections)
    return Template(PAGE.joinpath("page.html").read_text("utf-8")).substitute(
        title=tag("title", report["title"]),
        script_hash=digest,
        style=PAGE.joinpath("page.css").read_text("utf-8"),
        script=script,
        head=summary.head(report),
        nav=join(links),
        sections=join(
            tag("section", tag("h2", title), body, id=name, aria_label=title)
            for name, title, body in sections
        ),
        version=tag("span", f"stdcli {report['versions'].get('stdcli', '')}"),
    )


def _shown(data: Any) -> Any:
    """A report whose text, in drawings too, is seen rather than acts."""
    if isinstance(data, Mapping):
        return {_shown(key): _shown(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_shown(value) for value in data]
    return visible(data) if isinstance(data, str) else data


def _sections(
    report: Mapping[str, Any], numbers: Numbers, shown: tuple[list[ContentStylePair], Gallery]
) -> list[tuple[str, str, Markup | None]]:
    pairs, gallery = shown
    grid = Grid(report, numbers, gallery)
    made = {(row["content"], row["style"]) for row in report["results"]}
    fewer = f"{len(pairs)} of {len(made)} pairs of source and style are shown."
    hint = tag("p", fewer, class_="hint") if 0 < len(pairs) < len(made) else None
    how = summary.fold("How each number is made", protocols(numbers))
    pictures = grid.pictures([pair for pair in pairs if not pair.frames])
    return [
        ("numbers", "Numbers", join([table(numbers), notes(numbers), how])),
        ("best", "Best guidance", summary.best(report, numbers)),
        ("gates", "Gates", summary.thresholds(report, numbers)),
        ("compare", "Compare", slider(numbers, pairs)),
        ("pictures", "Pictures", join([hint, pictures]) if pictures else None),
        ("clips", "Clips", grid.clips([pair for pair in pairs if pair.frames])),
        ("plots", "Plots", plots(numbers, report)),
        ("floors", "Floors", summary.source_baseline(report, numbers)),
        ("settings", "Settings", summary.settings(report, numbers)),
    ]
