"""Builders of banks that are killed at random moments: a process that forks them, kills them and looks.

Run as a module, with one JSON object on stdin, in a process that has no threads: a forked builder starts at
once, with all it imports in place, so that the moments fall into the building. The report is the last line
of stdout.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.build_locks import hold_plan, hold_slot
from stdcli.bank.format import (
    MANIFEST,
    SAMPLES,
    finished,
    read_manifest,
    read_samples,
    sidecar_name,
    write_manifest,
)
from stdcli.bank.shard import shard_problem, write_shard
from stdcli.bank.verify import verify
from stdcli.cli.main import main
from stdcli.errors import INTERRUPTED_EXIT_CODE
from tests.tiny_banks import changed, contents, make_paths

STOPS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
WRITER = changed(num_paths=40, shard_size=2)


def write_all(root: Path) -> int:
    """A builder without a teacher."""
    files = BankFiles(root)
    with hold_slot(files, 0, 1):
        with hold_plan(files):
            files.write_lines(SAMPLES, [dict(row) for row in make_paths(WRITER, range(40)).sources])
            write_manifest(files, WRITER)
        for index in range(WRITER.num_shards):
            if shard_problem(files, WRITER, index, deep=True):
                write_shard(files, WRITER, index, make_paths(WRITER, WRITER.paths_of(index)))
        with hold_plan(files):
            write_manifest(files, finished(WRITER))
    return 0


def faults_of(root: Path) -> list[str]:
    """What a killed builder may not leave: torn files, shards that only seem whole."""
    files = BankFiles(root)
    if files.exists(SAMPLES):
        read_samples(files)
    if not files.exists(MANIFEST):
        return []
    manifest = read_manifest(files)
    there = [k for k in range(manifest.num_shards) if files.exists(sidecar_name(k))]
    problems = ((k, shard_problem(files, manifest, k, deep=True)) for k in there)
    return [f"shard {k}: {problem}" for k, problem in problems if problem]


def kill_at_random(build: Callable[[Path], int], root: Path, *, kills: int, seed: int) -> dict[str, object]:
    """Build again and again, until `kills` builders were killed and the last one ended by itself.

    Returns:
        `faults` after kills, `ends` of builders that were left alone, how many `different` whole banks there
        were (one, if all are equal to the first, which nobody disturbed), `partial` banks met.
    """
    rng, report = random.Random(seed), {"faults": [], "ends": [], "different": 0, "partial": 0}
    began_s = time.monotonic()
    report["ends"].append(_run(build, root / "whole", None))
    length_s, whole = time.monotonic() - began_s, contents(root / "whole")
    num_shards = len(list((root / "whole").glob("shards/*.json")))
    done, out = 0, root / "killed"
    while done < kills or not _is_finished(out):
        after_s = rng.uniform(0, 1.1 * length_s) if done < kills else None
        end = _run(build, out, after_s, number=STOPS[done % len(STOPS)])
        if end < 0 or end == INTERRUPTED_EXIT_CODE:
            done += 1
            report["faults"] += faults_of(out)
            report["partial"] += 0 < len(list(out.glob("shards/*.json"))) < num_shards
            continue
        report["ends"].append(end)
        files = BankFiles(out)
        report["different"] += contents(out) != whole
        report["faults"] += [problem.what for problem in verify(files, read_manifest(files))]
        if done < kills:
            shutil.rmtree(out)
    return report


def _is_finished(root: Path) -> bool:
    files = BankFiles(root)
    return files.exists(MANIFEST) and read_manifest(files).state == "complete"


def _run(
    build: Callable[[Path], int], root: Path, kill_after_s: float | None, *, number: int = signal.SIGKILL
) -> int:
    """Exit code of a builder; negative for a signal that nobody handles."""
    pid = os.fork()
    if not pid:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        try:
            os._exit(build(root))
        finally:
            os._exit(99)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, number)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    told = json.load(sys.stdin)
    command = told["command"]
    builder = (lambda root: main([*command, "-o", str(root)])) if command else write_all
    if command:  # so that all it imports is in place
        main([*command, "-o", str(Path(told["root"]) / "dry"), "--dry-run"])
    result = kill_at_random(builder, Path(told["root"]), kills=told["kills"], seed=told["seed"])
    sys.stdout.write(json.dumps(result) + "\n")
