"""Every command that needs no model, in every output mode: where its words go, and in which form."""

import io
import json
import sys

import pytest

from stdcli.cli.command import make_console
from stdcli.cli.main import main
from stdcli.errors import ConfigError

CALLS = [
    ["presets", "list"],
    ["presets", "show", "stylize/embedded-fast"],
    ["presets", "show", "stylize/embedded-fast", "--resolved"],
    ["presets", "validate"],
]
IDS = [" ".join(call) for call in CALLS]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_results_go_to_stdout_without_escape_codes(call, capsys) -> None:
    assert main(call) == 0
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    assert err == ""
    assert "\x1b" not in out


@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_results_have_no_escape_codes_on_a_terminal_either(call, monkeypatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    assert main(call) == 0
    assert "\x1b" not in screen.getvalue()


@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_json_is_one_object_on_one_line(call, capsys) -> None:
    assert main([*call, "--json"]) == 0
    out, err = capsys.readouterr()
    assert isinstance(json.loads(out), dict)
    assert out.count("\n") == 1
    assert err == ""


@pytest.mark.parametrize("call", CALLS, ids=IDS)
def test_quiet_prints_less(call, capsys) -> None:
    main(call)
    full = capsys.readouterr().out
    assert main([*call, "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert 0 < len(out) < len(full)
    assert err == ""


@pytest.mark.parametrize(
    ("flags", "mode"), [((False, False), "human"), ((True, False), "json"), ((False, True), "quiet")]
)
def test_the_mode_of_the_console(flags, mode) -> None:
    console = make_console(*flags, verbose=True, debug=True)
    assert (console.mode, console.verbose, console.debug) == (mode, True, True)


def test_json_and_quiet_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        make_console(True, True)
