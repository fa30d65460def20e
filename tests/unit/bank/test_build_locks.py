"""One builder per slot and one split at a time, however they end."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.build_locks import hold_all, hold_plan, hold_slot
from stdcli.errors import BankError, ResourceError

HOLD = """
import sys
from pathlib import Path
from stdcli.bank.bank_files import BankFiles
from stdcli.bank.build_locks import hold_slot
with hold_slot(BankFiles(Path(sys.argv[1])), 0, 2):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def files(tmp_path: Path) -> BankFiles:
    return BankFiles(tmp_path / "bank")


def refused(files: BankFiles, index: int, count: int) -> str:
    with (
        pytest.raises(BankError, match="somebody is building this bank") as caught,
        hold_slot(files, index, count),
    ):
        pass
    assert caught.value.where == str(files.root) and caught.value.exit_code == 3
    return caught.value.got


def test_workers_of_one_split_go_together(files: BankFiles) -> None:
    with hold_slot(files, 0, 3), hold_slot(files, 2, 3), hold_slot(files, 1, 3):
        for index in range(3):
            assert refused(files, index, 3) == f"worker {index} of 3"


@pytest.mark.parametrize(("index", "count"), [(0, 1), (0, 3), (1, 4), (0, 22)])
def test_another_split_would_build_the_same_shards(files: BankFiles, index: int, count: int) -> None:
    with hold_slot(files, 1, 2):
        assert refused(files, index, count) == "worker 1 of 2"
    with hold_slot(files, index, count):
        assert refused(files, 1, 2) == f"worker {index} of {count}"


def test_a_slot_is_free_again(files: BankFiles) -> None:
    """After the end, after an error, and after a refusal."""
    with hold_slot(files, 0, 1):
        pass
    with pytest.raises(ZeroDivisionError) as kept, hold_slot(files, 0, 1):
        raise ZeroDivisionError
    assert kept.value.__traceback__ is not None
    with hold_slot(files, 0, 2):
        refused(files, 0, 1)
    with hold_slot(files, 0, 1), pytest.raises(BankError), hold_all(files):
        pass
    with hold_all(files):
        pass


def test_a_killed_process_holds_nothing(files: BankFiles) -> None:
    command = [sys.executable, "-c", HOLD, str(files.root)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        assert refused(files, 0, 2) == "worker 0 of 2"
        assert refused(files, 0, 1) == "worker 0 of 2"
        with hold_slot(files, 1, 2):
            pass
    finally:
        process.kill()
        process.communicate()
    with hold_slot(files, 0, 2):
        pass
    with hold_slot(files, 0, 1):
        pass


def test_the_plan_is_waited_for(files: BankFiles) -> None:
    order = []

    def second() -> None:
        with hold_plan(files):
            order.append("second")

    with hold_plan(files):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, ResourceError), (errno.EROFS, BankError), (errno.EACCES, BankError)]
)
def test_a_disk_that_takes_no_lock(
    files: BankFiles, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    def acquire(self: object, **_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with pytest.raises(kind, match=os.strerror(code)), hold_slot(files, 0, 1):
        pass
