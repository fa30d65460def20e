"""`stdcli eval`: measure results, stylize and measure whole grids, compare methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from stdcli.cli.options import (
    Debug,
    Device,
    DryRun,
    Dtype,
    Json,
    Offline,
    Overwrite,
    Quiet,
    Seed,
    Sets,
    Verbose,
    make_console,
)
from stdcli.cli.usage import command_line, make_group
from stdcli.config.load import resolve
from stdcli.console import Console

app = make_group("eval", "Measure style, content, steadiness and speed; compare methods.", default="run")

DEFAULT_SUITE = "eval/embedded"
ARROWS = {"higher": "up", "lower": "down"}

Out = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the report.")]
Contents = Annotated[
    list[str] | None, typer.Option("--content", metavar="PATH", help="Photo, clip or folder; repeatable.")
]
Styles = Annotated[
    list[str] | None, typer.Option("--style", metavar="PATH", help="Style picture or folder; repeatable.")
]
Metrics = Annotated[
    str | None, typer.Option("--metrics", metavar="A,B", help="What to measure, or all: stdcli eval metrics.")
]
Weights = Annotated[
    list[str] | None,
    typer.Option("--weights", metavar="NAME=FILE", help="Weights of a metric's network; repeatable."),
]
Flow = Annotated[
    str | None,
    typer.Option("--flow", metavar="DIR", help="Folder of .flo files; default: OpenCV's DIS flow."),
]
Require = Annotated[
    bool | None, typer.Option("--require", help="Fail where a metric's weights are not here.")
]
Threshold = Annotated[
    list[str] | None,
    typer.Option("--threshold", metavar="RULE", help="Such as 'palette<=5'; exit code 8 if it fails."),
]
Prompt = Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="What results should show.")]
Title = Annotated[str | None, typer.Option("--title", metavar="TEXT", help="Title of the report.")]


@app.command()
def run(
    suite: Annotated[
        str, typer.Option("--suite", metavar="NAME|FILE", help="A preset of eval/, or a YAML file.")
    ] = DEFAULT_SUITE,
    out: Out = Path("stdcli-eval"),
    content: Contents = None,
    style: Styles = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", metavar="NAME=STUDENT", help="One more method: another student of the model."
        ),
    ] = None,
    metrics: Metrics = None,
    weights: Weights = None,
    flow: Flow = None,
    prompt: Prompt = None,
    threshold: Threshold = None,
    require: Require = None,
    title: Title = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    offline: Offline = None,
    sets: Sets = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Stylize contents in styles by every method of a suite, measure, and write a report.

    \b
    Examples:
      stdcli eval
      stdcli eval run --suite eval/embedded --method lcm=runs/lcm -o report/
      stdcli eval run --suite mine.yaml --threshold 'student:texture<=3'
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
    flags = {
        "contents": content,
        "styles": style,
        "metrics": metrics,
        "weights": weights,
        "warping.flow": flow,
        "prompt": prompt,
        "threshold": threshold,
        "require": require,
        "title": title,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "offline": offline,
    }
    is_file = suite.endswith((".yaml", ".yml", ".json"))
    layer = {"config_file": Path(suite)} if is_file else {"preset": suite}
    config = resolve("eval", **layer, sets=sets or (), flags=flags).config
    from stdcli.config.evaluate import add_methods
    from stdcli.config.quantities import split_weights
    from stdcli.errors import ConfigError

    try:
        extra = [split_weights(text) for text in method or ()]
    except ValueError as error:
        raise ConfigError("not a method", [("--method", str(error))]) from error
    config = add_methods(config, extra)
    from stdcli.evaluate.suite import plan_suite, run_suite

    plan = plan_suite(config, out=out, overwrite=overwrite)
    if plan.left_out:
        console.warning(plan.left_out)
    console.note(plan.line())
    if dry_run:
        console.result(f"would write {out}", path=out, dry_run=True, methods=[m.title for m in plan.methods])
        return
    report = run_suite(config, plan, out=out, command=command_line(), console=console)
    _show(console, report.data, page=out / "report.html")


@app.command()
def measure(
    results: Annotated[list[str], typer.Argument(metavar="RESULT...", help="Pictures, clips or folders.")],
    content: Contents = None,
    style: Styles = None,
    out: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Write a report here, too.")
    ] = None,
    metrics: Metrics = None,
    weights: Weights = None,
    flow: Flow = None,
    prompt: Prompt = None,
    threshold: Threshold = None,
    require: Require = None,
    title: Title = None,
    device: Device = None,
    offline: Offline = None,
    sets: Sets = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Measure results that are there, whoever made them, against their content and style.

    \b
    Examples:
      stdcli eval measure photo.std.png --content photo.jpg --style painting.jpg
      stdcli eval measure clip.std.mp4 --content clip.mp4 --style painting.jpg --set frames=100
      stdcli eval measure theirs/ --content photos/ --style painting.jpg --title theirs -o report/
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
    flags = {
        "contents": content,
        "styles": style,
        "metrics": metrics,
        "weights": weights,
        "warping.flow": flow,
        "prompt": prompt,
        "threshold": threshold,
        "require": require,
        "title": title,
        "device": device,
        "offline": offline,
    }
    config = resolve("eval", sets=sets or (), flags=flags).config
    from stdcli.evaluate.measured_files import measure_files
    from stdcli.evaluate.report import check_folder

    if out is not None:
        check_folder(out, overwrite=overwrite)
    report = measure_files(results, config, out=out, command=command_line(), console=console)
    _show(console, report.data, page=out and out / "report.html")


@app.command()
def compare(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT REPORT...", help="Folders that eval run or measure wrote.")
    ],
    out: Out = Path("stdcli-compare"),
    threshold: Threshold = None,
    title: Title = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Put the methods of several reports side by side, on what all of them have.

    \b
    Examples:
      stdcli eval compare ours/ theirs/ -o comparison/
      stdcli eval compare monday/ tuesday/ --threshold 'palette<=5'
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
    config = resolve("eval", flags={"threshold": threshold, "title": title}).config
    from stdcli.evaluate.compare import compare_reports
    from stdcli.evaluate.report import check_folder

    check_folder(out, overwrite=overwrite)
    report = compare_reports(reports, config, out=out, command=command_line(), console=console)
    _show(console, report.data, page=out / "report.html")


@app.command("metrics")
def list_metrics(
    as_json: Json = False, quiet: Quiet = False, verbose: Verbose = False, debug: Debug = False
) -> None:
    """List what can be measured, what each needs, and how to fetch the weights.

    \b
    Examples:
      stdcli eval metrics
      stdcli eval metrics --json
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
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
