"""Several banks of one kind as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.copy import list_picks, write_bank
from stdcli.bank.format import Manifest, check_same, read_manifest, read_samples


def merge(
    sources: Sequence[BankFiles], out: BankFiles, *, advance: Callable[[], object] = lambda: None
) -> Manifest:
    """Write a bank of all finished paths of others, each once, in the order in which those plan them.

    So the parts of one plan, built by several workers into folders of their own, become the very files that
    one worker would have written.

    Args:
        sources: banks, at least one; they may be unfinished.
        out: a new folder.
        advance: called after each shard written.

    Raises:
        BankMismatchError: the banks are of different kinds; every field with both values.
        BankError: one is missing or damaged, `out` holds a bank, or the disk refuses.
    """
    manifests = [read_manifest(files) for files in sources]
    for files, manifest in zip(sources[1:], manifests[1:], strict=True):
        same_plan = replace(manifest, shard_size=manifests[0].shard_size)
        check_same(manifests[0], same_plan, where=files.root)
    picks, order = {}, {}
    for files, manifest in zip(sources, manifests, strict=True):
        picks = list_picks(files, manifest) | picks
        order |= {row["sample_id"]: None for row in read_samples(files)}
    chosen = [picks[id_] for id_ in order if id_ in picks]
    return write_bank(out, manifests[0], chosen, advance=advance)
