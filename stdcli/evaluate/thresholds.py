"""Thresholds: what must hold of a report's means."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from stdcli.config.names import near_misses
from stdcli.config.quantities import split_threshold
from stdcli.errors import ConfigError, GateError

SIGNS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


def check_thresholds(thresholds: Iterable[str], report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every threshold on every method that it is about.

    Args:
        thresholds: such as 'palette<=5', of all methods, or 'student:edges>=0.6', of those of that id, title
            or family.
        report: with methods, metrics and table.

    Returns:
        Entries for the report's `gates`; one without a value has not passed.

    Raises:
        ConfigError: a method that is not there.
    """
    means = {(row["method"], row["metric"]): row["mean"] for row in report["table"]}
    verdicts = []
    for text in thresholds:
        name, metric, sign, limit = split_threshold(text)
        for method in _methods(name, report["methods"], text):
            columns = [column["id"] for column in report["metrics"] if column["name"] == metric]
            measured = [column for column in columns if means.get((method, column)) is not None]
            for column in measured or columns[:1] or [metric]:
                value = means.get((method, column))
                passed = value is not None and SIGNS[sign](value, limit)
                verdicts.append(
                    {
                        "metric": column,
                        "method": method,
                        "rule": text,
                        "value": value,
                        "passed": passed,
                    }
                )
    return verdicts


def enforce(verdicts: Iterable[Mapping[str, Any]]) -> None:
    """Raise unless all gates have passed.

    Raises:
        GateError: names every one that has not.
    """
    failed = [gate for gate in verdicts if not gate["passed"]]
    if failed:
        told = "; ".join(f"{gate['method']}: {gate['rule']}, got {_shown(gate['value'])}" for gate in failed)
        raise GateError(
            f"{len(failed)} thresholds are not met" if len(failed) > 1 else "a threshold is not met", got=told
        )


def _methods(name: str | None, methods: Iterable[Mapping[str, Any]], text: str) -> list[str]:
    known = list(methods)
    found = [m["id"] for m in known if name is None or name in (m["id"], m["title"], m["family"])]
    if not found:
        problem = (
            f"{text!r}: no method is called {name!r}; {near_misses(name or '', [m['id'] for m in known])}"
        )
        raise ConfigError("a threshold on nothing", [("threshold", problem)])
    return found


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"
