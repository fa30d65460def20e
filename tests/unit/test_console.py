"""What each console mode prints, and where."""

import io
import json
import os
import sys
import time
from enum import StrEnum
from fractions import Fraction
from pathlib import Path

import pytest

from stdcli import console as console_module
from stdcli.console import Console, PlainProgress, PlainStage, to_plain
from stdcli.errors import ConfigError, ModelError
from stdcli.reporter import NoProgress


class Color(StrEnum):
    RED = "red"


def show_everything(console: Console) -> None:
    console.result("made it", path=Path("a/b.png"), seconds=0.5)
    console.note("a note")
    console.detail("a detail")
    console.warning("a warning")
    console.error(ModelError("no model", hint="get one"))


def test_human_mode(capsys: pytest.CaptureFixture[str]) -> None:
    show_everything(Console())
    out, err = capsys.readouterr()
    assert out == "made it\n"
    assert err == "a note\nwarning: a warning\nerror: no model\n  hint: get one\n"


def test_verbose_adds_details(capsys: pytest.CaptureFixture[str]) -> None:
    show_everything(Console(verbose=True))
    assert "a detail\n" in capsys.readouterr().err


def test_json_mode_prints_one_object_per_result_and_one_error_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_everything(Console("json"))
    out, err = capsys.readouterr()
    assert json.loads(out) == {"path": "a/b.png", "seconds": 0.5}
    assert out.count("\n") == 1
    error = json.loads(err.splitlines()[-1])
    assert error == {"error": {"type": "ModelError", "exit_code": 4, "what": "no model", "hint": "get one"}}


def test_quiet_mode_prints_the_path_and_no_chatter(capsys: pytest.CaptureFixture[str]) -> None:
    show_everything(Console("quiet", verbose=True))
    out, err = capsys.readouterr()
    assert out == "a/b.png\n"
    assert err == "warning: a warning\nerror: no model\n  hint: get one\n"


def test_quiet_prints_the_first_value_without_a_path_and_nothing_without_data(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console("quiet")
    console.result("x", count=3, other=4)
    console.result("y")
    assert capsys.readouterr().out == "3\n"


def test_json_of_a_result_without_data_is_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    Console("json").result("done")
    assert json.loads(capsys.readouterr().out) == {"message": "done"}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("human", "name  n\na     1\nlong\n"),
        ("json", '{"ok": true, "rows": [{"name": "a", "n": 1}, {"name": "long", "n": null}]}\n'),
        ("quiet", "a\nlong\n"),
    ],
)
def test_table(mode: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    Console(mode).table(("name", "n"), [("a", 1), ("long", None)], ok=True)
    assert capsys.readouterr().out == expected


def test_to_plain_knows_what_results_hold() -> None:
    value = {
        "p": Path("x"),
        "f": Fraction(30000, 1001),
        "e": Color.RED,
        "t": (1, True, None),
        "n": float("nan"),
    }
    assert to_plain(value) == {"p": "x", "f": "30000/1001", "e": "red", "t": [1, True, None], "n": None}


def test_to_plain_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(TypeError, match="set has no JSON form"):
        to_plain({"a": {1}})


def test_characters_the_terminal_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    Console().result("Café \udcff")
    assert raw.getvalue() == b"Caf\\xe9 \\udcff\n"


EVIL = "a\x1b]0;x\x07\x9b2J\r\n\t\x7f\u202e\u2028[bold red]b[/]"
SHOWN = r"a\x1b]0;x\x07\x9b2J\r\n\t\x7f\u202e\u2028[bold red]b[/]"


@pytest.mark.parametrize("mode", ["human", "json"])
def test_what_names_hold_cannot_act(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(mode, verbose=True)
    error = ConfigError(EVIL, [(EVIL, EVIL)], where=EVIL, got=EVIL, expected=EVIL, hint=EVIL)
    console.result(EVIL, path=EVIL)
    console.table((EVIL, "n"), [(EVIL, 1)])
    console.note(EVIL, "two")
    console.detail(EVIL)
    console.warning(EVIL)
    console.warning(error)
    console.error(error)
    console.trace(f"a\nb {EVIL[:3]}")
    with console.progress(EVIL):
        pass
    out, err = capsys.readouterr()
    assert (out + err).replace("\n", "").isprintable()
    shown = [f"  at: {SHOWN}", f"  got {SHOWN}, expected {SHOWN}", f"  {SHOWN}: {SHOWN}", f"  hint: {SHOWN}"]
    lines = err.splitlines()
    told = [SHOWN, "two", SHOWN, f"warning: {SHOWN}", f"warning: {SHOWN}", *shown]
    assert lines[: len(told)] == told
    assert lines[-1].startswith(f"{SHOWN}: 0 in 0.")
    if mode == "human":
        assert out.splitlines() == [SHOWN, f"{SHOWN}  n", f"{SHOWN}  1"]
        assert error.render().splitlines() == [f"error: {SHOWN}", *shown]
    else:
        assert json.loads(out.splitlines()[0]) == {"path": EVIL}
        assert json.loads(err.splitlines()[-4])["error"]["where"] == EVIL


def test_quiet_gives_a_pipe_the_bytes_of_a_name_and_a_terminal_none_that_act(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = os.fsdecode(b"caf\xe9\x1b.png")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    Console("quiet").result("", path=Path(name))
    Console("quiet").table(("name",), [(name,)])
    assert raw.getvalue() == b"caf\xe9\x1b.png\n" * 2
    screen = FakeTerminal()
    monkeypatch.setattr(sys, "stdout", screen)
    Console("quiet").result("", path=Path(name))
    assert screen.getvalue() == "caf\\udce9\\x1b.png\n"


class FakeClock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_plain_progress_writes_at_most_every_30_seconds_and_at_the_end() -> None:
    lines: list[str] = []
    clock = FakeClock()
    progress = PlainProgress("frames", None, write=lines.append, clock=clock)
    for second in (10, 29.9, 30, 59.9, 61):
        clock.now_s = second
        progress.advance(2)
    progress.total = 20
    clock.now_s = 70
    progress.advance()
    progress.finish(completed=True)
    assert lines == ["frames: 6 in 30.0 s", "frames: 10 in 61.0 s", "frames: 11/20 in 70.0 s"]


def test_plain_progress_beats_though_nothing_is_finished() -> None:
    lines: list[str] = []
    clock = FakeClock()
    progress = PlainProgress("paths", 8, write=lines.append, clock=clock)
    for clock.now_s in (29, 31, 60, 62):
        progress.beat()
    assert lines == ["paths: 0/8 in 31.0 s", "paths: 0/8 in 62.0 s"]


def test_a_plain_stage_tells_after_three_seconds_and_then_every_thirty() -> None:
    lines: list[str] = []
    clock = FakeClock()
    stage = PlainStage("loading", write=lines.append, clock=clock)
    for clock.now_s in (2.9, 3, 4):
        stage.beat()
    stage("fusing")
    for clock.now_s in (32, 33):
        stage.beat()
    assert lines == ["loading, 3 s so far", "fusing, 33 s so far"]


@pytest.mark.parametrize("kind", ["stage", "progress"])
def test_what_takes_long_is_told_meanwhile_and_what_is_quick_is_not(kind, monkeypatch, capsys) -> None:
    monkeypatch.setattr(console_module, "BEAT_S", 0.01)
    with getattr(Console(), kind)("quick"):
        pass
    before = capsys.readouterr().err
    monkeypatch.setattr(console_module, "QUICK_S", 0.02)
    monkeypatch.setattr(console_module, "PLAIN_INTERVAL_S", 0.02)
    for mode, count in (("human", 1), ("json", 1), ("quiet", 0)):
        with getattr(Console(mode), kind)("slow"):
            wait_s, told = time.monotonic() + 5, ""
            while count and "slow" not in told and time.monotonic() < wait_s:
                time.sleep(0.01)
                told += capsys.readouterr().err
        assert ("slow" in told) == bool(count)
        capsys.readouterr()
    assert kind == "progress" or before == ""


def test_a_stage_inside_a_bar_draws_nothing(monkeypatch) -> None:
    terminal = FakeTerminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    console = Console()
    with console.progress("results", 2) as progress:
        with console.stage("loading x") as tell:
            tell("fusing y")
        progress.advance()
    assert "results" in terminal.getvalue() and "loading" not in terminal.getvalue()
    with console.stage("loading z") as tell:
        tell("fusing w")
        time.sleep(0.15)
    assert "fusing w" in terminal.getvalue()


def test_progress_without_a_terminal_tells_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().progress("frames", total=3) as progress:
        progress.advance(3)
    with pytest.raises(KeyboardInterrupt), Console().progress("steps", total=3) as progress:
        progress.advance()
        raise KeyboardInterrupt
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith("frames: 3/3 in 0.")
    assert second.startswith("steps: 1/3 in 0.")
    assert second.endswith(", stopped")


def test_progress_is_silent_in_quiet_mode(capsys: pytest.CaptureFixture[str]) -> None:
    with Console("quiet").progress("frames", total=3) as progress:
        progress.advance()
        assert isinstance(progress, NoProgress)
        assert progress.total == 3
    assert capsys.readouterr() == ("", "")


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_on_stderr_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = FakeTerminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with Console().progress("[bold]frames\x07") as progress:
        assert progress.total is None
        progress.total = 4
        progress.advance(4)
        Console().result("result", n=1)
    assert r"[bold]frames\x07" in screen.getvalue()
    assert "4/4" in screen.getvalue()
    assert progress.total == 4
    assert capsys.readouterr().out == "result\n"
