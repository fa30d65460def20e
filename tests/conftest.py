"""What every test runs in: no network, no user settings, a terminal of 80 columns without colour.

Nothing here imports torch. Tests marked `network` keep the network and the real caches.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("fixed")

GOLDEN = Path(__file__).parent / "golden"
UNSET = ("FORCE_COLOR", "CLICOLOR_FORCE", "GITHUB_ACTIONS", "STDCLI_DEBUG", "HF_TOKEN", "XDG_CACHE_HOME")


class NetworkUsed(RuntimeError):
    """A test reached for the network. No OSError, lest code under test take it for a bad connection."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="Rewrite the files of tests/golden.")


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before any test module, and with it huggingface_hub, is imported."""
    home = config.stash[_HOME] = tempfile.mkdtemp(prefix="stdcli-tests-")
    os.environ.update(COLUMNS="80", LINES="24", NO_COLOR="1", TERM="dumb")
    for name in UNSET:
        os.environ.pop(name, None)
    if "PYTEST_XDIST_WORKER" in os.environ:  # teams of threads that share cores wait for each other
        os.environ["OMP_NUM_THREADS"] = "1"
    if _wants_network(config):
        return
    os.environ.update(HOME=home, HF_HOME=f"{home}/hf", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        os.environ.pop(name, None)


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_HOME], ignore_errors=True)


_HOME: pytest.StashKey[str] = pytest.StashKey()


def _wants_network(config: pytest.Config) -> bool:
    return "network" in config.option.markexpr.replace("not network", "")


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection and name lookup beyond this machine."""
    if request.node.get_closest_marker("network"):
        return
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, _guarded_method(getattr(socket.socket, name)))
    lookup = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_far(host)
        return lookup(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def _guarded_method(method: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, *args: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _refuse_far(args[-1][0])  # the address is the last argument, (host, port, ...)
        return method(self, *args)

    return guarded


def _refuse_far(host: Any) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name not in (None, "", "localhost", "::1", "0.0.0.0", socket.gethostname()):
        if not name.startswith("127."):
            raise NetworkUsed(f"connection to {name}; mark the test `network` if it is meant to")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Iterator[Callable[[str, Any], None]]:
    """`golden(name, value)` compares plain data with tests/golden/NAME.json; --update-golden rewrites it."""

    def compare(name: str, value: Any) -> None:
        path = GOLDEN / f"{name}.json"
        if request.config.getoption("--update-golden"):
            command = f"pytest {request.node.nodeid} --update-golden"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"made_by": command, "value": value}, indent=1) + "\n")
        assert value == json.loads(path.read_text())["value"], f"differs from {path}; see its made_by"

    yield compare


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tiny teachers and banks for distillation, see `tests.tiny_runs`."""
    from tests.tiny_runs import Bench

    return Bench(tmp_path_factory.mktemp("bench"))
