"""What `main` makes of errors, wrong usage, interruptions and bugs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import typer

import stdcli
from stdcli import errors
from stdcli.cli.command import Call, command, option
from stdcli.cli.main import main
from stdcli.cli.usage import make_group, run
from stdcli.config import presets

ROOT = Path(stdcli.__file__).parent.parent


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch):
    """`fail(error)` makes `stdcli presets list` raise it."""

    def arrange(error: BaseException) -> None:
        def raising() -> NoReturn:
            raise error

        monkeypatch.setattr(presets, "list_presets", raising)

    return arrange


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"stdcli {stdcli.__version__}\n", "")


def test_python_m_stdcli_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stdcli", "presets", "shwo"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: stdcli presets has no command 'shwo'\n")


@pytest.mark.parametrize(
    "kind",
    [
        errors.StdcliError,
        errors.ConfigError,
        errors.BankCorruptError,
        errors.ModelError,
        errors.MediaError,
        errors.HubError,
        errors.ResourceError,
        errors.GateError,
        errors.NumericsError,
    ],
)
def test_each_error_has_its_exit_code_and_its_words(kind, fail, capsys) -> None:
    fail(kind("it broke", where="a.png", got=1, expected=2, hint="mend it"))
    assert main(["presets", "list"]) == kind.exit_code
    assert error_of(capsys) == "error: it broke\n  at: a.png\n  got 1, expected 2\n  hint: mend it\n"


def test_json_mode_ends_stderr_with_one_object(fail, capsys) -> None:
    fail(errors.MediaError("it broke", where=Path("a.png")))
    assert main(["presets", "list", "--json"]) == 5
    assert json.loads(error_of(capsys)) == {
        "error": {"type": "MediaError", "exit_code": 5, "what": "it broke", "where": "a.png"}
    }


def test_ctrl_c_is_130(fail, capsys) -> None:
    fail(KeyboardInterrupt())
    assert main(["presets", "list"]) == 130
    assert error_of(capsys).strip() == "error: interrupted"


def test_an_aborted_prompt_is_130_too(fail, capsys) -> None:
    fail(typer.Abort())
    assert main(["presets", "list"]) == 130
    assert error_of(capsys).strip() == "error: interrupted"


def test_exit_codes_of_typer_pass_through(fail) -> None:
    fail(typer.Exit(3))
    assert main(["presets", "list"]) == 3


@pytest.mark.parametrize("bug", [KeyError("x"), ValueError("x"), AssertionError("x"), RecursionError("x")])
def test_anything_else_is_a_bug_without_a_traceback(bug, fail, capsys) -> None:
    fail(bug)
    assert main(["presets", "list"]) == 70
    error = error_of(capsys)
    assert error.startswith(f"error: {type(bug).__name__}: ")
    assert "this is a bug in stdcli" in error
    assert "--debug or STDCLI_DEBUG=1" in error
    assert "Traceback" not in error


def test_debug_shows_the_traceback(fail, capsys) -> None:
    fail(KeyError("x"))
    assert main(["presets", "list", "--debug"]) == 70
    error = error_of(capsys)
    assert error.startswith("Traceback")
    assert "in raising" in error


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_the_variable_shows_the_traceback(value, shown, fail, capsys, monkeypatch) -> None:
    monkeypatch.setenv("STDCLI_DEBUG", value)
    fail(errors.ModelError("no model"))
    assert main(["presets", "list"]) == 4
    assert ("Traceback" in error_of(capsys)) is shown


@pytest.mark.parametrize(
    ("argv", "lines"),
    [
        (["presset"], ["error: stdcli has no command 'presset'", "  hint: did you mean presets?"]),
        (
            ["presets", "shwo"],
            [
                "error: stdcli presets has no command 'shwo'",
                "  expected one of list, show, copy, validate",
                "  hint: did you mean show?",
            ],
        ),
        (["presets", "zzz"], ["  hint: stdcli presets --help"]),
        (
            ["presets", "show", "x", "--resolvd"],
            [
                "error: stdcli presets show has no option --resolvd",
                "  expected one of --resolved, --set, --json, --quiet, -q, --verbose, -v, --debug, --help",
                "  hint: did you mean --resolved?",
            ],
        ),
        (["--json", "presets", "list"], ["stdcli has no option --json", "--json goes after the command"]),
        (["--zzz"], ["error: stdcli has no option --zzz", "  hint: stdcli --help"]),
        (["presets", "show"], ["error: Missing argument 'NAME'", "  hint: stdcli presets show --help"]),
        (["presets", "show", "a", "b"], ["unexpected extra argument(s) (b)", "stdcli presets show --help"]),
        (["presets", "show", "a", "--set"], ["Option '--set' requires an argument"]),
        (["presets", "list", "--json", "-q"], ["--json and --quiet exclude each other"]),
    ],
)
def test_wrong_usage_is_2_and_names_near_misses_and_valid_words(argv, lines, capsys) -> None:
    assert main(argv) == 2
    error = error_of(capsys)
    for line in lines:
        assert line in error


def test_underscores_stand_for_hyphens() -> None:
    seen = []

    @command(option("--max-size", int, "PX", "Longer side.", default=0))
    def do_it(call: Call, *, max_size: int) -> None:
        seen.append(max_size)

    group = make_group("x", "A group.", {"do-it": do_it})
    for argv in (["do-it", "--max-size", "1"], ["do_it", "--max_size=2"]):
        assert run(group, argv) == 0
    assert seen == [1, 2]


def test_json_after_two_hyphens_is_an_argument(capsys) -> None:
    assert main(["presets", "show", "--", "--json"]) == 2
    assert error_of(capsys).startswith("error: no preset is called '--json'")
