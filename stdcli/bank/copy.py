"""Copying paths of banks into a new bank: merging, and leaving some out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import (
    MANIFEST,
    SAMPLES,
    Manifest,
    check_kind,
    conditions_name,
    finished,
    shard_name,
    sidecar_name,
    write_manifest,
)
from stdcli.bank.shard import StoredPaths, join_paths, read_shard, shard_problem, write_shard
from stdcli.config.pasting import pasted
from stdcli.errors import BankCorruptError, BankError


@dataclass(frozen=True)
class Pick:
    """Where a path to be copied is."""

    files: BankFiles
    shard: int
    row: int


def list_picks(files: BankFiles, manifest: Manifest) -> dict[int, Pick]:
    """All finished paths of a bank, whole or being built, by sample id.

    Raises:
        BankCorruptError: a finished shard is damaged.
    """
    picks: dict[int, Pick] = {}
    for index in range(manifest.num_shards):
        if not files.exists(sidecar_name(index)):
            continue
        if problem := shard_problem(files, manifest, index, deep=False):
            hint = f"stdcli bank verify {pasted(files.root)}"
            raise BankCorruptError(f"shard {index}: {problem}", where=files.root, hint=hint)
        sources = files.read_json(sidecar_name(index))["sources"]
        picks |= {source["sample_id"]: Pick(files, index, row) for row, source in enumerate(sources)}
    return picks


def write_bank(
    out: BankFiles,
    manifest: Manifest,
    picks: Sequence[Pick],
    *,
    level_rows: Sequence[int] | None = None,
    advance: Callable[[], object] = lambda: None,
) -> Manifest:
    """Write a new bank of the paths picked.

    Args:
        out: an empty folder, or none.
        manifest: of the new bank; the number of paths is set here.
        picks: the paths, in their new order.
        level_rows: rows of the old levels that are kept; None keeps all.
        advance: called after each shard.

    Returns:
        The manifest as written.

    Raises:
        BankMismatchError: `out` holds shards of another bank.
        BankError: there is a bank already, nothing to copy, or the disk refuses.
        BankCorruptError: what is copied has changed since it was written.
    """
    if out.exists(MANIFEST):
        raise BankError("there is a bank already", where=out.root, hint="choose another --out")
    if not picks:
        raise BankError("no finished path to copy", where=out.root)
    manifest = replace(manifest, num_paths=len(picks), state="building")
    check_kind(out, manifest)
    loaded: dict[tuple[BankFiles, int], StoredPaths] = {}
    samples = []
    for index in range(manifest.num_shards):
        rows = [_load(picks[path], loaded) for path in manifest.paths_of(index)]
        paths = join_paths(rows)
        if level_rows is not None:
            paths = replace(paths, states=paths.states[:, torch.tensor(list(level_rows))])
        write_shard(out, manifest, index, paths)
        samples += paths.sources
        advance()
    out.write_lines(SAMPLES, [dict(sample) for sample in samples])
    manifest = finished(manifest)
    write_manifest(out, manifest)
    return manifest


def _load(pick: Pick, loaded: dict[tuple[BankFiles, int], StoredPaths]) -> StoredPaths:
    key = pick.files, pick.shard
    if key not in loaded:
        while len(loaded) > 1:  # picks mostly run through one shard after another
            del loaded[next(iter(loaded))]
        _check_hashes(pick)
        loaded[key] = read_shard(pick.files, pick.shard)
    return loaded[key].select([pick.row])


def _check_hashes(pick: Pick) -> None:
    sidecar = pick.files.read_json(sidecar_name(pick.shard))
    parts = ((shard_name(pick.shard), sidecar), (conditions_name(pick.shard), sidecar["conditions"]))
    for name, metadata in parts:
        if pick.files.sha256(name) != metadata["sha256"]:
            hint = f"stdcli bank verify {pasted(pick.files.root)}"
            raise BankCorruptError(
                "has changed since it was written", where=pick.files.root / name, hint=hint
            )
