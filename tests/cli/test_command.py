"""The frame of commands: where each option's value goes, and that a command loads nothing of the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import stdcli
from stdcli.cli import command as module
from stdcli.cli.command import REQUIRED, Call, argument, command, option, setting, switch
from stdcli.cli.main import program
from stdcli.cli.options import shared
from stdcli.cli.usage import build, run
from stdcli.config.check import dotted_names
from stdcli.config.tasks import TASKS

ROOT = Path(stdcli.__file__).parent.parent
TASK_OF = {
    ("stylize",): "stylize",
    ("inpaint",): "inpaint",
    ("demo",): "stylize",
    ("distill",): "distill",
    ("teacher", "train"): "teacher",
    ("bank", "build"): "bank",
    ("eval", "run"): "eval",
    ("eval", "measure"): "eval",
    ("eval", "compare"): "eval",
}


class Stop(Exception):
    """The settings are known; nothing more is asked."""


def called(*args: str) -> tuple[Call, dict[str, Any]]:
    """What a command of every kind of option is given for a command line."""
    found: list[tuple[Call, dict[str, Any]]] = []

    @command(
        argument("inputs", list[str], "IN...", "Pictures."),
        option("--out", Path, "DIR", "Where to.", short="-o", default=REQUIRED),
        setting("--rank", int, "N", "Of the LoRA.", key="student.rank"),
        setting("--no-audio", bool, None, "No sound.", key="audio"),
        switch("--private/--public", "Who sees it.", default=True),
        *shared("seed", "style preset config set dry_run"),
    )
    def some(call: Call, **values: Any) -> None:
        found.append((call, values))

    assert run(build("some", some), list(args)) == 0
    return found[0]


def test_settings_come_under_their_keys_and_other_options_under_their_names() -> None:
    call, values = called("a", "b", "-o", "out", "--rank", "4", "--style", "x", "--style", "y", "--public")
    assert call.flags == {"student.rank": 4, "audio": None, "seed": None, "style": ["x", "y"]}
    assert values == {"inputs": ["a", "b"], "out": Path("out"), "private": False, "dry_run": False}
    assert call.console.mode == "human"


def test_a_setting_that_is_refused_is_false() -> None:
    assert called("a", "-o", "out", "--no-audio")[0].flags["audio"] is False


def test_output_options_make_the_console() -> None:
    console = called("a", "-o", "out", "--json", "-v", "--debug")[0].console
    assert (console.mode, console.verbose, console.debug) == ("json", True, True)
    assert called("a", "-o", "out", "-q")[0].console.mode == "quiet"


def test_layers_are_merged_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("task: stylize\nsteps: 5\nstrength: 0.25\ngamma: 0.5\nseed: 1\n")
    layers = ("--preset", "embedded-fast", "--config", str(tmp_path / "mine.yaml"))
    call, _ = called("a", "-o", "out", *layers, "--set", "gamma=0.75", "--set", "seed=2", "--seed", "3")
    resolved = Call(call.console, {"seed": call.flags["seed"]}, call.preset, call.config, call.set).resolve(
        "stylize"
    )
    told = (resolved.config.steps, resolved.config.strength, resolved.config.gamma, resolved.config.seed)
    assert told == (5, 0.25, 0.75, 3)
    assert resolved.origins["seed"] == "flag"
    assert resolved.origins["gamma"] == "--set"
    assert resolved.origins["strength"].startswith("--config ")
    assert "preset stylize/embedded-fast" in resolved.origins.values()


def words(param: Any) -> list[str]:
    """An option on a command line; 1 is a number and a text."""
    if not param.opts[0].startswith("-"):
        return ["1"]
    return [param.opts[0]] if param.is_flag else [param.opts[0], "1"]


@pytest.mark.parametrize("path", TASK_OF, ids=" ".join)
def test_every_setting_of_a_command_is_one_of_its_task(path, monkeypatch) -> None:
    told: dict[str, Any] = {}

    def noting(task: str, **layers: Any) -> None:
        told.update(task=task, **layers)
        raise Stop

    monkeypatch.setattr(module, "resolve", noting)
    found = program()
    for name in path:
        found = found.commands[name]
    left_out = {"--help", "--quiet"}
    args = [word for param in found.params if param.opts[0] not in left_out for word in words(param)]
    with pytest.raises(Stop):
        run(found, args)
    assert told["task"] == TASK_OF[path]
    assert set(told["flags"]) <= set(dotted_names(TASKS[told["task"]]))
    assert [key for key, value in told["flags"].items() if value is None or value == []] == []


@pytest.mark.parametrize(
    ("name", "others"), [("presets", "stylize bank hub demo"), ("bank", "distill doctor")]
)
def test_a_command_loads_no_other(name: str, others: str) -> None:
    code = "import json, sys; from stdcli.cli.main import main; code = main([sys.argv[1], '--help'])\n"
    code += "sys.stderr.write(json.dumps([code, *sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code, name], capture_output=True, text=True, cwd=ROOT, check=True
    )
    code, *loaded = json.loads(done.stderr)
    assert code == 0
    assert f"stdcli.cli.{name}" in loaded
    assert {f"stdcli.cli.{other}" for other in others.split()} & set(loaded) == set()
