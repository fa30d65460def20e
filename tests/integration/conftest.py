"""A Hub on this machine and its real client; a power cut for clips; models that a module loads once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from stdcli.inference.job import Job
from tests.hub_client import HubClient, running_client
from tests.hub_server import HubServer, running_hub
from tests.loaded_once import loaded_once


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def process(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubClient]:
    with running_client(server.url, tmp_path_factory.mktemp("client")) as client:
        yield client


@pytest.fixture
def hub(server: HubServer, process: HubClient) -> HubServer:
    """The server, empty and without faults; the client logged in."""
    server.repos.clear()
    server.objects.clear()
    server.forget()
    shutil.rmtree(process.home / "hub", ignore_errors=True)
    process.login()
    return server


@pytest.fixture
def client(hub: HubServer, process: HubClient) -> HubClient:
    return process


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """A time in which a clip's run breaks down as soon as so many segments are kept."""

    @contextmanager
    def cut(after: int) -> Iterator[None]:
        commit = Job.commit

        def commit_and_die(self, frames, memory):
            commit(self, frames, memory)
            if len(self.frames) == after:
                raise SystemError("power cut")

        with monkeypatch.context() as patch:
            patch.setattr(Job, "commit", commit_and_die)
            yield

    return cut


@pytest.fixture(scope="module")
def one_load() -> Iterator[None]:
    """A module's tests share what is loaded, each with a copy of its own."""
    with loaded_once():
        yield
