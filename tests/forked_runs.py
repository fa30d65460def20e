"""Distillations in processes of their own: several ranks at once, or killed at random moments.

Run as a module, with one JSON object on stdin, in a process that has no threads: its children start at once,
with all they import in place. The report is the last line of stdout.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file

from stdcli.cli.main import main
from stdcli.distill import train
from stdcli.errors import INTERRUPTED_EXIT_CODE
from stdcli.training.checkpoint import load_checkpoint

STOPS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


def run_ranks(commands: list[list[str]], *, ranks: int, out: Path) -> list[int]:
    """Run commands one after another on several ranks, and write what each rank then holds.

    Args:
        commands: of `stdcli`.
        ranks: how many.
        out: takes `COMMAND-RANK.safetensors`.

    Returns:
        Exit code of each rank.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def rank_of(rank: int) -> int:
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in own.items()})
        return max(_held(command, out / f"{k}-{rank}.safetensors") for k, command in enumerate(commands))

    pids = [_fork(lambda rank=rank: rank_of(rank)) for rank in range(ranks)]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def _held(command: list[str], path: Path) -> int:
    """Run a command and write the training state that this process ended with."""
    kept, build = [], train.build

    def keep(*args, **options):
        kept.append(build(*args, **options))
        return kept[-1]

    train.build = keep
    try:
        code = main(command)
    finally:
        train.build = build
    training = kept[-1]
    state = {f"average.{kind}.{n}": v for kind, ema in training.ema.items() for n, v in ema.average.items()}
    for trained in training.trained_modules:
        state |= {f"learner.{name}": value for name, value in trained.state().items()}
    save_file({name: value.detach().clone() for name, value in state.items()}, path)
    return code


def kill_at_random(command: list[str], *, kills: int, seed: int, out: Path) -> dict[str, object]:
    """Run a command until `kills` were killed, terminated or hung up, and the last one ended by itself.

    Returns:
        `partial`: how often that fell into the run; `torn`: checkpoints that cannot be read; `end`.
    """
    rng, report = random.Random(seed), {"partial": 0, "torn": []}
    for number in range(kills):
        pid = _fork(lambda: main(command))
        _wait_for(lambda: (out / "run.json").exists(), pid)
        wanted = _checkpoints(out) + (number % 2)
        _wait_for(lambda wanted=wanted: _checkpoints(out) >= wanted, pid)
        time.sleep(rng.uniform(0, 0.3))
        stop = STOPS[number % len(STOPS)]
        os.kill(pid, stop)
        end = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        killed = end == (-stop if stop == signal.SIGKILL else INTERRUPTED_EXIT_CODE)
        report["partial"] += killed and not (out / "student").exists()
        for path in out.glob("checkpoints/step-*.safetensors"):
            try:
                load_checkpoint(path)
            except Exception as error:
                report["torn"].append(str(error))
    pid = _fork(lambda: main(command))
    return report | {"end": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}


def _checkpoints(out: Path) -> int:
    return max((int(path.stem[5:]) for path in out.glob("checkpoints/step-*.safetensors")), default=0)


def _wait_for(happened: Callable[[], bool], pid: int) -> None:
    """Until it did, or the child is at its end."""
    while not happened() and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.01)


def _fork(work: Callable[[], int]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    os.dup2(2, 1)
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    told = json.load(sys.stdin)
    folder = Path(told["out"])
    if told["kind"] == "ranks":
        result = {"ends": run_ranks(told["commands"], ranks=told["ranks"], out=folder)}
    else:
        result = kill_at_random(told["command"], kills=told["kills"], seed=told["seed"], out=folder)
    sys.stdout.write(json.dumps(result) + "\n")
