"""The plots of a report: bars per metric, style against content and looks, quality against steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from stdcli.evaluate.page.figure import INK, MUTED, Frame, draw_svg, family_color
from stdcli.evaluate.page.labels import LETTER_PT, place_labels
from stdcli.evaluate.page.markup import Markup, join, tag
from stdcli.evaluate.page.numbers import ARROWS, Numbers
from stdcli.evaluate.page.table import dot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Entry = Mapping[str, Any]
Point = tuple[float, float, str]  # x, y, label

AXES_PER_SIDE = 2  # metrics of a group that are set against those of another
MAX_LABELLED = 10  # methods; more would cover each other
MAX_SPOTS = 600  # single results shown behind the means
MAX_TITLE = 24
LABEL_ROOM = 0.6  # right of the last number of steps, of the way from the first to the last
SINGLE, PAIR = Frame(330, 225), Frame(520, 350)


def plots(numbers: Numbers, report: Entry) -> Markup:
    """Every plot that the report has numbers for; families share their colour everywhere."""
    legend = (tag("span", dot(color), name) for name, color in numbers.families.items())
    blocks = [
        _block(
            "Each metric",
            "Bars are means over results, the thin line is one standard deviation to each side.",
            _bars(numbers, report),
        ),
        _block(
            "Style against content",
            "Axes are turned so that better is up and right. Small spots are single results.",
            _scatters(numbers, report),
            width="pairs",
        ),
        _block(
            "Style against aesthetics over guidance",
            "One line per family and number of steps; a point is labelled with its guidance.",
            _guidance(numbers),
            width="pairs",
        ),
        _block("Quality against steps", "One line per family and guidance; up is better.", _steps(numbers)),
    ]
    return join([tag("p", *legend, class_="legend"), *blocks])


def _block(title: str, note: str, figures: Iterable[Markup], *, width: str = "") -> Markup | None:
    figures = list(figures)
    if not figures:
        return None
    body = tag("div", *figures, class_=f"plots {width}".strip())
    return join([tag("h3", title), tag("p", note, class_="hint"), body])


def _figure(svg: Markup, caption: str) -> Markup:
    return tag("figure", tag("figcaption", caption), svg, class_="plot")


def _named(numbers: Numbers, metric: Entry) -> str:
    return f"{numbers.label(metric)} {ARROWS[metric['better']]}"


def _bars(numbers: Numbers, report: Entry) -> Iterator[Markup]:
    for metric in numbers.metrics:
        if not numbers.means(metric):
            continue
        baselines = [row["value"] for row in report["floors"] if row["metric"] == metric["id"]]
        baseline = sum(baselines) / len(baselines) if baselines else None
        shown = [method for method in numbers.methods if method["id"] in numbers.means(metric)]
        longest = max(len(_short(method["title"])) for method in shown)
        frame = Frame(330, 16 + 25 * len(shown), left=10 + LETTER_PT * longest, bottom=6)
        draw = partial(_draw_bars, numbers=numbers, metric=metric, methods=shown, baseline=baseline)
        unit = f", {metric['unit']}" if metric["unit"] else ""
        source = "; dashed: the source itself" if baseline is not None else ""
        name = f"bars/{metric['id']}"
        yield _figure(draw_svg(draw, name=name, frame=frame), f"{_named(numbers, metric)}{unit}{source}")


def _draw_bars(
    axes: Axes, *, numbers: Numbers, metric: Entry, methods: Sequence[Entry], baseline: float | None
) -> None:
    best = numbers.best(metric)
    for row, method in enumerate(methods):
        cell = numbers.cell(method, metric)
        mean, sd = cell.mean or 0.0, (cell.sd or 0.0) if cell.count > 1 else 0.0
        axes.barh(row, mean, height=0.62, color=family_color(numbers.color(method)), linewidth=0)
        if sd:
            axes.plot([mean - sd, mean + sd], [row, row], color=INK, linewidth=1, alpha=0.55)
        weight = "bold" if method["id"] in best else "normal"
        axes.annotate(
            numbers.text(metric, mean),
            (max(mean + sd, 0.0), row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            weight=weight,
        )
    if baseline is not None:
        axes.axvline(baseline, color=INK, linewidth=1, linestyle=(0, (3, 3)))
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(methods)), [_short(method["title"]) for method in methods])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.margins(x=0.02)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0), high + 0.2 * (high - min(low, 0)))  # room for the numbers


def _scatters(numbers: Numbers, report: Entry) -> Iterator[Markup]:
    pairs = product(numbers.group("style")[:AXES_PER_SIDE], numbers.group("content")[:AXES_PER_SIDE])
    for style, content in pairs:
        draw = partial(_draw_scatter, numbers=numbers, report=report, pair=(content, style))
        svg = draw_svg(draw, name=f"scatter/{style['id']}/{content['id']}", frame=PAIR)
        yield _figure(svg, f"{numbers.label(style)} against {numbers.label(content)}")


def _draw_scatter(axes: Axes, *, numbers: Numbers, report: Entry, pair: tuple[Entry, Entry]) -> None:
    ids = [metric["id"] for metric in pair]
    spots = [(row["method"], *(row["values"].get(name) for name in ids)) for row in report["results"]]
    spots = [spot for spot in spots if None not in spot]
    shown = spots if len(spots) <= MAX_SPOTS else []
    points = []
    for method in numbers.methods:
        draw = partial(axes.plot, color=family_color(numbers.color(method)), markeredgewidth=0)
        own = [spot for spot in shown if spot[0] == method["id"]]
        draw([x for _, x, _ in own], [y for *_, y in own], "o", markersize=3.4, alpha=0.5)
        x, y = (numbers.cell(method, metric).mean for metric in pair)
        if x is not None and y is not None:
            draw(x, y, "o", markersize=9)
            points.append((x, y, _short(method["title"])))
    _set_axes(axes, numbers, pair)
    if len(points) <= MAX_LABELLED:
        _label(axes, points)


def _guidance(numbers: Numbers) -> Iterator[Markup]:
    looks = [metric for metric in numbers.group("looks") if metric["name"] == "aesthetic"]
    lines = [line for line in _lines(numbers, along="guidance") if len(set(line.values)) > 1]
    for style, other in product(numbers.group("style")[:AXES_PER_SIDE] if lines else (), looks):
        draw = partial(_draw_lines, numbers=numbers, lines=lines, pair=(other, style))
        svg = draw_svg(draw, name=f"guidance/{style['id']}/{other['id']}", frame=PAIR)
        yield _figure(svg, f"{numbers.label(style)} against {numbers.label(other)}")


def _draw_lines(axes: Axes, *, numbers: Numbers, lines: Sequence[Line], pair: tuple[Entry, Entry]) -> None:
    labels: list[Point] = []
    for line in lines:
        points = [
            (*(numbers.cell(method, metric).mean for metric in pair), f"{value:g}")
            for value, method in zip(line.values, line.methods, strict=True)
        ]
        points = [point for point in points if None not in point]
        _draw_line(axes, points, line.color)
        if points and line.tail:
            points[-1] = (*points[-1][:2], f"{points[-1][2]} \u00b7 {line.tail}")
        labels += points
    _set_axes(axes, numbers, pair)
    _label(axes, labels)


def _steps(numbers: Numbers) -> Iterator[Markup]:
    lines = list(_lines(numbers, along="steps"))
    values = sorted({value for line in lines for value in line.values})
    if len(values) < 2:
        return
    for metric in numbers.metrics:
        if metric["group"] != "speed" and numbers.means(metric):
            draw = partial(_draw_steps, numbers=numbers, lines=lines, values=values, metric=metric)
            svg = draw_svg(draw, name=f"steps/{metric['id']}", frame=SINGLE)
            yield _figure(svg, _named(numbers, metric))


def _draw_steps(
    axes: Axes, *, numbers: Numbers, lines: Sequence[Line], values: Sequence[float], metric: Entry
) -> None:
    labels: list[Point] = []
    for line in lines:
        means = (numbers.cell(method, metric).mean for method in line.methods)
        points = [(x, y, line.tail) for x, y in zip(line.values, means, strict=True) if y is not None]
        _draw_line(axes, points, line.color)
        labels += points[-1:] if line.tail else []
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("steps")
    axes.margins(0.12)
    if labels:
        axes.set_xlim(right=values[-1] * (values[-1] / values[0]) ** LABEL_ROOM)
    if metric["better"] == "lower":
        axes.invert_yaxis()
    _label(axes, labels)


def _draw_line(axes: Axes, points: Sequence[Point], color: int) -> None:
    across, up = ([point[side] for point in points] for side in (0, 1))
    axes.plot(across, up, "o-", color=family_color(color), markeredgewidth=0)


@dataclass(frozen=True)
class Line:
    """Methods that differ in one setting, in its order.

    Attributes:
        values: of that setting.
        methods: one per value.
        colour: number of the family's.
        tail: what tells the line from others of its family, such as `8 steps`; empty where there is no
            other.
    """

    values: tuple[float, ...]
    methods: tuple[Entry, ...]
    color: int
    tail: str


def _lines(numbers: Numbers, *, along: str) -> Iterator[Line]:
    """Lines along `steps` or `guidance`: one per family and value of the other of the two."""
    other = {"guidance": "steps", "steps": "guidance"}[along]
    groups: dict[str, dict[Any, list[Entry]]] = {}
    for method in numbers.methods:
        if isinstance(method["settings"].get(along), int | float):
            family = groups.setdefault(method["family"], {})
            family.setdefault(method["settings"].get(other), []).append(method)
    for name, family in groups.items():
        for value, methods in family.items():
            methods = sorted(methods, key=lambda method: method["settings"][along])
            tail = f"{value} steps" if other == "steps" else f"guidance {value:g}"
            yield Line(
                tuple(method["settings"][along] for method in methods),
                tuple(methods),
                numbers.families[name],
                tail if len(family) > 1 else "",
            )


def _set_axes(axes: Axes, numbers: Numbers, pair: tuple[Entry, Entry]) -> None:
    axes.margins(0.16)
    axes.set_xlabel(_named(numbers, pair[0]))
    axes.set_ylabel(_named(numbers, pair[1]))
    if pair[0]["better"] == "lower":
        axes.invert_xaxis()
    if pair[1]["better"] == "lower":
        axes.invert_yaxis()
    corner = {"xycoords": "axes fraction", "ha": "right", "va": "top", "color": MUTED, "size": 10.5}
    axes.annotate("better \u2197", (0.99, 0.99), **corner)


def _label(axes: Axes, points: Sequence[Point]) -> None:
    """Write labels beside points, where they cover nothing."""
    to_pt = 72 / axes.get_figure().dpi
    axes.autoscale_view()
    places = [tuple(axes.transData.transform(point[:2]) * to_pt) for point in points]
    (left, bottom), (right, top) = axes.transAxes.transform([(0, 0), (1, 1)]) * to_pt
    labels = place_labels(places, [point[2] for point in points], area=(left, bottom, right, top))
    for (x, y, text), label in zip(points, labels, strict=True):
        offset = {"xytext": (label.x, label.y), "textcoords": "offset points"}
        axes.annotate(text, (x, y), **offset, ha=label.side, va="center")


def _short(title: str) -> str:
    return title if len(title) <= MAX_TITLE else title[: MAX_TITLE - 1].rstrip() + "\u2026"
