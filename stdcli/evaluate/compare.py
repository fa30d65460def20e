"""`stdcli eval compare`: the methods of several reports side by side.

Only what all of them have is compared: contents and styles are matched by their hashes. A metric measured by
another protocol or with other weights gets a column of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stdcli.config.evaluate import EvalConfig
from stdcli.console import Console
from stdcli.errors import MediaError
from stdcli.evaluate.gates import enforce, judge
from stdcli.evaluate.ids import make_ids
from stdcli.evaluate.report import Report, claim, head, make_table, read_report
from stdcli.media.image import read_image

Cell = tuple[str, str]


def compare_reports(
    paths: Sequence[Path], config: EvalConfig, *, out: Path, command: str, console: Console
) -> Report:
    """Put reports side by side.

    Args:
        paths: two or more reports, or their folders.
        config: title and thresholds.
        out: folder of the new report.
        command: what the user typed.
        console: told what is left out, and where columns were kept apart.

    Raises:
        MediaError: not a report, or nothing in common.
        GateError: a threshold is not met; the report is written all the same.
    """
    reports = [read_report(path) for path in paths]
    shared = set.intersection(*({cell for cell, _ in _cells(data)} for data, _ in reports))
    if not shared:
        raise MediaError(
            "the reports have no content in the same style in common", got=", ".join(map(str, paths))
        )
    first = reports[0][0]
    report = Report(head(config.title, command=command))
    data = report.data
    data |= {
        "suite": {"reports": [str(path) for path in paths]},
        "contents": [entry for entry in first["contents"] if entry["sha256"] in {cell[0] for cell in shared}],
        "styles": [entry for entry in first["styles"] if entry["sha256"] in {cell[1] for cell in shared}],
        "methods": [],
        "metrics": [],
        "results": [],
        "table": [],
        "floors": first["floors"],
    }
    names = {entry["sha256"]: entry["id"] for entry in (*data["contents"], *data["styles"])}
    for source, folder in reports:
        dropped = sum(cell not in shared for cell, _ in _cells(source))
        if dropped:
            console.warning(f"{folder}: {dropped} results have no counterpart in the others and are left out")
        _add(report, source, folder, shared=shared, names=names)
    apart = [column["title"] for column in data["metrics"] if column["id"] != column["name"]]
    for title in apart:
        console.warning(
            f"{title}: measured by another protocol or with other weights; in a column of its own"
        )
    _show_inputs(report, *reports[0])
    claim(out)
    data["gates"] = judge(config.threshold, data)
    report.write(out)
    enforce(data["gates"])
    return report


def _cells(data: Mapping[str, Any]) -> list[tuple[Cell, Mapping[str, Any]]]:
    """((content's hash, style's hash), result) of every result."""
    contents, styles = (
        {entry["id"]: entry["sha256"] for entry in data[kind]} for kind in ("contents", "styles")
    )
    return [((contents[r["content"]], styles[r["style"]]), r) for r in data["results"]]


def _add(
    report: Report, source: Mapping[str, Any], folder: Path, *, shared: set[Cell], names: Mapping[str, str]
) -> None:
    """A report's methods, with their results on the shared cells."""
    data = report.data
    columns = {entry["id"]: _column_id(data, entry) for entry in source["metrics"]}
    known = [method["id"] for method in data["methods"]]
    fresh = make_ids([*known, *(method["id"] for method in source["methods"])])[len(known) :]
    methods = dict(zip((method["id"] for method in source["methods"]), fresh, strict=True))
    data["methods"] += [{**method, "id": methods[method["id"]]} for method in source["methods"]]
    results = []
    for cell, result in _cells(source):
        if cell in shared:
            values = {columns[name]: value for name, value in result["values"].items()}
            place = {"method": methods[result["method"]], "content": names[cell[0]], "style": names[cell[1]]}
            results.append({**result, **place, "values": values})
            _show(
                report,
                f"result/{place['method']}/{place['content']}/{place['style']}",
                folder,
                result["file"],
            )
    data["results"] += results
    measured = [columns[entry["id"]] for entry in source["metrics"] if entry["group"] != "speed"]
    data["table"] += make_table(methods.values(), results, measured)
    timed = {entry["id"] for entry in source["metrics"] if entry["group"] == "speed"}
    data["table"] += [
        {**row, "method": methods[row["method"]], "metric": columns[row["metric"]]}
        for row in source["table"]
        if row["metric"] in timed
    ]


def _column_id(data: dict[str, Any], entry: Mapping[str, Any]) -> str:
    """The column of a metric: one that is there with the same protocol and weights, else a new one."""
    same = ("name", "protocol", "weights")
    for column in data["metrics"]:
        if all(column[key] == entry[key] for key in same):
            column["missing"] = column["missing"] and entry["missing"]
            return column["id"]
    name = make_ids([*(column["id"] for column in data["metrics"]), entry["name"]])[-1]
    data["metrics"].append({**entry, "id": name})
    return name


def _show_inputs(report: Report, source: Mapping[str, Any], folder: Path) -> None:
    for entry in report.data["contents"]:
        suffix = "/%05d.png" if entry["kind"] == "clip" else ".png"
        _show(report, f"content/{entry['id']}", folder, f"pictures/content/{entry['id']}{suffix}")
    for entry in report.data["styles"]:
        _show(report, f"style/{entry['id']}", folder, f"pictures/style/{entry['id']}.png")


def _show(report: Report, key: str, folder: Path, file: str | None) -> None:
    """Put a kept picture, or the middle frame of a kept clip, on the page, if it is there."""
    if file is None:
        return
    path = folder / file
    if "%" in path.name:
        frames = sorted(path.parent.glob("*.png"))
        index = len(frames) // 2
        if frames:
            report.images[f"{key}/{index:04d}"] = _read(frames[index])
    elif path.is_file():
        report.images[key] = _read(path)


def _read(path: Path) -> np.ndarray:
    return read_image(path).rgb
