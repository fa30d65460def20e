"""`stdcli eval measure`: results that are already there, whoever made them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stdcli.config.evaluate import EvalConfig
from stdcli.errors import MediaError
from stdcli.evaluate.evaluation import Evaluation
from stdcli.evaluate.ids import make_ids
from stdcli.evaluate.inputs import Content, Style, read_contents, read_styles
from stdcli.evaluate.measure import check_motion, check_request
from stdcli.evaluate.report import Report, describe_content
from stdcli.media.sources import left_out_note
from stdcli.reporter import Reporter

METHOD = "result"


def measure_files(
    names: Sequence[str], config: EvalConfig, *, out: Path | None, command: str, reporter: Reporter
) -> Report:
    """Measure results against what they were made from.

    Args:
        names: results: files, folders, numbered pictures.
        config: contents (one, or as many as results), styles (all of every result), metrics.
        out: folder of a report; None writes none.
        command: what the user typed.
        reporter: told of missing weights.

    Raises:
        MediaError: results and contents differ in number, size, length or rate, or cannot be read.
        GateError: a threshold is not met; the report is written all the same.
        StdcliError: weights that do not fit.
    """
    check_request(config, timed=False)
    left_out: list[Path] = []
    results = read_contents(names, size_px=None, frames=config.frames, left_out=left_out)
    given = read_contents(config.contents, size_px=None, frames=config.frames, left_out=left_out)
    if any(result.is_clip for result in results) and given:
        check_motion(config)
    styles = read_styles(config.styles, left_out=left_out)
    if note := left_out_note(left_out):
        reporter.warning(note)
    return measure_contents(results, given, styles, config, out=out, command=command, reporter=reporter)


def measure_contents(
    results: Sequence[Content],
    given: Sequence[Content],
    styles: Sequence[Style],
    config: EvalConfig,
    *,
    out: Path | None,
    command: str,
    reporter: Reporter,
) -> Report:
    """Measure results that are read; see `measure_files`."""
    pairs = list(zip(results, _match(results, given, reporter), strict=True))
    sources = [source for _, source in pairs if source is not None]
    evaluation = Evaluation.open(config, sources, out=out, command=command, reporter=reporter)
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


def _match(results: Sequence[Content], given: Sequence[Content], reporter: Reporter) -> list[Content | None]:
    """The source of each result under the result's id; None where none is given.

    One source is that of all results. Several are found by name, as `photo` of `photo.std`; if that does not
    give each result a source of its own, by order, with a warning.
    """
    if not given:
        return [None] * len(results)
    if len(given) == 1:
        sources = list(given) * len(results)
    elif len(given) == len(results):
        sources = by_name(results, given)
        if sources is None:
            sources = list(given)
            pairs = ", ".join(
                f"{result.name} of {source.name}" for result, source in zip(results, sources, strict=True)
            )
            reporter.warning(f"names do not say which result is of which content; taken in order: {pairs}")
    else:
        got = f"{len(results)} results and {len(given)} contents"
        raise MediaError(
            "results and contents do not pair up", got=got, expected="one content, or one for each"
        )
    return [_checked(result, source) for result, source in zip(results, sources, strict=True)]


def by_name(results: Sequence[Content], given: Sequence[Content]) -> list[Content] | None:
    """The content with the longest name that each result's name begins with; None unless all are paired."""
    known: dict[str, Content] = {}
    for source in given:
        known.setdefault(source.name, source)
    found = [_longest_beginning(result.name, known) for result in results]
    return found if len({id(source) for source in found if source is not None}) == len(results) else None


def _longest_beginning(name: str, known: Mapping[str, Content]) -> Content | None:
    cuts = (cut for cut in range(len(name), -1, -1) if not name[cut : cut + 1].isalnum())
    return next((known[name[:cut]] for cut in cuts if name[:cut] in known), None)


def _checked(result: Content, source: Content) -> Content:
    if result.is_clip != source.is_clip:
        got = ["a clip" if one.is_clip else "a picture" for one in (result, source)]
        raise MediaError("a picture and a clip are no pair", where=result.name, got=got[0], expected=got[1])
    if _form(result) != _form(source):
        got, expected = (_size(one) for one in (result, source))
        hint = "give the content that was restyled, at the size, rate and length that it had"
        what = f"a result differs from its content {source.name}"
        raise MediaError(what, where=result.name, got=got, expected=expected, hint=hint)
    return replace(source, id=result.id)


def _form(content: Content) -> tuple[object, ...]:
    return content.frames.shape[1:3], content.total, content.fps


def _size(content: Content) -> str:
    height, width = content.frames.shape[1:3]
    return f"{width}x{height}" + (
        f", {content.total} frames, {content.fps} per second" if content.is_clip else ""
    )


def _blend(evaluation: Evaluation, styles: Sequence[Style]) -> str:
    """What the report calls the styles of all results; several get an entry of their own."""
    if len(styles) == 1:
        return styles[0].id
    (name,) = make_ids(["-".join(style.id for style in styles) or "none"])
    digest = hashlib.sha256("".join(sorted(style.sha256 for style in styles)).encode()).hexdigest()
    evaluation.report.data["styles"].append({"id": name, "sha256": digest, "file": None})
    return name
