"""A Hub on this machine and its real client; a power cut for clips; models loaded once; a small bank.

What brings torch or huggingface_hub is imported by the fixtures: where this folder is named to pytest, this
file is read before `tests/conftest.py` has set the threads, and the environment that takes the network away.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.hub_client import HubClient, running_client
from tests.hub_server import HubServer, running_hub


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

    from stdcli.inference.job import Job

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
    from tests.loaded_once import loaded_once

    with loaded_once():
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A teacher, seven photos, two style pictures, and the bank that one run builds of them."""
    from tests.bank_builds import NAMES, SMALL, build
    from tests.tiny_banks import write_pictures
    from tests.tiny_models import save_tiny_embedded

    root = tmp_path_factory.mktemp("world")
    model = save_tiny_embedded(root / "model")
    photos, art = (
        write_pictures(root / "photos", NAMES),
        write_pictures(root / "art", ["x.png", "y.png"], seed=1),
    )
    common = ["--model", model, "--style-data", art, *SMALL]
    made = SimpleNamespace(root=root, model=model, photos=photos, art=art, common=common)
    build(common, "--data", photos, "-o", root / "bank")
    return SimpleNamespace(**vars(made), bank=root / "bank")


@pytest.fixture
def copy(world: SimpleNamespace, tmp_path: Path) -> Path:
    """The bank of the world, to be harmed."""
    return Path(shutil.copytree(world.bank, tmp_path / "copy"))


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sources of every path that a teacher walks."""
    from stdcli.rollout import shards as shards_module

    seen: list[str] = []
    original = shards_module.Teacher.rollout

    def walk(self: object, samples: list, *args: object, **options: object) -> object:
        seen.extend(sample.source for sample in samples)
        return original(self, samples, *args, **options)

    monkeypatch.setattr(shards_module.Teacher, "rollout", walk)
    return seen
