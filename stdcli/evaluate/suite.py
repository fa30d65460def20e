"""`stdcli eval run`: stylize a grid by every method of a suite, measure it, and write the report."""

from __future__ import annotations

import gc
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from stdcli.config.evaluate import EvalConfig
from stdcli.demo.sample_inputs import write_photos, write_styles
from stdcli.errors import ConfigError
from stdcli.evaluate.evaluation import Evaluation
from stdcli.evaluate.grid_run import Cell, GridRun, make_cells
from stdcli.evaluate.inputs import Content, Style, read_contents, read_styles
from stdcli.evaluate.measure import check_motion, check_request
from stdcli.evaluate.report import Report, check_folder, speed_columns, speed_rows
from stdcli.evaluate.suite_methods import SuiteMethod, expand_methods
from stdcli.media.sources import left_out_note
from stdcli.reporter import Reporter


@dataclass(frozen=True)
class SuitePlan:
    """A suite with its inputs read.

    Attributes:
        cells: which content meets which style.
        contents: photos and clips.
        styles: style pictures.
        methods: what restyles them.
        left_out: a sentence that names files of kinds that are not read; None for none.
    """

    cells: list[Cell]
    contents: list[Content]
    styles: list[Style]
    methods: list[SuiteMethod]
    left_out: str | None = None

    def line(self) -> str:
        """One line for the user."""
        parts = (
            f"{len(self.methods)} methods",
            f"{len(self.contents)} contents",
            f"{len(self.styles)} styles",
            f"{len(self.methods) * len(self.cells)} results",
        )
        return " · ".join(parts)


def plan_suite(config: EvalConfig, *, out: Path, overwrite: bool) -> SuitePlan:
    """Check a suite and read its inputs, or make the samples where it names none; writes nothing.

    Raises:
        ConfigError: no methods, unknown metrics, thresholds on nothing, or a grid that cannot be made.
        MediaError: inputs that cannot be read, or a folder that holds other things than a report.
        ResourceError: scikit-image, which has the sample photos, is not installed.
    """
    if not config.methods:
        hint = "stdcli eval run --suite eval/embedded"
        raise ConfigError("nothing to compare", [("methods", "is empty")], hint=hint)
    check_request(config, timed=True)
    check_folder(out, overwrite=overwrite)
    with tempfile.TemporaryDirectory() as folder:
        left_out: list[Path] = []
        photos = config.contents or write_photos(Path(folder) / "photos")
        contents = read_contents(photos, size_px=config.size, frames=config.frames, left_out=left_out)
        styles = read_styles(config.styles or write_styles(Path(folder) / "styles"), left_out=left_out)
    if any(content.is_clip for content in contents):
        check_motion(config)
    cells = make_cells(contents, styles, grid=config.grid)
    return SuitePlan(cells, contents, styles, expand_methods(config), left_out_note(left_out))


def run_suite(config: EvalConfig, plan: SuitePlan, *, out: Path, command: str, reporter: Reporter) -> Report:
    """Stylize, measure, report.

    Args:
        config: the suite.
        plan: its inputs, from `plan_suite`.
        out: folder of the report; files of the report's names are replaced in it.
        command: what the user typed, for the report.
        reporter: told of progress.

    Raises:
        GateError: a threshold is not met; the report is written all the same.
        StdcliError: models or weights as in the other commands.
    """
    evaluation = Evaluation.open(config, plan.contents, out=out, command=command, reporter=reporter)
    for style in plan.styles:
        evaluation.add_style(style)
    data = evaluation.report.data
    data["metrics"] += speed_columns(f"{data['machine']}, contents of at most {config.size} px")
    with reporter.progress("results", len(plan.methods) * len(plan.cells)) as progress:
        for method in plan.methods:
            run = None  # two models at once may be one too many
            gc.collect()
            run = GridRun.load(method, plan.styles, reporter)
            for content, style, frames in run.stylize(plan.cells):
                result = replace(content, frames=frames)
                evaluation.add_result(method.id, result, source=content, styles=[style], style_id=style.id)
                progress.advance()
            about = {"settings": run.metadata(), "hashes": run.hashes()}
            evaluation.add_method(method.id, title=method.title, family=method.family, **about)
            data["table"] += speed_rows(method.id, run.speed(), frames=run.watch.frames)
    return evaluation.finish()
