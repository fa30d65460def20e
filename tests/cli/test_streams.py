"""Standard output and error that are closed, broken or full: what was asked for is done all the same."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stdcli.cli import main as command_line
from stdcli.cli.main import main
from stdcli.console import Console

ROOT = Path(__file__).parents[2]
FULL, GONE = errno.ENOSPC, errno.EPIPE


class Failing(io.StringIO):
    """A stream that takes so many writes and then fails for good."""

    def __init__(self, code: int, after: int = 0) -> None:
        super().__init__()
        self.code, self.left = code, after

    def write(self, text: str) -> int:
        if not self.left:
            raise OSError(self.code, os.strerror(self.code))
        self.left -= 1
        return super().write(text)


@pytest.fixture
def work(monkeypatch):
    """A command that does three things and tells of each, and the list of what was done."""
    done = []

    def run(program: object, args: list[str]) -> int:
        for k in range(3):
            Console("json" if "--json" in args else "human").note(f"doing {k}")
            done.append(k)
            Console("json" if "--json" in args else "human").result(f"did {k}", k=k)
        return 0

    monkeypatch.setattr(command_line, "run", run)
    return done


@pytest.mark.parametrize(("code", "exit_code"), [(FULL, 7), (errno.EIO, 7), (GONE, 0), (errno.EBADF, 0)])
@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("mode", [[], ["--json"]])
def test_work_goes_on_without_an_output(work, monkeypatch, code, exit_code, after, mode) -> None:
    out, err = Failing(code, after), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(mode) == exit_code
    assert work == [0, 1, 2]
    assert len(out.getvalue().splitlines()) == after
    told = err.getvalue().splitlines()
    assert told[:3] == ["doing 0", "doing 1", "doing 2"]
    reason = f"standard output cannot be written to: {os.strerror(code)}"
    if exit_code == 0:
        assert told[3:] == []
    elif mode:
        assert json.loads(told.pop()) == {"error": {"type": "ResourceError", "exit_code": 7, "what": reason}}
    else:
        assert told[3:] == [f"error: {reason}"]
    assert (sys.stdout, sys.stderr) == (out, err)


@pytest.mark.parametrize("code", [FULL, GONE])
def test_messages_that_cannot_be_shown_change_nothing(work, monkeypatch, capsys, code) -> None:
    monkeypatch.setattr(sys, "stderr", Failing(code))
    assert main([]) == 0
    assert capsys.readouterr().out == "did 0\ndid 1\ndid 2\n"


def test_an_error_keeps_its_code_without_an_output(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", Failing(FULL))
    monkeypatch.setattr(sys, "stderr", Failing(GONE))
    assert main(["presets", "show", "nothing"]) == 2


SHELL = """
import os, sys
from stdcli.cli.main import main
code = main(["presets", "list", *sys.argv[1:]])
with open("kept", "w") as file:  # must not have the number of the standard output
    assert file.fileno() > 2
    file.write(str(code))
"""


@pytest.mark.parametrize("redirection", ["<&- >&- 2>&-", "| true", "> /dev/full"])
def test_closed_from_the_start(tmp_path, redirection) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    command = f'{sys.executable} -c "$CODE" {redirection}'
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        env=environment | {"CODE": SHELL},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    full = "full" in redirection
    told = f"error: standard output cannot be written to: {os.strerror(FULL)}\n" if full else ""
    assert (done.returncode, done.stdout, done.stderr) == (0, "", told)
    assert (tmp_path / "kept").read_text() == ("7" if full else "0")
