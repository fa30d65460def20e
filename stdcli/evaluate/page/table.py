"""The table methods x metrics, why cells are empty, and how each number was made."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from stdcli.evaluate.page.markup import Markup, join, tag
from stdcli.evaluate.page.numbers import ARROWS, Numbers, group_title

MAX_COLUMNS = 8  # methods that fit beside each other; more go down the side

BETTER = {"lower": "lower is better", "higher": "higher is better"}


def table(numbers: Numbers) -> Markup:
    """The table: up to eight methods across with metrics down, more methods the other way round."""
    across = len(numbers.methods) <= MAX_COLUMNS
    body = _metrics_down(numbers) if across else _methods_down(numbers)
    name, style = ("numbers across", f"--methods: {len(numbers.methods)}") if across else ("numbers", None)
    return tag("div", tag("table", body, class_=name, style=style), class_="scroll", tabindex=0)


def _metrics_down(numbers: Numbers) -> Markup:
    width = len(numbers.methods) + 1
    corner = tag("td")
    heads = (_method_head(numbers, method, scope="col") for method in numbers.methods)
    rows = [tag("thead", tag("tr", corner, *heads))]
    for group, metrics in groupby(numbers.metrics, key=lambda metric: metric["group"]):
        title = tag("tr", tag("th", group_title(group), colspan=width, scope="colgroup"), class_="group")
        lines = (
            tag(
                "tr",
                _metric_head(numbers, metric, scope="row"),
                *(_cell(numbers, method, metric) for method in numbers.methods),
            )
            for metric in metrics
        )
        rows.append(tag("tbody", title, *lines))
    return join(rows)


def _methods_down(numbers: Numbers) -> Markup:
    groups = [
        (group, len(list(members)))
        for group, members in groupby(numbers.metrics, key=lambda metric: metric["group"])
    ]
    titles = (tag("th", group_title(name), colspan=count, scope="colgroup") for name, count in groups)
    heads = (_metric_head(numbers, metric, scope="col") for metric in numbers.metrics)
    lines = (
        tag(
            "tr",
            _method_head(numbers, method, scope="row"),
            *(_cell(numbers, method, metric) for metric in numbers.metrics),
        )
        for method in numbers.methods
    )
    top = tag("thead", tag("tr", tag("td"), *titles, class_="group"), tag("tr", tag("td"), *heads))
    return join([top, tag("tbody", *lines)])


def _method_head(numbers: Numbers, method: Mapping[str, Any], *, scope: str) -> Markup:
    return tag("th", dot(numbers.color(method)), method["title"], scope=scope, class_="method")


def _metric_head(numbers: Numbers, metric: Mapping[str, Any], *, scope: str) -> Markup:
    arrow = tag("span", ARROWS[metric["better"]], class_="arrow", title=BETTER[metric["better"]])
    unit = tag("small", metric["unit"]) if metric["unit"] else None
    return tag("th", numbers.label(metric), "\u00a0", arrow, unit, scope=scope, title=metric["protocol"])


def _cell(numbers: Numbers, method: Mapping[str, Any], metric: Mapping[str, Any]) -> Markup:
    cell = numbers.cell(method, metric)
    if cell.mean is None:
        if metric["missing"]:
            reason = tag("a", "n/a", href=f"#missing-{number_of(numbers, metric)}")
            return tag("td", reason, class_="none", title=metric["missing"]["what"])
        return tag("td", "n/a", class_="none", title="no result has what it needs")
    best = method["id"] in numbers.best(metric)
    mean = tag("b" if best else "span", numbers.text(metric, cell.mean), title=repr(cell.mean))
    sd = f"\u00b1 {numbers.text(metric, cell.sd)} \u00b7 " if cell.sd is not None and cell.count > 1 else ""
    return tag("td", mean, tag("small", f"{sd}n {cell.count}"))


def dot(color: int) -> Markup:
    """A spot in the colour of a family."""
    return tag("i", class_=f"dot c{color}")


def number_of(numbers: Numbers, metric: Mapping[str, Any]) -> int:
    """Place of a metric in the list of those whose weights are missing, from 1."""
    return [other["id"] for other in numbers.metrics if other["missing"]].index(metric["id"]) + 1


def notes(numbers: Numbers) -> Markup:
    """What the marks of the table mean, and the line that fetches what an n/a lacks."""
    lines = [
        "Bold is best as printed, nothing where all print the same; "
        "\u00b1 is the standard deviation over n results."
    ]
    uneven = [numbers.label(metric) for metric in numbers.metrics if _is_uneven(numbers, metric)]
    if uneven:
        lines.append(f"Not the same number of results under every method: {', '.join(uneven)}.")
    empty = [numbers.label(metric) for metric in numbers.metrics if _is_empty(numbers, metric)]
    if empty:
        lines.append(f"n/a because no result has what it needs: {', '.join(empty)}.")
    missing = [
        tag(
            "li",
            tag("strong", numbers.label(metric)),
            f" is n/a: {metric['missing']['what']}.",
            tag("code", metric["missing"]["fetch"], class_="line"),
            id=f"missing-{number_of(numbers, metric)}",
        )
        for metric in numbers.metrics
        if metric["missing"]
    ]
    listed = tag("ol", *missing, class_="missing") if missing else None
    return tag("div", *(tag("p", line) for line in lines), listed, class_="notes")


def _is_uneven(numbers: Numbers, metric: Mapping[str, Any]) -> bool:
    cells = [numbers.cell(method, metric) for method in numbers.methods]
    return len({cell.count for cell in cells if cell.mean is not None}) > 1


def _is_empty(numbers: Numbers, metric: Mapping[str, Any]) -> bool:
    return not metric["missing"] and not numbers.means(metric)


def protocols(numbers: Numbers) -> Markup:
    """One entry per metric: direction, range, everything its numbers depend on, and where it is from."""
    return tag("dl", *(_protocol(numbers, metric) for metric in numbers.metrics), class_="protocols")


def _protocol(numbers: Numbers, metric: Mapping[str, Any]) -> Markup:
    low, high = metric["range"]
    span = f"{low:g} to {high:g}" if high is not None else f"from {low:g}"
    details = [metric["id"], BETTER[metric["better"]], span, metric["unit"]]
    weights = (
        tag("p", "weights ", name, " ", tag("code", sha)) for name, sha in sorted(metric["weights"].items())
    )
    return tag(
        "div",
        tag("dt", numbers.label(metric), tag("small", " \u00b7 ".join(fact for fact in details if fact))),
        tag("dd", tag("p", metric["protocol"]), *weights, tag("p", metric["cite"], class_="cite")),
    )
