"""The command line in a process of its own, pointed at a Hub on this machine; one process for many commands.

The library reads its settings when it is imported, so they are set before; Xet, which the test server does
not speak, is off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stdcli
from tests.hub_server import TOKEN

SCRIPT = """
import contextlib, io, json, os, sys
from stdcli.cli.main import main
from stdcli.errors import StdcliError
for line in sys.stdin:
    asked = json.loads(line)
    os.chdir(asked["cwd"])
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if "path" in asked:
            from stdcli.models import locate
            try:
                code = str(getattr(locate, asked["path"])(asked["name"], offline=asked["offline"]).path)
            except StdcliError as error:
                code = None
                err.write(str(error))
        else:
            code = main(asked["argv"])
    sys.stdout.write(json.dumps([code, out.getvalue(), err.getvalue()]) + chr(10))
    sys.stdout.flush()
"""


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """What --json printed."""
        return json.loads(self.out)


class HubClient:
    """Runs commands; as itself logged in with a token that `login` changes.

    Attributes:
        home: of the Hub's client, with its cache and its login.
    """

    def __init__(self, process: subprocess.Popen[str], home: Path, cwd: Path) -> None:
        self.home, self._process, self._cwd = home, process, cwd

    def login(self, token: str | None = TOKEN) -> None:
        """Keep a token where `hf auth login` keeps it, or none."""
        if token is None:
            (self.home / "token").unlink(missing_ok=True)
        else:
            (self.home / "token").write_text(token)

    def __call__(self, *argv: object) -> Ran:
        """`stdcli hub ...`"""
        return self.stdcli("hub", *argv)

    def stdcli(self, *argv: object, cwd: Path | None = None) -> Ran:
        """`stdcli ...`, in a folder other than the client's own if that is given."""
        return Ran(*self._ask({"argv": list(map(str, argv)), "cwd": str(cwd or self._cwd)}))

    def locate(self, kind: str, name: str, *, offline: bool = False) -> Path:
        """Where `locate_model` or `locate_student` finds a name.

        Raises:
            LookupError: it refuses, with this message.
        """
        asked = {"path": f"locate_{kind}", "name": name, "offline": offline}
        path, _, message = self._ask(asked)
        if path is None:
            raise LookupError(message)
        return Path(path)

    def _ask(self, question: dict[str, Any]) -> list[Any]:
        self._process.stdin.write(json.dumps({"cwd": str(self._cwd), **question}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def environment(url: str, home: Path) -> dict[str, str]:
    """Variables of a process that uses a Hub at `url` and keeps its files in `home`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_"))}
    root = str(Path(stdcli.__file__).parent.parent)
    own = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": root}
    return {**kept, **own, "HF_HUB_DISABLE_TELEMETRY": "1"}


@contextmanager
def running_client(url: str, folder: Path) -> Iterator[HubClient]:
    """A client whose home is `folder`/home, and whose working folder `folder`."""
    home = folder / "home"
    home.mkdir()
    with (folder / "stderr.txt").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(url, home),
        )
        try:
            yield HubClient(process, home, folder)
        finally:
            process.stdin.close()
            process.wait(timeout=60)
            process.stdout.close()
