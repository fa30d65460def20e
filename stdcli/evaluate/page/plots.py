"""The plots of a report: bars per metric, style against content and looks, quality against steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from stdcli.evaluate.page.figure import INK, LINE, MUTED, draw_svg, family_colour
from stdcli.evaluate.page.markup import Markup, join, tag
from stdcli.evaluate.page.numbers import ARROWS, Numbers
from stdcli.evaluate.page.table import dot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Item = Mapping[str, Any]
Point = tuple[float, float, str]  # x, y, label

AXES_PER_SIDE = 2  # metrics of a group that are set against those of another
MAX_LABELLED = 10  # methods; more would cover each other
MAX_SPOTS = 600  # single results shown behind the means
MAX_TITLE = 24
LABEL_GAP_PT = 12
WIDE_IN, SQUARE_IN = (4.4, 3.2), (4.4, 3.6)


def plots(numbers: Numbers, report: Item) -> Markup:
    """Every plot that the report has numbers for; families share their colour everywhere."""
    legend = (tag("span", dot(colour), name) for name, colour in numbers.families.items())
    blocks = [
        ("Each metric", "The thin line is one standard deviation over results.", _bars(numbers, report)),
        (
            "Style against content",
            "Axes are turned so that better is up and right. Small spots are single results.",
            _scatters(numbers, report),
        ),
        (
            "Style against aesthetics over guidance",
            "One line per family; each point is labelled with its guidance.",
            _guidance(numbers),
        ),
        ("Quality against steps", "One line per family; up is better.", _steps(numbers)),
    ]
    return join(
        [tag("p", *legend, class_="legend"), *(_block(title, note, list(f)) for title, note, f in blocks)]
    )


def _block(title: str, note: str, figures: Sequence[Markup]) -> Markup | None:
    if not figures:
        return None
    return join([tag("h3", title), tag("p", note, class_="hint"), tag("div", *figures, class_="plots")])


def _figure(svg: Markup, caption: str) -> Markup:
    return tag("figure", tag("figcaption", caption), svg, class_="plot")


def _named(numbers: Numbers, metric: Item) -> str:
    return f"{numbers.label(metric)} {ARROWS[metric['better']]}"


def _bars(numbers: Numbers, report: Item) -> Iterator[Markup]:
    for metric in numbers.metrics:
        if not numbers.means(metric):
            continue
        floors = [row["value"] for row in report["floors"] if row["metric"] == metric["id"]]
        floor = sum(floors) / len(floors) if floors else None
        shown = [method for method in numbers.methods if method["id"] in numbers.means(metric)]
        size_in = (WIDE_IN[0], 0.5 + 0.34 * len(shown))
        draw = partial(_draw_bars, numbers=numbers, metric=metric, methods=shown, floor=floor)
        unit = f", {metric['unit']}" if metric["unit"] else ""
        source = "; dashed: the source itself" if floor is not None else ""
        name = f"bars/{metric['id']}"
        yield _figure(draw_svg(draw, name=name, size_in=size_in), f"{_named(numbers, metric)}{unit}{source}")


def _draw_bars(
    axes: Axes, *, numbers: Numbers, metric: Item, methods: Sequence[Item], floor: float | None
) -> None:
    best = numbers.best(metric)
    for row, method in enumerate(methods):
        cell = numbers.cell(method, metric)
        mean, sd = cell.mean or 0.0, (cell.sd or 0.0) if cell.count > 1 else 0.0
        axes.barh(row, mean, height=0.62, color=family_colour(numbers.colour(method)), linewidth=0)
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
    if floor is not None:
        axes.axvline(floor, color=INK, linewidth=1, linestyle=(0, (3, 3)))
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


def _scatters(numbers: Numbers, report: Item) -> Iterator[Markup]:
    pairs = product(numbers.group("style")[:AXES_PER_SIDE], numbers.group("content")[:AXES_PER_SIDE])
    for style, content in pairs:
        draw = partial(_draw_scatter, numbers=numbers, report=report, pair=(content, style))
        svg = draw_svg(draw, name=f"scatter/{style['id']}/{content['id']}", size_in=SQUARE_IN)
        yield _figure(svg, f"{numbers.label(style)} against {numbers.label(content)}")


def _draw_scatter(axes: Axes, *, numbers: Numbers, report: Item, pair: tuple[Item, Item]) -> None:
    colours = {method["id"]: family_colour(numbers.colour(method)) for method in numbers.methods}
    ids = [metric["id"] for metric in pair]
    spots = [
        (*(row["values"].get(name) for name in ids), colours[row["method"]]) for row in report["results"]
    ]
    spots = [spot for spot in spots if None not in spot]
    if len(spots) <= MAX_SPOTS:
        for x, y, colour in spots:
            axes.plot(x, y, "o", color=colour, markersize=2.6, alpha=0.45, markeredgewidth=0)
    points = []
    for method in numbers.methods:
        x, y = (numbers.cell(method, metric).mean for metric in pair)
        if x is not None and y is not None:
            axes.plot(x, y, "o", color=colours[method["id"]], markersize=9, markeredgewidth=0)
            points.append((x, y, _short(method["title"])))
    _set_axes(axes, numbers, pair)
    if len(points) <= MAX_LABELLED:
        _label(axes, points)


def _guidance(numbers: Numbers) -> Iterator[Markup]:
    looks = [metric for metric in numbers.group("looks") if metric["name"] == "aesthetic"]
    lines = {name: line for name, line in _lines(numbers, along="guidance") if len(line) > 1}
    for style, other in product(numbers.group("style")[:AXES_PER_SIDE] if lines else (), looks):
        draw = partial(_draw_lines, numbers=numbers, lines=lines, pair=(other, style))
        svg = draw_svg(draw, name=f"guidance/{style['id']}/{other['id']}", size_in=SQUARE_IN)
        yield _figure(svg, f"{numbers.label(style)} against {numbers.label(other)}")


def _draw_lines(
    axes: Axes,
    *,
    numbers: Numbers,
    lines: Mapping[str, Sequence[tuple[float, Item]]],
    pair: tuple[Item, Item],
) -> None:
    labels: list[Point] = []
    for line in lines.values():
        points = [
            (*(numbers.cell(method, metric).mean for metric in pair), f"{value:g}") for value, method in line
        ]
        points = [point for point in points if None not in point]
        colour = family_colour(numbers.colour(line[0][1]))
        axes.plot([p[0] for p in points], [p[1] for p in points], "o-", color=colour, markeredgewidth=0)
        labels += points
    _set_axes(axes, numbers, pair)
    _label(axes, labels)


def _steps(numbers: Numbers) -> Iterator[Markup]:
    lines = dict(_lines(numbers, along="steps"))
    values = sorted({value for line in lines.values() for value, _ in line})
    if len(values) < 2:
        return
    for metric in numbers.metrics:
        if metric["group"] != "speed" and numbers.means(metric):
            draw = partial(_draw_steps, numbers=numbers, lines=lines, values=values, metric=metric)
            svg = draw_svg(draw, name=f"steps/{metric['id']}", size_in=WIDE_IN)
            yield _figure(svg, _named(numbers, metric))


def _draw_steps(
    axes: Axes,
    *,
    numbers: Numbers,
    lines: Mapping[str, Sequence[tuple[float, Item]]],
    values: Sequence[float],
    metric: Item,
) -> None:
    for line in lines.values():
        points = [(value, numbers.cell(method, metric).mean) for value, method in line]
        points = [point for point in points if point[1] is not None]
        colour = family_colour(numbers.colour(line[0][1]))
        axes.plot(*zip(*points, strict=True), "o-", color=colour, markeredgewidth=0) if points else None
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("steps")
    axes.margins(0.12)
    if metric["better"] == "lower":
        axes.invert_yaxis()


def _lines(numbers: Numbers, *, along: str) -> Iterator[tuple[str, list[tuple[float, Item]]]]:
    """Methods of a family in the order of one setting; one line per value of the other of the two settings."""
    other = {"guidance": "steps", "steps": "guidance"}[along]
    lines: dict[str, list[tuple[float, Item]]] = {}
    for method in numbers.methods:
        value = method["settings"].get(along)
        if isinstance(value, int | float):
            name = f"{method['family']}, {other} {method['settings'].get(other)}"
            lines.setdefault(name, []).append((value, method))
    for name, line in lines.items():
        yield name, sorted(line, key=lambda point: point[0])


def _set_axes(axes: Axes, numbers: Numbers, pair: tuple[Item, Item]) -> None:
    axes.margins(0.16)
    axes.set_xlabel(_named(numbers, pair[0]))
    axes.set_ylabel(_named(numbers, pair[1]))
    if pair[0]["better"] == "lower":
        axes.invert_xaxis()
    if pair[1]["better"] == "lower":
        axes.invert_yaxis()
    corner = {"xycoords": "axes fraction", "ha": "right", "va": "top", "color": MUTED, "size": 9}
    axes.annotate("better \u2197", (0.99, 0.99), **corner)


def _label(axes: Axes, points: Sequence[Point]) -> None:
    """Write labels beside points, moved up where two would meet."""
    left, right = axes.transAxes.transform([(0, 0), (1, 0)])[:, 0]
    placed: list[tuple[float, float]] = []
    to_pt = 72 / axes.get_figure().dpi
    for x, y, text in sorted(points, key=lambda point: axes.transData.transform(point[:2])[1]):
        here_x, here_y = axes.transData.transform((x, y))
        at = here_y * to_pt
        for other_x, other_at in placed:
            if abs(here_x - other_x) < 0.45 * (right - left) and at - other_at < LABEL_GAP_PT:
                at = other_at + LABEL_GAP_PT
        placed.append((here_x, at))
        flipped = here_x > left + 0.6 * (right - left)
        axes.annotate(
            text,
            (x, y),
            xytext=(-8 if flipped else 8, at - here_y * to_pt),
            textcoords="offset points",
            ha="right" if flipped else "left",
            va="center",
            arrowprops={"arrowstyle": "-", "color": LINE} if at - here_y * to_pt > LABEL_GAP_PT else None,
        )


def _short(title: str) -> str:
    return title if len(title) <= MAX_TITLE else title[: MAX_TITLE - 1].rstrip() + "\u2026"
