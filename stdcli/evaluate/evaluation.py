"""An evaluation under way: sources, motion, metrics and the report that grows.

Legend: F frames, H W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stdcli.config.evaluate import EvalConfig
from stdcli.console import to_plain
from stdcli.evaluate.inputs import Content, Style
from stdcli.evaluate.measure import Measures
from stdcli.evaluate.report import (
    Report,
    best_guidances,
    describe_content,
    describe_style,
    head,
    keep_pictures,
    make_table,
    prepare_folder,
)
from stdcli.evaluate.thresholds import check_thresholds, enforce
from stdcli.metrics.metric import Flows, Subject
from stdcli.reporter import Reporter


@dataclass
class Evaluation:
    """What is measured, by what, and what came of it.

    Attributes:
        config: metrics, thresholds, prompt, title.
        measures: metrics with their networks.
        flows: motion of each source clip, by its id.
        out: folder of the report; None keeps nothing.
        report: so far.
    """

    config: EvalConfig
    measures: Measures
    flows: dict[str, Flows]
    out: Path | None
    report: Report
    _began_s: float = field(default_factory=time.perf_counter)

    @classmethod
    def open(
        cls,
        config: EvalConfig,
        contents: Sequence[Content],
        *,
        out: Path | None,
        command: str,
        reporter: Reporter,
    ) -> Evaluation:
        """Load metrics, follow the motion of the clips, and begin a report.

        Args:
            config: the suite.
            contents: the sources that are there.
            out: folder of the report, or None.
            command: what the user typed.
            reporter: told of weights that are not here.

        Raises:
            StdcliError: see `Measures.open` and `Measures.flows`.
        """
        if out is not None:
            prepare_folder(out)
        measures = Measures.open(config)
        for line in dict.fromkeys(f"n/a: {error.what}; {error.fetch}" for error in measures.missing.values()):
            reporter.warning(line)
        clips = len({content.sha256 for content in contents if content.is_clip})
        for content in contents:
            if content.total > len(content.frames):
                reporter.note(f"{content.name}: the first {len(content.frames)} of {content.total} frames")
        followed = ((content.id, measures.flows(content, among=clips)) for content in contents)
        flows = {name: found for name, found in followed if found is not None}
        report = Report(head(config.title, command=command))
        report.data |= {
            "suite": to_plain(config.model_dump(mode="json")),
            "contents": [],
            "styles": [],
            "methods": [],
            "metrics": measures.columns(list(flows.values())),
            "results": [],
            "table": [],
            "floors": [],
            "gates": [],
        }
        evaluation = cls(config, measures, flows, out, report)
        for content in contents:
            evaluation._add_source(content)
        return evaluation

    def _add_source(self, content: Content) -> None:
        file = self._keep(f"content/{content.id}", content.frames, content.is_clip)
        self.add_content(describe_content(content) | {"file": file})
        baseline = self.measures.source_baseline(self._subject(content, content, ())).items()
        entries = [{"metric": name, "content": content.id, "value": value} for name, value in baseline]
        self.report.data["floors"] += entries

    def add_content(self, entry: dict[str, Any]) -> None:
        """List what was restyled."""
        self.report.data["contents"].append(entry)

    def add_style(self, style: Style) -> None:
        """List a style and keep its picture."""
        file = self._keep(f"style/{style.id}", style.rgb[None], False)
        self.report.data["styles"].append(describe_style(style) | {"file": file})

    def add_method(
        self, method: str, *, title: str, family: str, settings: dict[str, Any], hashes: dict[str, str]
    ) -> None:
        """List a method, and put the means over its results into the table."""
        data = self.report.data
        entry = {
            "id": method,
            "title": title,
            "family": family,
            "settings": to_plain(settings),
            "hashes": hashes,
        }
        data["methods"].append(entry)
        names = [metric.name for metric in self.measures.metrics]
        data["table"] += make_table([method], data["results"], names)

    def add_result(
        self, method: str, result: Content, *, source: Content | None, styles: Sequence[Style], style_id: str
    ) -> None:
        """Measure a result and keep it.

        Args:
            method: its id.
            result: frames under the id of what was restyled.
            source: what was restyled, if it is known.
            styles: what it should look like.
            style_id: what the report calls them.
        """
        subject = self._subject(result, source, styles)
        error_map = self.measures.error_map(subject) if result.is_clip else None
        key = f"result/{method}/{result.id}/{style_id}"
        entry = {"method": method, "content": result.id, "style": style_id}
        entry["file"] = self._keep(key, result.frames, result.is_clip, error_map)
        self.report.data["results"].append(entry | {"values": self.measures.measure(subject)})

    def finish(self) -> Report:
        """Judge the thresholds and write the report.

        Raises:
            GateError: a threshold is not met; the report is there all the same.
            MediaError, ResourceError: it cannot be written.
        """
        data = self.report.data
        if self.config.best_by is not None:
            data["best"] = best_guidances(data, self.config.best_by)
        data["gates"] = check_thresholds(self.config.threshold, data)
        data["seconds"] = round(time.perf_counter() - self._began_s, 1)
        if self.out is not None:
            self.report.write(self.out)
        enforce(data["gates"])
        return self.report

    def _subject(self, result: Content, source: Content | None, styles: Sequence[Style]) -> Subject:
        return Subject(
            frames=result.frames,
            content=None if source is None else source.frames,
            styles=tuple(style.rgb for style in styles),
            prompt=self.config.prompt,
            fps=None if result.fps is None else float(result.fps),
            flows=None if source is None else self.flows.get(source.id),
        )

    def _keep(
        self, key: str, frames: np.ndarray, is_clip: bool, error_map: np.ndarray | None = None
    ) -> str | None:
        if self.out is None:
            return None
        return keep_pictures(self.report, self.out, key, frames=frames, is_clip=is_clip, error_map=error_map)
