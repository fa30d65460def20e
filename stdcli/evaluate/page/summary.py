"""What a report is about: its head, thresholds, the sources' baseline, settings and hashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stdcli.evaluate.page.markup import Markup, join, tag
from stdcli.evaluate.page.numbers import Numbers
from stdcli.evaluate.page.table import dot

Entry = Mapping[str, Any]


def head(report: Entry) -> Markup:
    """Title, when, where and with what command, and how much was looked at."""
    when = tag("time", report["created"].replace("T", " "), datetime=report["created"])
    where = join([when, duration(report["seconds"]), report["machine"]], between=" \u00b7 ")
    counts = (
        tag("div", tag("b", len(report[name])), tag("span", _counted(name, len(report[name]))))
        for name in ("methods", "contents", "styles", "results", "metrics")
    )
    return tag(
        "header",
        tag("h1", report["title"]),
        tag("p", where, class_="where"),
        tag("code", report["command"], class_="line"),
        tag("div", *counts, class_="counts"),
    )


def _counted(name: str, count: int) -> str:
    word = {"contents": "sources"}.get(name, name)
    return word.removesuffix("s") if count == 1 else word


def duration(seconds: float) -> str:
    """Seconds for people: `8.2 s`, `4 min 12 s`, `2 h 5 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def thresholds(report: Entry, numbers: Numbers) -> Markup | None:
    """Each gate with its value, passed or failed; those that failed first."""
    if not report["gates"]:
        return None
    titles = {method["id"]: method["title"] for method in numbers.methods}
    metrics = {metric["id"]: metric for metric in numbers.metrics}
    rows = []
    for gate in sorted(report["gates"], key=lambda gate: gate["passed"]):
        value, metric = gate["value"], metrics.get(gate["metric"])
        text = "n/a" if value is None else numbers.text(metric, value) if metric else f"{value:g}"
        word = "passed" if gate["passed"] else "failed"
        rows.append(
            tag(
                "li",
                tag("span", word, class_=f"mark {word}"),
                tag("code", gate["rule"]),
                tag("span", titles.get(gate["method"], gate["method"])),
                tag("b", text, title=repr(value)),
            )
        )
    failed = sum(not gate["passed"] for gate in report["gates"])
    total = len(rows)
    verdict = f"{failed} of {total} failed." if failed else f"All {total} passed." if total > 1 else "Passed."
    return join([tag("p", verdict, class_="hint"), tag("ul", *rows, class_="gates")])


def source_baseline(report: Entry, numbers: Numbers) -> Markup | None:
    """What the sources themselves measure: no result can be expected below."""
    if not report["floors"]:
        return None
    metrics = {metric["id"]: metric for metric in numbers.metrics}
    rows = [((row["content"], _label(numbers, metrics, row)), row["value"]) for row in report["floors"]]
    return _plain_table(("source", "metric", "value"), rows)


def best(report: Entry, numbers: Numbers) -> Markup | None:
    """Every method and step count at its own best guidance: the fairer comparison where guidance differs."""
    if not report.get("best"):
        return None
    metrics = {metric["id"]: metric for metric in numbers.metrics}
    rows = [
        ((row["family"], row["steps"], f"{row['guidance']:g}", _label(numbers, metrics, row)), row["value"])
        for row in report["best"]
    ]
    return _plain_table(("method", "steps", "best guidance", "by", "value"), rows)


def _plain_table(heads: Sequence[str], rows: Sequence[tuple[Sequence[Any], float | None]]) -> Markup:
    """Rows of some words, the first of which heads its row, and a value."""
    body = [
        tag("tr", tag("th", first, scope="row"), *(tag("td", word) for word in rest), _value(value))
        for (first, *rest), value in rows
    ]
    head = tag("tr", *(tag("th", name, scope="col") for name in heads))
    return tag("table", tag("thead", head), tag("tbody", *body), class_="plain")


def _label(numbers: Numbers, metrics: Mapping[str, Entry], row: Entry) -> str:
    return numbers.label(metrics[row["metric"]]) if row["metric"] in metrics else row["metric"]


def _value(value: float | None) -> Markup:
    return tag("td", "n/a" if value is None else f"{value:.4g}", title=repr(value))


def settings(report: Entry, numbers: Numbers) -> Markup:
    """Settings of every method beside each other, and all hashes and versions."""
    names = dict.fromkeys(name for method in numbers.methods for name in method["settings"])
    heads = (tag("th", dot(numbers.color(m)), m["title"], scope="col") for m in numbers.methods)
    rows = [_setting(name, [method["settings"].get(name) for method in numbers.methods]) for name in names]
    table = tag("table", tag("thead", tag("tr", tag("td"), *heads)), tag("tbody", *rows), class_="plain")
    versions = ((name, version) for name, version in report["versions"].items())
    return join(
        [
            fold("Settings of the methods", tag("div", table, class_="scroll", tabindex=0)),
            fold("Versions", _hashes(versions)),
            fold("Hashes", _hashes(_all_hashes(report, numbers))),
        ]
    )


def _setting(name: str, values: Sequence[Any]) -> Markup:
    texts = ["" if value is None else _plain(value) for value in values]
    differs = "differs" if len(set(texts)) > 1 else None
    return tag("tr", tag("th", name, scope="row"), *(tag("td", text) for text in texts), class_=differs)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _all_hashes(report: Entry, numbers: Numbers) -> Iterable[tuple[str, str]]:
    yield from _method_hashes(numbers)
    for metric in numbers.metrics:
        label = numbers.label(metric)
        yield from ((f"metric {label}, {name}", sha) for name, sha in sorted(metric["weights"].items()))
    for content in report["contents"]:
        width, height = content["size"]
        clip = f", {content['frames']} frames" if content["kind"] == "clip" else ""
        rate = f", {content['fps']:g} per second" if content["fps"] else ""
        yield f"source {content['id']}, {width} \u00d7 {height}{clip}{rate}", content["sha256"]
    yield from ((f"style {style['id']}", style["sha256"]) for style in report["styles"])


def _method_hashes(numbers: Numbers) -> Iterable[tuple[str, str]]:
    """Once per family where all its methods have the same."""
    hashes: dict[tuple[str, str], dict[str, str]] = {}
    for method in numbers.methods:
        for name, sha in method["hashes"].items():
            hashes.setdefault((method["family"], name), {})[method["title"]] = sha
    for (family, name), shas in hashes.items():
        shared = len(set(shas.values())) == 1
        yield from {f"{family if shared else title}, {name}": sha for title, sha in shas.items()}.items()


def _hashes(pairs: Iterable[tuple[str, str]]) -> Markup:
    rows = (tag("div", tag("dt", name), tag("dd", tag("code", value))) for name, value in pairs)
    return tag("dl", *rows, class_="hashes")


def fold(title: str, body: Markup) -> Markup:
    """A part that opens when its title is clicked."""
    return tag("details", tag("summary", title), body)
