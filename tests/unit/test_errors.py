"""Rendering and exit codes of errors."""

import pytest

from stdcli import errors
from stdcli.errors import ConfigError, StdcliError


def test_render_full_message() -> None:
    error = StdcliError(
        "strength is out of range",
        where="presets/x.yaml",
        got=1.4,
        expected="0 < strength <= 1",
        hint="stdcli presets show x",
    )
    assert error.render().splitlines() == [
        "error: strength is out of range",
        "  at: presets/x.yaml",
        "  got 1.4, expected 0 < strength <= 1",
        "  hint: stdcli presets show x",
    ]
    assert str(error) == error.render()


@pytest.mark.parametrize(
    ("parts", "lines"),
    [
        ({}, []),
        ({"where": "a"}, ["  at: a"]),
        ({"got": 0}, ["  got 0"]),
        ({"got": False, "expected": True}, ["  got False, expected True"]),
        ({"expected": "b"}, ["  expected b"]),
        ({"hint": "c"}, ["  hint: c"]),
    ],
)
def test_parts_that_are_not_given_leave_no_trace(parts: dict, lines: list[str]) -> None:
    assert StdcliError("what", **parts).render().splitlines() == ["error: what", *lines]


def test_config_error_lists_all_problems_before_the_hint() -> None:
    error = ConfigError("two problems", [("a.b", "is bad"), ("c", "is worse")], where="f.yaml", hint="help")
    assert error.render().splitlines() == [
        "error: two problems",
        "  at: f.yaml",
        "  a.b: is bad",
        "  c: is worse",
        "  hint: help",
    ]
    assert error.to_dict() == {
        "type": "ConfigError",
        "exit_code": 2,
        "what": "two problems",
        "where": "f.yaml",
        "hint": "help",
        "problems": [{"path": "a.b", "message": "is bad"}, {"path": "c", "message": "is worse"}],
    }


def test_exit_codes_are_a_promise_to_scripts() -> None:
    codes = {
        "StdcliError": 1,
        "ConfigError": 2,
        "BankError": 3,
        "BankCorruptError": 3,
        "BankMismatchError": 3,
        "ModelError": 4,
        "MissingWeights": 4,
        "MediaError": 5,
        "HubError": 6,
        "ResourceError": 7,
        "GateError": 8,
        "NumericsError": 9,
        "Interrupted": 130,
    }
    found = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, StdcliError)
    }
    assert found == codes
