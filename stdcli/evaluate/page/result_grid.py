"""Pictures beside each other: source x style x method, clips with their errors, the slider between two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any
from urllib.parse import quote

from stdcli.evaluate.page.gallery import ContentStylePair, Gallery
from stdcli.evaluate.page.markup import Markup, join, tag
from stdcli.evaluate.page.numbers import Numbers
from stdcli.evaluate.page.table import dot

HEAT_NOTE = (
    "Under each frame its warping error along the motion of the source, black 0 to yellow {top} and more."
)


class Grid:
    """Writes pictures into the page, each file once: later places get it from the first by script.

    Args:
        report: as in `report.json`.
        numbers: of that report.
        gallery: its pictures.
    """

    def __init__(self, report: Mapping[str, Any], numbers: Numbers, gallery: Gallery) -> None:
        self._numbers = numbers
        self._gallery = gallery
        self._metrics = {metric["id"]: metric for metric in numbers.metrics}
        self._sizes = {content["id"]: content["size"] for content in report["contents"]}
        self._results = {
            (row["method"], row["content"], row["style"] or ""): row for row in report["results"]
        }
        self._written: set[str] = set()

    def pictures(self, pairs: Sequence[ContentStylePair]) -> Markup | None:
        """One table per source: a line per style, a column per method."""
        blocks = []
        for content, lines in groupby(pairs, key=lambda pair: pair.content):
            heads = [tag("th", "style", scope="col"), tag("th", "source", scope="col")]
            heads += [self._head(method) for method in self._numbers.methods]
            rows = [tag("thead", tag("tr", *heads)), tag("tbody", *map(self._line, lines))]
            blocks += [
                tag("h3", content),
                _scroll(tag("table", *rows, class_="grid", style=self._aspect(content))),
            ]
        return join(blocks) if blocks else None

    def _line(self, pair: ContentStylePair) -> Markup:
        style, source = f"style/{pair.style}", f"content/{pair.content}"
        cells = [self._picture(style, [pair.style, "style"]), self._picture(source, [pair.content, "source"])]
        cells += [
            self._picture(f"result/{method['id']}/{pair.content}/{pair.style}", [method["title"]], result=row)
            for method in self._numbers.methods
            for row in [self._results.get((method["id"], pair.content, pair.style))]
        ]
        compare = tag("button", "compare", type="button", class_="compare", **_chosen(pair))
        first = tag("th", cells[0], tag("span", pair.style, class_="name"), compare, scope="row")
        return tag("tr", first, *(tag("td", cell) for cell in cells[1:]))

    def clips(self, pairs: Sequence[ContentStylePair]) -> Markup | None:
        """One table per clip and style: a column per frame; source, then results over their errors."""
        blocks = [self._clip(pair) for pair in pairs]
        if not blocks:
            return None
        note = HEAT_NOTE.format(top=f"{self._gallery.top:.2g}")
        return join([tag("p", tag("i", class_="heat"), note, class_="hint"), *blocks])

    def _clip(self, pair: ContentStylePair) -> Markup:
        style = self._picture(f"style/{pair.style}", [pair.style, "style"])
        compare = tag("button", "compare", type="button", class_="compare", **_chosen(pair))
        title = tag("h3", pair.content, tag("small", f" in the style of {pair.style} "), compare)
        heads = [
            tag("th", style, class_="corner"),
            *(tag("th", f"frame {int(frame)}", scope="col") for frame in pair.frames),
        ]
        rows = [self._frames(pair, "content", tag("th", "source", scope="row"), [pair.content, "source"])]
        for method in self._numbers.methods:
            head, lines = self._head(method, scope="row"), [method["title"]]
            rows.append(self._frames(pair, f"result/{method['id']}", head, lines))
            errors = pair.keys(f"error/{method['id']}")
            if any(self._gallery.source(key) for key in errors):
                head = tag("th", "its error", scope="row", class_="quiet")
                rows.append(self._frames(pair, f"error/{method['id']}", head, [*lines, "warping error"]))
        body = join([tag("thead", tag("tr", *heads)), tag("tbody", *rows)])
        body = tag("table", body, class_="grid clip", style=self._aspect(pair.content))
        return join([title, _scroll(body)])

    def _frames(self, pair: ContentStylePair, owner: str, head: Markup, lines: Sequence[str]) -> Markup:
        result = self._results.get((owner.removeprefix("result/"), pair.content, pair.style))
        keys = pair.keys(owner)
        middle = len(keys) // 2
        cells = [
            self._picture(
                key,
                [*lines, f"frame {int(frame)}"],
                result=result,
                name=key.rpartition("/")[0] if place == middle else None,
            )
            for place, (key, frame) in enumerate(zip(keys, pair.frames, strict=True))
        ]
        return tag("tr", head, *(tag("td", cell) for cell in cells))

    def _picture(
        self,
        key: str,
        lines: Sequence[str],
        *,
        result: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> Markup:
        """A picture that can be enlarged; `name` is what the slider calls it, if not by its key."""
        uri = self._gallery.source(key)
        if uri is None:
            return tag("span", "no picture", class_="blank")
        text = " \u00b7 ".join(lines)
        place = {"data_copy": key} if key in self._written else {"src": uri, "data_key": key}
        self._written.add(key)
        image = tag("img", alt=text, data_name=name, **place)
        return tag("button", image, type="button", class_="shot", data_text=text, **self._data(result))

    def _data(self, result: Mapping[str, Any] | None) -> dict[str, str]:
        if result is None:
            return {}
        parts = [
            f"{self._numbers.label(metric)} {self._numbers.text(metric, value)} {metric['unit']}".rstrip()
            for name, value in result["values"].items()
            for metric in [self._metrics.get(name)]
            if metric and value is not None
        ]
        file = result.get("file")
        return {"data_facts": " \u00b7 ".join(parts)} | ({"data_file": quote(file)} if file else {})

    def _aspect(self, content: str) -> str:
        """Of the source; pictures of styles, beside it, are cut to the same."""
        width, height = self._sizes.get(content, (1, 1))
        return f"--aspect: {width} / {height}"

    def _head(self, method: Mapping[str, Any], *, scope: str = "col") -> Markup:
        return tag("th", dot(self._numbers.color(method)), method["title"], scope=scope)


def _scroll(table: Markup) -> Markup:
    return tag("div", table, class_="scroll sheet", tabindex=0)


def _chosen(pair: ContentStylePair) -> dict[str, str]:
    return {"data_content": pair.content, "data_style": pair.style}


def slider(numbers: Numbers, pairs: Sequence[ContentStylePair]) -> Markup | None:
    """The picture of one method over that of another, with a line between them that moves."""
    if not pairs or not numbers.methods:
        return None
    sides = [("content", "source"), *((f"result/{m['id']}", m["title"]) for m in numbers.methods)]
    left = sides[1] if len(sides) > 2 else sides[0]
    pickers = [
        _select("content", "source", ((name, name) for name in dict.fromkeys(p.content for p in pairs))),
        _select("style", "style", ((name, name) for name in dict.fromkeys(p.style for p in pairs))),
        _select("left", "left", sides, chosen=left[0]),
        _select("right", "right", sides, chosen=sides[-1][0]),
    ]
    stage = tag(
        "div",
        tag("img", class_="under", alt="right"),
        tag("img", class_="over", alt="left"),
        tag("i", class_="handle"),
        tag("span", class_="side left"),
        tag("span", class_="side right"),
        tag("p", "There is no such pair of pictures.", class_="gap", hidden=True),
        tag("input", type="range", min=0, max=100, step="0.5", value=50, aria_label="where left ends"),
        class_="stage",
    )
    beside = (
        tag("figure", tag("img", class_=name, alt=name), tag("figcaption", name))
        for name in ("style", "source")
    )
    return tag(
        "div",
        tag("div", *pickers, class_="pickers"),
        stage,
        tag("div", *beside, class_="beside"),
        class_="slider",
    )


def _select(
    name: str, label: str, options: Iterable[tuple[str, str]], *, chosen: str | None = None
) -> Markup:
    entries = (
        tag("option", text, value=value, selected=True if value == chosen else None)
        for value, text in options
    )
    return tag("label", label, tag("select", *entries, name=name))
