"""Checking a bank: every file read, every hash compared, every path there once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import (
    SAMPLES,
    Manifest,
    read_samples,
    seal_problems,
    shard_name,
    shard_of,
    sidecar_name,
)
from stdcli.bank.shard import shard_problem


@dataclass(frozen=True)
class Problem:
    """Something wrong with a bank.

    Attributes:
        name: the file it is about.
        what: one line.
    """

    name: str
    what: str


def verify(
    files: BankFiles, manifest: Manifest, *, advance: Callable[[], object] = lambda: None
) -> list[Problem]:
    """All problems of a bank; none means that every planned path is there, once, as it was written.

    Args:
        files, manifest: of the bank.
        advance: called after each shard.

    Raises:
        BankCorruptError: the list of samples cannot be read.
    """
    problems, seen = [], {}
    problems += [Problem(name, what) for name, what in seal_problems(files)]
    rows = read_samples(files)
    wanted = [row["sample_id"] for row in rows]
    if len(wanted) != manifest.num_paths:
        problems.append(
            Problem(SAMPLES, f"lists {len(wanted)} paths, the manifest plans {manifest.num_paths}")
        )
    for index in range(_last(files, manifest, num_listed=len(wanted))):
        name = shard_name(index)
        if what := shard_problem(files, manifest, index, deep=True):
            problems.append(Problem(name, what))
        else:
            sources = files.read_json(sidecar_name(index))["sources"]
            ids = [source["sample_id"] for source in sources]
            if sources != [rows[path] for path in manifest.paths_of(index) if path < len(rows)]:
                problems.append(Problem(name, f"holds other samples than {SAMPLES} says"))
            for id_ in ids:
                if id_ in seen:
                    problems.append(Problem(name, f"sample {id_} is also in {seen[id_]}"))
                seen[id_] = name
        advance()
    return [*problems, *(Problem(name, "is not part of the plan") for name in unplanned(files, manifest))]


def _last(files: BankFiles, manifest: Manifest, *, num_listed: int) -> int:
    """How many shards to look at: all planned that are listed or there; a plan of more has been told of."""
    written = [shard_of(name) or 0 for name in files.names("shards")]
    last = max(-(-num_listed // manifest.shard_size), *(shard + 1 for shard in written), 0)
    return min(manifest.num_shards, last)


def unplanned(files: BankFiles, manifest: Manifest) -> list[str]:
    """Files among the shards and conditions that no planned shard has."""
    written = (*files.names("shards"), *files.names("conditions"))
    shards = ((name, shard_of(name)) for name in written)
    return [name for name, shard in shards if shard is None or shard >= manifest.num_shards]
