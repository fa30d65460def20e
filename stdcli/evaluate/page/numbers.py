"""The numbers of a report: looked up, rounded for reading, and which of them are best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ARROWS = {"lower": "\u2193", "higher": "\u2191"}
GROUPS = {"style": "Style", "content": "Content", "looks": "Looks", "video": "Video", "speed": "Speed"}
DIGITS = 3  # of the largest number of a metric
MAX_PLACES = 6
COLORS = 8  # of families, before they repeat; `page.css` has as many


@dataclass(frozen=True)
class Cell:
    """One method under one metric.

    Attributes:
        mean: None where there is none.
        sd: over results; None where there is none.
        count: results that were measured.
    """

    mean: float | None = None
    sd: float | None = None
    count: int = 0


class Numbers:
    """What a report says, by method and metric.

    Args:
        report: as in `report.json`.

    Attributes:
        methods: in the report's order.
        metrics: by group, then in the report's order.
        families: name -> number of its colour.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        order = list(dict.fromkeys([*GROUPS, *(metric["group"] for metric in report["metrics"])]))
        self.methods: list[Mapping[str, Any]] = list(report["methods"])
        self.metrics: list[Mapping[str, Any]] = sorted(
            report["metrics"], key=lambda metric: order.index(metric["group"])
        )
        names = dict.fromkeys(method["family"] for method in self.methods)
        self.families = {name: number % COLORS for number, name in enumerate(names)}
        self._cells = {
            (row["method"], row["metric"]): Cell(_finite(row["mean"]), _finite(row["sd"]), row["count"])
            for row in report["table"]
        }
        self._places = {metric["id"]: places(self.means(metric).values()) for metric in self.metrics}

    def cell(self, method: Mapping[str, Any], metric: Mapping[str, Any]) -> Cell:
        """The numbers of a method under a metric, empty where the report has none."""
        return self._cells.get((method["id"], metric["id"]), Cell())

    def means(self, metric: Mapping[str, Any]) -> dict[str, float]:
        """Method id -> mean, of the methods that have one."""
        means = {method["id"]: self.cell(method, metric).mean for method in self.methods}
        return {name: mean for name, mean in means.items() if mean is not None}

    def text(self, metric: Mapping[str, Any], value: float) -> str:
        """A number under a metric as it is printed: every number of a metric has as many decimals."""
        return f"{value:.{self._places[metric['id']]}f}".replace("-", "\u2212")

    def best(self, metric: Mapping[str, Any]) -> frozenset[str]:
        """Ids of the methods that print as the best; none where all print the same."""
        means = self.means(metric)
        if not means:
            return frozenset()
        ideal = (min if metric["better"] == "lower" else max)(means.values())
        best = {name for name, mean in means.items() if self.text(metric, mean) == self.text(metric, ideal)}
        return frozenset(best) if len(best) < len(means) else frozenset()

    def group(self, name: str) -> list[Mapping[str, Any]]:
        """Metrics of a group that have numbers."""
        return [metric for metric in self.metrics if metric["group"] == name and self.means(metric)]

    def label(self, metric: Mapping[str, Any]) -> str:
        """The metric's title; with its id where another one has the same title."""
        titles = [other["title"] for other in self.metrics]
        same = titles.count(metric["title"]) > 1
        return f"{metric['title']} ({metric['id']})" if same else metric["title"]

    def color(self, method: Mapping[str, Any]) -> int:
        """Number of the colour of a method's family."""
        return self.families[method["family"]]


def places(values: Iterable[float]) -> int:
    """Decimals that show the largest value with three digits; none where all are whole."""
    values = list(values)
    largest = max(map(abs, values), default=0.0)
    if all(value == round(value) for value in values):
        return 0
    return min(max(DIGITS - 1 - math.floor(math.log10(largest)), 0), MAX_PLACES)


def group_title(name: str) -> str:
    """What a group of metrics is called on the page."""
    return GROUPS.get(name, name)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
