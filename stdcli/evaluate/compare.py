"""`stdcli eval compare`: the methods of several reports side by side.

Only what all of them have is compared: contents are matched by hash, size and length, styles by hash. A
metric measured by another protocol or with other weights gets a column of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stdcli.config.evaluate import EvalConfig
from stdcli.disk.opening import own_path
from stdcli.errors import MediaError
from stdcli.evaluate.ids import make_ids
from stdcli.evaluate.report import (
    NUMBERED,
    Report,
    head,
    keep_pictures,
    make_table,
    prepare_folder,
    read_report,
)
from stdcli.evaluate.thresholds import check_thresholds, enforce
from stdcli.media.image import read_image
from stdcli.reporter import Reporter

Cell = tuple[tuple[Any, ...], str]
"""What tells a content (its hash, size, frames and rate), and a style's hash."""


def compare_reports(
    paths: Sequence[Path], config: EvalConfig, *, out: Path, command: str, reporter: Reporter
) -> Report:
    """Put reports side by side.

    Args:
        paths: two or more reports, or their folders.
        config: title and thresholds.
        out: folder of the new report.
        command: what the user typed.
        reporter: told what is left out, and where columns were kept apart.

    Raises:
        MediaError: not a report, or nothing in common.
        GateError: a threshold is not met; the report is written all the same.
    """
    reports = [read_report(path) for path in paths]
    for data, folder in reports:
        _check(data, folder, out)
    shared = set.intersection(*({cell for cell, _ in _cells(data)} for data, _ in reports))
    if not shared:
        raise MediaError(
            "the reports have no content in the same style in common", got=", ".join(map(str, paths))
        )
    report = Report(head(config.title, command=command))
    data = report.data
    data |= _begin(*reports[0], shared=shared) | {"suite": {"reports": [str(path) for path in paths]}}
    names: dict[Any, str] = {_key(entry): entry["id"] for entry in data["contents"]}
    names |= {entry["sha256"]: entry["id"] for entry in data["styles"]}
    for source, folder in reports:
        dropped = sum(cell not in shared for cell, _ in _cells(source))
        if dropped:
            lonely = f"{dropped} results have no counterpart in the others and are left out"
            reporter.warning(f"{folder}: {lonely}")
        _add(report, source, folder, shared=shared, names=names)
    apart = [column["title"] for column in data["metrics"] if column["id"] != column["name"]]
    for title in apart:
        reporter.warning(
            f"{title}: measured by another protocol or with other weights; in a column of its own"
        )
    prepare_folder(out)
    _keep_all(report, out)
    data["gates"] = check_thresholds(config.threshold, data)
    report.write(out)
    enforce(data["gates"])
    return report


def _begin(first: Mapping[str, Any], folder: Path, *, shared: set[Cell]) -> dict[str, Any]:
    """A comparison without methods, its contents and styles those of the first report that all have."""
    contents, styles = ({cell[place] for cell in shared} for place in (0, 1))

    def found(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {**entry, "file": _found(entry, folder)}

    return {
        "contents": [found(entry) for entry in first["contents"] if _key(entry) in contents],
        "styles": [found(entry) for entry in first["styles"] if entry["sha256"] in styles],
        **{name: [] for name in ("methods", "metrics", "results", "table", "floors")},
    }


def _check(data: Mapping[str, Any], folder: Path, out: Path) -> None:
    """Refuse a report that would be replaced, and one whose methods did not all do the same once."""
    if folder.resolve() == out.resolve():
        raise MediaError("the comparison would replace one of its reports", where=out, hint="-o FOLDER")
    cells = [cell for cell, _ in _cells(data)]
    if len(set(cells)) * len(data["methods"]) != len(cells):
        raise MediaError("a method has some content in some style twice, or not at all", where=folder)


def _cells(data: Mapping[str, Any]) -> list[tuple[Cell, Mapping[str, Any]]]:
    """(what tells content and style, result) of every result."""
    contents = {entry["id"]: _key(entry) for entry in data["contents"]}
    styles = {entry["id"]: entry["sha256"] for entry in data["styles"]}
    return [((contents[r["content"]], styles[r["style"]]), r) for r in data["results"]]


def _key(content: Mapping[str, Any]) -> tuple[Any, ...]:
    return content["sha256"], *content["size"], content["frames"], content["fps"]


def _add(
    report: Report,
    source: Mapping[str, Any],
    folder: Path,
    *,
    shared: set[Cell],
    names: Mapping[Any, str],
) -> None:
    """A report's methods, and their results on the shared cells, each with the place of its kept file."""
    data = report.data
    columns = {entry["id"]: _column_id(data, entry) for entry in source["metrics"]}
    known = [method["id"] for method in data["methods"]]
    fresh = make_ids([*known, *(method["id"] for method in source["methods"])])[len(known) :]
    methods = dict(zip((method["id"] for method in source["methods"]), fresh, strict=True))
    where = {"machine": source["machine"], "versions": source["versions"]}
    data["methods"] += [{**method, "id": methods[method["id"]], **where} for method in source["methods"]]
    results = []
    for cell, result in _cells(source):
        if cell in shared:
            values = {columns[name]: value for name, value in result["values"].items()}
            place = {"method": methods[result["method"]], "content": names[cell[0]], "style": names[cell[1]]}
            results.append({**result, **place, "values": values, "file": _found(result, folder)})
    data["results"] += results
    contents = {entry["id"]: names.get(_key(entry)) for entry in source["contents"]}
    for baseline in source["floors"]:
        entry = {**baseline, "metric": columns[baseline["metric"]], "content": contents[baseline["content"]]}
        if entry["content"] is not None and entry not in data["floors"]:
            data["floors"].append(entry)
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
    for column in data["metrics"]:
        same = all(column[key] == entry[key] for key in ("name", "protocol"))
        if same and (column["weights"] == entry["weights"] or column["missing"] or entry["missing"]):
            column["weights"] = column["weights"] or entry["weights"]
            column["missing"] = column["missing"] and entry["missing"]
            return column["id"]
    name = make_ids([*(column["id"] for column in data["metrics"]), entry["name"]])[-1]
    data["metrics"].append({**entry, "id": name})
    return name


def _found(entry: Mapping[str, Any], folder: Path) -> tuple[Path, str] | None:
    """The folder of a report and the name in it of what it kept, which `check_form` has found harmless."""
    return None if entry.get("file") is None else (folder, entry["file"])


def _keep_all(report: Report, out: Path) -> None:
    """Take what the reports kept over into this one, which is whole by itself then, and show it."""
    data = report.data
    counts = {entry["id"]: entry["frames"] for entry in data["contents"] if entry["kind"] == "clip"}
    entries = [(f"content/{entry['id']}", entry, counts.get(entry["id"])) for entry in data["contents"]]
    entries += [(f"style/{entry['id']}", entry, None) for entry in data["styles"]]
    for result in data["results"]:
        key = f"result/{result['method']}/{result['content']}/{result['style']}"
        entries.append((key, result, counts.get(result["content"])))
    for key, entry, count in entries:
        frames = None if entry["file"] is None else _read(*entry["file"], count=count)
        entry["file"] = None
        if frames is not None:
            entry["file"] = keep_pictures(report, out, key, frames=frames, is_clip=count is not None)


def _read(folder: Path, file: str, *, count: int | None) -> np.ndarray | None:
    """uint8 [F, H, W, 3], a picture (`count` None) or kept frames; None if they are gone."""
    names = [file] if count is None else [file.replace(NUMBERED, f"{index:05d}") for index in range(count)]
    paths = [own_path(folder, name, MediaError) for name in names]
    if not all(path.is_file() for path in paths):
        return None
    frames = [read_image(path).rgb for path in paths]
    if len({frame.shape for frame in frames}) > 1:
        raise MediaError("kept frames of one clip differ in size", where=folder / file)
    return np.stack(frames)
