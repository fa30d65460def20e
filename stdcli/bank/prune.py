"""A smaller bank out of a larger one, and sweeping up what killed builders left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.build_locks import hold_all
from stdcli.bank.copy import list_picks, write_bank
from stdcli.bank.format import MANIFEST, RUN, SAMPLES, Manifest, is_shard_file, read_manifest, read_samples
from stdcli.bank.verify import unplanned
from stdcli.disk.writing import SUFFIX
from stdcli.errors import BankError


def prune(
    source: BankFiles,
    out: BankFiles,
    *,
    num_paths: int | None = None,
    keep_levels: Sequence[int] | None = None,
    advance: Callable[[], object] = lambda: None,
) -> Manifest:
    """Write a bank of the first paths of another, at some of their levels.

    Args:
        source: the bank.
        out: a new folder.
        num_paths: how many paths to keep; None keeps all.
        keep_levels: ids of the levels to keep, the start and the last among them always; None keeps all.
        advance: called after each shard written.

    Raises:
        BankError: a level that is not stored, a damaged bank, or as `write_bank`.
    """
    manifest = read_manifest(source)
    rows = None
    if keep_levels is not None:
        rows = rows_of(manifest, keep_levels)
        manifest = replace(manifest, levels=tuple(manifest.levels[row] for row in rows))
    picks = list_picks(source, read_manifest(source))
    order = [row["sample_id"] for row in read_samples(source)]
    chosen = [picks[id_] for id_ in order if id_ in picks][:num_paths]
    return write_bank(out, manifest, chosen, level_rows=rows, advance=advance)


def rows_of(manifest: Manifest, level_ids: Sequence[int]) -> list[int]:
    """Rows of the stored levels with these ids, the first and the last always.

    Raises:
        BankError: such a level is not stored.
    """
    stored = manifest.level_ids
    missing = sorted(set(level_ids) - set(stored), reverse=True)
    if missing:
        raise BankError(
            "no such level in this bank",
            got=", ".join(map(str, missing)),
            expected=f"among {', '.join(map(str, stored))}",
        )
    kept = {stored[0], *level_ids, stored[-1]}
    return [row for row, id_ in enumerate(stored) if id_ in kept]


def sweep(files: BankFiles) -> int:
    """Delete temporary files of killed builders and shards outside the plan; of other names, nothing.

    Returns:
        Bytes freed.

    Raises:
        BankError: no bank, a torn one, or somebody is building there; the disk refuses.
        BankCorruptError: one of them, or the folder it is in, is a link; nothing is deleted then.
    """
    read_manifest(files)
    with hold_all(files):
        extra = [name for name in unplanned(files, read_manifest(files)) if is_shard_file(name)]
        litter = [name for name in files.leftovers() if _is_own_leftover(name)]
        freed = sum(files.size(name) or 0 for name in (*litter, *extra))
        for name in (*litter, *extra):
            files.remove(name)
    return freed


def _is_own_leftover(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    whole = file.removeprefix(".").removesuffix(SUFFIX)
    return is_shard_file(f"{folder}/{whole}") if folder else whole in (MANIFEST, SAMPLES, RUN)
