"""One result measured, for programs: arrays or files in, numbers out.

Legend: F frames, H W pixels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import numpy as np

from stdcli.config.evaluate import EvalConfig
from stdcli.config.load import resolve
from stdcli.errors import MediaError
from stdcli.evaluate.inputs import Content, Style, read_contents, read_styles
from stdcli.evaluate.measure import check_motion, check_request
from stdcli.evaluate.measured_files import measure_contents
from stdcli.media.arrays import as_frames
from stdcli.reporter import LogReporter, Reporter

StrPath: TypeAlias = str | os.PathLike[str]
ArrayOrFile: TypeAlias = np.ndarray | StrPath
"""uint8 [H, W, 3] sRGB, of a clip [F, H, W, 3]; or the path of a picture or clip."""


def measure(
    result: ArrayOrFile,
    *,
    content: ArrayOrFile | None = None,
    style: ArrayOrFile | Sequence[ArrayOrFile] = (),
    metrics: str | Sequence[str] | None = None,
    prompt: str | None = None,
    fps: float = 25,
    weights: Mapping[str, StrPath] | None = None,
    device: str = "auto",
    offline: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, float | None]:
    """Measure a restyled picture or clip against what it was made from, as `stdcli eval measure` does.

    Args:
        result: what was made.
        content: what it was made from, of the same size and length.
        style: the style picture, or all that were blended.
        metrics: names, as "palette, edges" or a list, see `stdcli eval metrics`; None: all without weights.
        prompt: what the result should show, for metrics that compare with a text.
        fps: of clips that come as arrays.
        weights: files of the networks that metrics use, by name.
        device: "auto", "cpu", "mps", "cuda" or "cuda:N".
        offline: never use the network.
        reporter: told of what is left out; None writes to the logger "stdcli".

    Returns:
        Value of each metric, by its name; None where it does not apply, for lack of a content, say.

    Raises:
        ConfigError: an unknown metric.
        MediaError: not a picture or clip, or none that goes with its content.
        ModelError: a metric's weights are not here, or do not fit.
        ResourceError: a package that a metric uses is not installed.
    """
    given = {"metrics": metrics, "prompt": prompt, "device": device, "offline": offline, "require": True}
    given["weights"] = [f"{name}={os.fspath(path)}" for name, path in (weights or {}).items()]
    config = resolve("eval", flags=given).config
    check_request(config, timed=False)
    made = _content(result, config, fps)
    sources = [] if content is None else [_content(content, config, fps)]
    if made.is_clip and sources:
        check_motion(config)
    listed = style if isinstance(style, list | tuple) else [style]
    styles = [_style(one, place) for place, one in enumerate(listed)]
    told = reporter or LogReporter()
    report = measure_contents(
        [made], sources, styles, config, out=None, command="stdcli.measure", reporter=told
    )
    return dict(report.data["results"][0]["values"])


def _content(value: ArrayOrFile, config: EvalConfig, fps: float) -> Content:
    if not isinstance(value, np.ndarray):
        found = read_contents([Path(value)], size_px=None, frames=config.frames)
        if len(found) != 1:
            raise MediaError("one picture or clip at a time", where=value, got=f"{len(found)} files")
        return found[0]
    frames = as_frames(value)
    rate = None if value.ndim == 3 else Fraction(fps).limit_denominator(100_000)
    return Content("array", frames, _hash(frames), rate, "array", len(frames))


def _style(value: ArrayOrFile, place: int) -> Style:
    if not isinstance(value, np.ndarray):
        return read_styles([Path(value)])[0]
    if len(frames := as_frames(value)) > 1:
        raise MediaError("a style is one picture", got=f"{len(frames)} frames")
    return Style(f"style-{place}", frames[0], _hash(frames))


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()
