"""`stdcli eval`: measure results, stylize and measure whole grids, compare methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stdcli.cli.command import Call, Option, argument, command, option, setting
from stdcli.cli.options import shared
from stdcli.cli.usage import command_line, make_group
from stdcli.console import Console

DEFAULT_SUITE = "eval/embedded"
ARROWS = {"higher": "up", "lower": "down"}

CONTENT = setting("--content", list[str], "PATH", "Photo, clip or folder; repeatable.", key="contents")
STYLE = setting("--style", list[str], "PATH", "Style picture or folder; repeatable.", key="styles")
MEASURING = (
    setting("--metrics", str, "A,B", "What to measure, or all: stdcli eval metrics."),
    setting("--weights", list[str], "NAME=FILE", "Weights of a metric's network; repeatable."),
    setting("--flow", str, "DIR", "Folder of .flo files; default: OpenCV's DIS flow.", key="warping.flow"),
    setting("--prompt", str, "TEXT", "What results should show."),
)
THRESHOLD = setting("--threshold", list[str], "RULE", "Such as 'palette<=5'; exit code 8 if it fails.")
REQUIRE = setting("--require", bool, None, "Fail where a metric's weights are not here.")
TITLE = setting("--title", str, "TEXT", "Title of the report.")


def _out(default: str) -> Option:
    return option("--output", Path, "DIR", "Folder of the report.", short="-o", default=Path(default))


@command(
    option("--suite", str, "NAME|FILE", "A preset of eval/, or a YAML file.", default=DEFAULT_SUITE),
    _out("stdcli-eval"),
    CONTENT,
    STYLE,
    option("--method", list[str], "NAME=STUDENT", "One more method: another student of the model."),
    *MEASURING,
    THRESHOLD,
    REQUIRE,
    TITLE,
    *shared("seed device dtype offline set overwrite dry_run"),
)
def run(
    call: Call, *, suite: str, output: Path, method: list[str] | None, overwrite: bool, dry_run: bool
) -> None:
    """Stylize contents in styles by every method of a suite, measure, and write a report.

    \b
    Examples:
      stdcli eval
      stdcli eval run --suite eval/embedded --method lcm=runs/lcm -o report/
      stdcli eval run --suite mine.yaml --threshold 'student:texture<=3'
    """
    console = call.console
    is_file = suite.endswith((".yaml", ".yml", ".json"))
    layer = {"config_file": Path(suite)} if is_file else {"preset": suite}
    config = call.resolve("eval", **layer).config
    from stdcli.config.evaluate import add_methods
    from stdcli.config.quantities import split_weights
    from stdcli.errors import ConfigError

    try:
        extra = [split_weights(text) for text in method or ()]
    except ValueError as error:
        raise ConfigError("not a method", [("--method", str(error))]) from error
    config = add_methods(config, extra)
    from stdcli.evaluate.suite import plan_suite, run_suite

    plan = plan_suite(config, out=output, overwrite=overwrite)
    if plan.left_out:
        console.warning(plan.left_out)
    console.note(plan.line())
    if dry_run:
        console.result(
            f"would write {output}", path=output, dry_run=True, methods=[m.title for m in plan.methods]
        )
        return
    report = run_suite(config, plan, out=output, command=command_line(), reporter=console)
    _show(console, report.data, page=output / "report.html")


@command(
    argument("results", list[str], "RESULT...", "Pictures, clips or folders."),
    CONTENT,
    STYLE,
    option("--output", Path, "DIR", "Write a report here, too.", short="-o"),
    *MEASURING,
    THRESHOLD,
    REQUIRE,
    TITLE,
    *shared("device offline set overwrite"),
)
def measure(call: Call, *, results: list[str], output: Path | None, overwrite: bool) -> None:
    """Measure results that are there, whoever made them, against their content and style.

    \b
    Examples:
      stdcli eval measure photo.std.png --content photo.jpg --style painting.jpg
      stdcli eval measure clip.std.mp4 --content clip.mp4 --style painting.jpg --set frames=100
      stdcli eval measure theirs/ --content photos/ --style painting.jpg --title theirs -o report/
    """
    console = call.console
    config = call.resolve("eval").config
    from stdcli.evaluate.measured_files import measure_files
    from stdcli.evaluate.report import check_folder

    if output is not None:
        check_folder(output, overwrite=overwrite)
    report = measure_files(results, config, out=output, command=command_line(), reporter=console)
    _show(console, report.data, page=output and output / "report.html")


@command(
    argument("reports", list[Path], "REPORT REPORT...", "Folders that eval run or measure wrote."),
    _out("stdcli-compare"),
    THRESHOLD,
    TITLE,
    *shared("overwrite"),
)
def compare(call: Call, *, reports: list[Path], output: Path, overwrite: bool) -> None:
    """Put the methods of several reports side by side, on what all of them have.

    \b
    Examples:
      stdcli eval compare ours/ theirs/ -o comparison/
      stdcli eval compare monday/ tuesday/ --threshold 'palette<=5'
    """
    console = call.console
    config = call.resolve("eval").config
    from stdcli.evaluate.compare import compare_reports
    from stdcli.evaluate.report import check_folder

    check_folder(output, overwrite=overwrite)
    report = compare_reports(reports, config, out=output, command=command_line(), reporter=console)
    _show(console, report.data, page=output / "report.html")


@command()
def list_metrics(call: Call) -> None:
    """List what can be measured, what each needs, and how to fetch the weights.

    \b
    Examples:
      stdcli eval metrics
      stdcli eval metrics --json
    """
    console = call.console
    from stdcli.metrics.registry import METRICS, find_metric
    from stdcli.models.perceptual.backbones import BACKBONES

    found = [find_metric(name) for name in METRICS]
    columns = ("name", "title", "group", "better", "needs", "weights", "source")
    rows = [
        (m.name, m.title, m.group, m.better, " ".join(m.needs), " ".join(m.backbones) or "-", m.cite)
        for m in found
    ]
    console.table(columns, rows)
    for spec in BACKBONES.values():
        console.note(f"{spec.name}: {spec.fetch}")


def _show(console: Console, data: Mapping[str, Any], *, page: Path | None) -> None:
    """The means, and where the page is; in json mode the whole report."""
    if console.mode == "json":
        console.result("", **data)
        return
    if page is not None and console.mode == "quiet":
        console.result("", path=page)
        return
    console.table(*_table(data))
    if page is not None:
        console.note(f"report: {page}")


def _table(data: Mapping[str, Any]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Metrics down, methods across."""
    means = {(row["method"], row["metric"]): row["mean"] for row in data["table"]}
    methods = [method["id"] for method in data["methods"]]
    rows = []
    for column in data["metrics"]:
        values = [means.get((method, column["id"])) for method in methods]
        if column["missing"] or any(value is not None for value in values):
            shown = ["n/a" if value is None else f"{value:.4g}" for value in values]
            rows.append([column["id"], ARROWS[column["better"]], *shown])
    return ["metric", "better", *methods], rows


GROUP = make_group(
    "eval",
    "Measure style, content, steadiness and speed; compare methods.",
    {"run": run, "measure": measure, "compare": compare, "metrics": list_metrics},
    default="run",
)
