"""Checking a bank: every file read, every hash compared, every path there once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stdcli.bank.files import BankFiles
from stdcli.bank.format import SAMPLES, Manifest, conditions_name, read_samples, shard_name, sidecar_name
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
    wanted = [row["sample_id"] for row in read_samples(files)]
    if len(wanted) != manifest.num_paths:
        problems.append(
            Problem(SAMPLES, f"lists {len(wanted)} paths, the manifest plans {manifest.num_paths}")
        )
    for index in range(manifest.num_shards):
        name = shard_name(index)
        if what := shard_problem(files, manifest, index, deep=True):
            problems.append(Problem(name, what))
        else:
            ids = [source["sample_id"] for source in files.read_json(sidecar_name(index))["sources"]]
            expected = [wanted[path] for path in manifest.paths_of(index) if path < len(wanted)]
            if ids != expected:
                problems.append(Problem(name, f"holds other samples than {SAMPLES} says"))
            for id_ in ids:
                if id_ in seen:
                    problems.append(Problem(name, f"sample {id_} is also in {seen[id_]}"))
                seen[id_] = name
        advance()
    return [*problems, *(Problem(name, "is not part of the plan") for name in unplanned(files, manifest))]


def unplanned(files: BankFiles, manifest: Manifest) -> list[str]:
    """Files among the shards and conditions that no planned shard has."""
    parts = (shard_name, sidecar_name, conditions_name)
    planned = {part(index) for index in range(manifest.num_shards) for part in parts}
    there = (*files.names("shards"), *files.names("conditions"))
    return [name for name in there if name not in planned]
