"""Who may write to a bank: one builder per slot, one split at a time; what all share under a lock of its own.

A lock is the system's own on an open file, so that a killed process holds none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import Timeout

from stdcli.bank.bank_files import BankFiles, refusal
from stdcli.errors import BankError
from stdcli.runtime.locks import hold_file

_FOLDER = "locks"


@contextmanager
def hold_slot(files: BankFiles, index: int, count: int) -> Iterator[None]:
    """Be worker `index` of `count`.

    Raises:
        BankError: that worker is at work, or one of another split is, whose shards would be ours too; or the
            disk refuses.
    """
    with ExitStack() as slot:
        with hold_plan(files):
            slot_lock = files.path(f"{_FOLDER}/worker-{index}-of-{count}.lock")
            slot.enter_context(_hold(slot_lock, timeout_s=0))
            _check_idle(path for path in _slots(files) if not path.stem.endswith(f"-of-{count}"))
        yield


@contextmanager
def hold_plan(files: BankFiles) -> Iterator[None]:
    """Be the only one who changes what all workers share; waits for others. Raises as `hold_slot`."""
    with _hold(files.path(f"{_FOLDER}/plan.lock"), timeout_s=60):
        yield


@contextmanager
def hold_all(files: BankFiles) -> Iterator[None]:
    """Keep every builder away. Raises as `hold_slot`."""
    with hold_plan(files):
        _check_idle(_slots(files))
        yield


def _slots(files: BankFiles) -> list[Path]:
    return sorted(files.path(_FOLDER).glob("worker-*.lock"))


def _check_idle(slots: Iterator[Path] | list[Path]) -> None:
    for path in slots:
        with _hold(path, timeout_s=0):
            pass


@contextmanager
def _hold(path: Path, *, timeout_s: float) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = hold_file(path, timeout_s=timeout_s)
    except Timeout as error:
        context = {"where": path.parents[1], "got": path.stem.replace("-", " ")}
        hint = "wait for it; several builders share the work as --worker 0/N, 1/N and so on"
        raise BankError("somebody is building this bank", **context, hint=hint) from error
    except OSError as error:
        raise refusal(error, path.parents[1]) from error
    try:
        yield
    finally:
        lock.release()
