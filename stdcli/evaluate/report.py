"""The report of an evaluation: a folder with report.json, report.html and the pictures.

    OUT/report.json    everything, in the form that `eval compare` reads again
    OUT/report.html    the same to look at, one file without any other
    OUT/pictures/      contents, styles and results, lossless

report.json is written last: a folder that holds one is complete. Times and speeds apart, the same inputs give
the same bytes.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import stdcli
from stdcli.console import to_plain
from stdcli.disk.reading import read_object
from stdcli.disk.removing import remove_file, remove_folder
from stdcli.disk.writing import write_durably
from stdcli.errors import MediaError
from stdcli.evaluate.html import render
from stdcli.evaluate.inputs import Content, Style
from stdcli.evaluate.report_form import check_form
from stdcli.media.arrays import fit_max_size
from stdcli.media.image import Picture, write_image
from stdcli.media.output import write_errors
from stdcli.metrics.optional_packages import load_extra

FORMAT, VERSION = "stdcli-report", 1
JSON_FILE, HTML_FILE, PICTURES = "report.json", "report.html", "pictures"
NUMBERED = "%05d"  # in the name of a clip's frames
MARKER = ".stdcli-eval"  # says that a folder was made for a report
SHOWN_FRAMES, SHOWN_PX = 3, 384  # of a clip; longer side on the page
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow", "scikit-image", "opencv-python-headless")
SPEED: dict[str, tuple[str, str, str, str]] = {
    "evaluations": ("evaluations", "lower", "", "steps of the model per frame"),
    "forwards": ("forwards", "lower", "", "passes of the network per frame; guidance doubles them"),
    "encode-ms": ("encoding", "lower", "ms", "per frame, the first call left out"),
    "denoise-ms": ("denoising", "lower", "ms", "per frame, the first call left out"),
    "decode-ms": ("decoding", "lower", "ms", "per frame, the first call left out"),
    "fps": ("frames per second", "higher", "1/s", "files not counted, the first call left out"),
    "peak-mib": (
        "peak memory",
        "lower",
        "MiB",
        "of the process while the method ran and was measured; on a GPU, of tensors",
    ),
}
"""Name -> title, better, unit, protocol."""
COUNTS = ("evaluations", "forwards")
"""Of these, what is the same on every machine."""


@dataclass
class Report:
    """An evaluation as it grows.

    Attributes:
        data: what becomes report.json.
        images: what the page shows, by key: `content/ID`, `style/ID`, `result/METHOD/CONTENT/STYLE`, with a
            frame number behind for clips, and `error/...` for their warping errors.
    """

    data: dict[str, Any]
    images: dict[str, np.ndarray] = field(default_factory=dict)

    def write(self, out: Path) -> Path:
        """Write the page, then report.json.

        Returns:
            The page.

        Raises:
            MediaError: the folder cannot be written to.
            ResourceError: the disk is full, or the plotting library is not installed.
        """
        page, record = out / HTML_FILE, out / JSON_FILE
        text = render(self.data, self.images)
        with write_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            for path, content in ((page, text.encode()), (record, dump(self.data))):
                write_durably(path, content)
        return page


def check_folder(out: Path, *, overwrite: bool) -> None:
    """Make sure, before any work, that a report can be made in a folder: new, empty, or of one cut short.

    Raises:
        MediaError: it is a file, or holds other things and `overwrite` is False.
        ResourceError: matplotlib is not installed.
    """
    load_extra("matplotlib")
    with write_errors(out):
        if out.exists() and not out.is_dir():
            raise MediaError("the output is not a folder", where=out, hint="-o FOLDER")
        is_unfinished = (out / MARKER).is_file() and not (out / JSON_FILE).exists()
        if out.is_dir() and any(out.iterdir()) and not (is_unfinished or overwrite):
            hint = "another folder with -o, or --overwrite to replace files of the report's names in this one"
            raise MediaError("the folder is not empty", where=out, hint=hint)


def prepare_folder(out: Path) -> None:
    """Make the folder of a report, and mark it as one; what an earlier report left in it goes.

    Raises:
        MediaError: it cannot be written to.
        ResourceError: the disk is full.
    """
    with write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in (JSON_FILE, HTML_FILE):
            remove_file(out / name)
        if (out / MARKER).is_file():
            remove_folder(out / PICTURES)
        (out / MARKER).touch()


def dump(data: Mapping[str, Any]) -> bytes:
    """report.json in UTF-8; what is no text, as in names of other encodings, is escaped as JSON does it."""
    text = json.dumps(to_plain(dict(data)), indent=1, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def head(title: str, *, command: str) -> dict[str, Any]:
    """The parts of a report that say what it is and where it was made."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": title,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "command": command,
        "versions": {"stdcli": stdcli.__version__, **_versions()},
        "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores",
    }


def _versions() -> dict[str, str]:
    """Of the packages that numbers depend on, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def describe_content(content: Content) -> dict[str, Any]:
    """A content's entry."""
    count, height, width = content.frames.shape[:3]
    return {
        "id": content.id,
        "kind": "clip" if content.is_clip else "picture",
        "sha256": content.sha256,
        "size": [width, height],
        "frames": count,
        "fps": None if content.fps is None else float(content.fps),
        "file": None,
    }


def describe_style(style: Style) -> dict[str, Any]:
    """A style's entry."""
    return {"id": style.id, "sha256": style.sha256, "file": None}


def speed_columns(where: str) -> list[dict[str, Any]]:
    """Entries of the speed metrics, measured per method; `where` tells what else they depend on."""
    return [
        {
            "id": name,
            "name": name,
            "title": title,
            "group": "speed",
            "better": better,
            "range": [0, None],
            "unit": unit,
            "protocol": protocol if name in COUNTS else f"{protocol}; {where}",
            "weights": {},
            "cite": "",
            "missing": None,
        }
        for name, (title, better, unit, protocol) in SPEED.items()
    ]


def make_table(
    methods: Iterable[str], results: Sequence[Mapping[str, Any]], columns: Iterable[str]
) -> list[dict[str, Any]]:
    """Mean, standard deviation (of the sample) and count per method and metric; null where there is none."""
    rows = []
    for method in methods:
        measured = [result["values"] for result in results if result["method"] == method]
        for column in columns:
            values = [v[column] for v in measured if v.get(column) is not None]
            rows.append({"method": method, "metric": column, **_summary(values)})
    return rows


def best_guidances(data: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Of methods that differ in guidance alone, the one with the best mean of a metric.

    Args:
        data: a report with methods, metrics and table.
        name: of the metric.
    """
    column = next((entry for entry in data["metrics"] if entry["name"] == name), None)
    means = {row["method"]: row["mean"] for row in data["table"] if column and row["metric"] == column["id"]}
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for method in data["methods"]:
        if means.get(method["id"]) is not None and "guidance" in method["settings"]:
            groups.setdefault((method["family"], method["settings"]["steps"]), []).append(method)
    best = []
    for (family, steps), methods in groups.items():
        sign = 1 if column["better"] == "higher" else -1
        chosen = max(methods, key=lambda method: sign * means[method["id"]])
        parts = {"method": chosen["id"], "guidance": chosen["settings"]["guidance"]}
        best.append(
            {"family": family, "steps": steps, "metric": column["id"], **parts, "value": means[chosen["id"]]}
        )
    return best


def speed_rows(method: str, speed: Mapping[str, float], *, frames: int) -> list[dict[str, Any]]:
    """A method's rows of the speed metrics, over so many frames."""
    rows = []
    for name in SPEED:
        value = speed.get(name)
        parts = {"mean": value, "sd": None, "count": 0 if value is None else frames}
        rows.append({"method": method, "metric": name, **parts})
    return rows


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "count": len(values),
    }


def keep_pictures(
    report: Report,
    out: Path,
    key: str,
    *,
    frames: np.ndarray,
    is_clip: bool,
    error_map: np.ndarray | None = None,
) -> str:
    """Write a content, style or result losslessly, and show it on the page.

    Args:
        report: takes the images.
        out: folder of the report.
        key: `content/ID`, `style/ID` or `result/METHOD/CONTENT/STYLE`.
        frames: uint8 [F, H, W, 3].
        is_clip: whether it becomes numbered files.
        error_map: float32 [F - 1, H, W], warping error of each frame but the last.

    Returns:
        Its file, or pattern of numbered files, relative to `out`.
    """
    name = f"{PICTURES}/{key}"
    if not is_clip:
        report.images[key] = fit_max_size(frames[0], SHOWN_PX)
        _write(out / f"{name}.png", frames[0])
        return f"{name}.png"
    for index, frame in enumerate(frames):
        _write(out / name / f"{index:05d}.png", frame)
    for index in _shown(len(frames)):
        report.images[f"{key}/{index:04d}"] = fit_max_size(frames[index], SHOWN_PX)
        if error_map is not None:
            report.images[f"error/{key.removeprefix('result/')}/{index:04d}"] = error_map[index]
    return f"{name}/{NUMBERED}.png"


def _shown(count: int) -> list[int]:
    """Frames of a clip that the page shows: spread; never the last, which has none to be compared with."""
    return sorted({(2 * k + 1) * (count - 1) // (2 * SHOWN_FRAMES) for k in range(SHOWN_FRAMES)})


def _write(path: Path, rgb: np.ndarray) -> None:
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, Picture(np.ascontiguousarray(rgb)), overwrite=True)


def read_report(path: Path) -> tuple[dict[str, Any], Path]:
    """A report, and the folder that it is in.

    Args:
        path: report.json, or a folder that holds one.

    Raises:
        MediaError: none there, not one that this version reads, or one that names files outside its folder.
    """
    file = path / JSON_FILE if path.is_dir() else path
    if not file.exists():
        raise MediaError(
            "no report here", where=path, expected=f"a folder that holds {JSON_FILE}, or that file"
        )
    try:
        data = read_object(file, MediaError)
    except MediaError as error:
        raise MediaError(f"not a report: {error.what}", where=file, got=error.got) from error
    found = data.get("format"), data.get("version")
    if found != (FORMAT, VERSION):
        raise MediaError("not a report that is understood", where=file, got=found, expected=(FORMAT, VERSION))
    check_form(data, file)
    return data, file.parent
