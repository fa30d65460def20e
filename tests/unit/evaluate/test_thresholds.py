"""Thresholds on means."""

import pytest

from stdcli.errors import ConfigError, GateError
from stdcli.evaluate.thresholds import check_thresholds, enforce

METHODS = [
    {"id": "teacher-30", "title": "teacher, 30 steps", "family": "teacher"},
    {"id": "teacher-4", "title": "teacher, 4 steps", "family": "teacher"},
    {"id": "student-4", "title": "student, 4 steps", "family": "student"},
]
MEANS = {"teacher-30": 3.0, "teacher-4": 5.0, "student-4": 4.0}


def report(metric: str = "palette") -> dict:
    return {
        "methods": METHODS,
        "metrics": [{"id": metric, "name": "palette"}],
        "table": [{"method": name, "metric": metric, "mean": mean} for name, mean in MEANS.items()],
    }


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("palette<=5", [True, True, True]),
        ("palette<5", [True, False, True]),
        ("palette>=4", [False, True, True]),
        ("palette>4", [False, True, False]),
        ("teacher:palette<=4", [True, False]),
        ("student-4:palette<=4", [True]),
        ("teacher, 4 steps:palette<=4", [False]),
    ],
)
def test_every_method_that_a_rule_is_about_is_judged(rule: str, expected: list[bool]) -> None:
    verdicts = check_thresholds([rule], report())
    assert [gate["passed"] for gate in verdicts] == expected
    assert all(gate["value"] == MEANS[gate["method"]] and gate["rule"] == rule for gate in verdicts)


def test_what_has_no_value_has_not_passed() -> None:
    data = report()
    data["table"][0]["mean"] = None
    assert [gate["passed"] for gate in check_thresholds(["palette<=100"], data)] == [False, True, True]


def test_every_column_of_a_metric_is_judged() -> None:
    data = report("palette-2")
    assert [gate["metric"] for gate in check_thresholds(["student:palette<1"], data)] == ["palette-2"]


def test_a_method_is_judged_by_the_column_that_it_was_measured_in() -> None:
    data = report()
    data["metrics"].append({"id": "palette-2", "name": "palette"})
    data["table"][2]["metric"] = "palette-2"
    verdicts = check_thresholds(["palette<=5"], data)
    columns = [(gate["method"], gate["metric"]) for gate in verdicts]
    assert columns == [("teacher-30", "palette"), ("teacher-4", "palette"), ("student-4", "palette-2")]
    assert all(gate["passed"] for gate in verdicts)


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        check_thresholds(["studnet-4:palette<=1"], report())
    assert "did you mean student-4" in caught.value.render()


def test_all_failures_are_told_at_once() -> None:
    enforce(check_thresholds(["palette<=5"], report()))
    with pytest.raises(GateError) as caught:
        enforce(check_thresholds(["palette<4", "student:palette<=4"], report()))
    text = caught.value.render()
    assert "2 thresholds are not met" in text
    assert "teacher-4: palette<4, got 5" in text and "student-4: palette<4, got 4" in text
    assert caught.value.exit_code == 8
