"""The environment of the tests is the one they were written for."""

import os
import socket
from pathlib import Path

import pytest

from tests.conftest import NetworkUsed


def test_connections_beyond_this_machine_are_refused() -> None:
    with socket.socket() as far, pytest.raises(NetworkUsed, match=r"192\.0\.2\.1"):
        far.connect(("192.0.2.1", 80))
    with socket.socket() as far, pytest.raises(NetworkUsed):
        far.connect_ex(("192.0.2.1", 80))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far, pytest.raises(NetworkUsed):
        far.sendto(b"x", ("192.0.2.1", 53))
    with pytest.raises(NetworkUsed, match="huggingface"):
        socket.getaddrinfo("huggingface.co", 443)
    with pytest.raises(NetworkUsed):
        socket.create_connection(("huggingface.co", 443))


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as near:
            near.sendall(b"x")
            connection, _ = server.accept()
            with connection:
                assert connection.recv(1) == b"x"


def test_the_user_is_nobody() -> None:
    assert Path.home().name.startswith("stdcli-tests-")
    assert os.environ["HF_HOME"].startswith(str(Path.home()))
    assert (os.environ["HF_HUB_OFFLINE"], os.environ["COLUMNS"], os.environ["NO_COLOR"]) == ("1", "80", "1")
    assert "FORCE_COLOR" not in os.environ


def test_hugging_face_hub_saw_the_environment() -> None:
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
    assert constants.HF_HUB_CACHE.startswith(os.environ["HF_HOME"])
