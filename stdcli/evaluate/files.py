"""`stdcli eval measure`: results that are already there, whoever made them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stdcli.config.evaluate import EvalConfig
from stdcli.console import Console
from stdcli.errors import MediaError
from stdcli.evaluate.evaluation import Evaluation
from stdcli.evaluate.ids import make_ids
from stdcli.evaluate.inputs import Content, Style, read_contents, read_styles
from stdcli.evaluate.measure import check_names
from stdcli.evaluate.report import Report, describe_content

METHOD = "result"


def measure_files(
    names: Sequence[str], config: EvalConfig, *, out: Path | None, command: str, console: Console
) -> Report:
    """Measure results against what they were made from.

    Args:
        names: results: files, folders, numbered pictures.
        config: contents (one, or as many as results), styles (all of every result), metrics.
        out: folder of a report; None writes none.
        command: what the user typed.
        console: told of missing weights.

    Raises:
        MediaError: a result and its content differ in number, size or frames, or cannot be read.
        GateError: a threshold is not met; the report is written all the same.
        StdcliError: weights that do not fit.
    """
    check_names(config)
    results = read_contents(names, size_px=None, frames=config.frames)
    given = read_contents(config.contents, size_px=None, frames=config.frames)
    pairs = list(zip(results, _match(results, given), strict=True))
    styles = read_styles(config.styles)
    sources = [source for _, source in pairs if source is not None]
    evaluation = Evaluation.open(config, sources, out=out, command=command, console=console)
    for style in styles:
        evaluation.add_style(style)
    style_id = _blend(evaluation, styles)
    for result, source in pairs:
        if source is None:
            evaluation.add_content(describe_content(result))
        evaluation.add_result(METHOD, result, source=source, styles=styles, style_id=style_id)
    title = config.title if "title" in config.model_fields_set else "results"
    evaluation.add_method(METHOD, title=title, family=title, settings={}, hashes={})
    return evaluation.finish()


def _match(results: Sequence[Content], given: Sequence[Content]) -> list[Content | None]:
    """The source of each result under the result's id: by order, or one for all; None where none is given."""
    if not given:
        return [None] * len(results)
    if len(given) not in (1, len(results)):
        got = f"{len(results)} results and {len(given)} contents"
        raise MediaError(
            "results and contents do not pair up", got=got, expected="one content, or one for each"
        )
    sources = given if len(given) == len(results) else given * len(results)
    return [_checked(result, source) for result, source in zip(results, sources, strict=True)]


def _checked(result: Content, source: Content) -> Content:
    if result.is_clip != source.is_clip:
        got = ["a clip" if one.is_clip else "a picture" for one in (result, source)]
        raise MediaError("a picture and a clip are no pair", where=result.id, got=got[0], expected=got[1])
    if result.frames.shape != source.frames.shape:
        got, expected = (_size(one) for one in (result, source))
        hint = f"give the content that was restyled, at the size it had: {source.id} differs"
        raise MediaError(
            "a result differs from its content", where=result.id, got=got, expected=expected, hint=hint
        )
    return replace(source, id=result.id)


def _size(content: Content) -> str:
    count, height, width = content.frames.shape[:3]
    return f"{width}x{height}" + (f", {count} frames" if content.is_clip else "")


def _blend(evaluation: Evaluation, styles: Sequence[Style]) -> str:
    """What the report calls the styles of all results; several get an entry of their own."""
    if len(styles) == 1:
        return styles[0].id
    (name,) = make_ids(["-".join(style.id for style in styles) or "none"])
    digest = hashlib.sha256("".join(style.sha256 for style in styles).encode()).hexdigest()
    evaluation.report.data["styles"].append({"id": name, "sha256": digest})
    return name
