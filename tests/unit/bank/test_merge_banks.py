"""Parts of one plan become the files of one builder; other banks are joined, each path once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import read_manifest
from stdcli.bank.merge_banks import merge
from stdcli.bank.reader import Bank
from stdcli.bank.verify import verify
from stdcli.errors import BankCorruptError, BankError, BankMismatchError
from tests.tiny_banks import MANIFEST, changed, contents, make_paths, write_tiny_bank


def verified(root: Path) -> Bank:
    files = BankFiles(root)
    assert verify(files, read_manifest(files)) == []
    return Bank(root)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_parts_of_two_workers_are_the_bytes_of_one(tmp_path: Path, order: tuple[int, int]) -> None:
    parts = [write_tiny_bank(tmp_path / "0", shards=(0, 2)), write_tiny_bank(tmp_path / "1", shards=(1,))]
    before, counted = [contents(part.root) for part in parts], []
    manifest = merge([parts[k] for k in order], BankFiles(tmp_path / "m"), advance=lambda: counted.append(1))
    assert contents(tmp_path / "m") == contents(write_tiny_bank(tmp_path / "whole").root)
    assert manifest.state == "complete" and len(counted) == 3
    assert [contents(part.root) for part in parts] == before, "the parts are not touched"


def test_paths_in_both_come_once(tmp_path: Path) -> None:
    """0-6 and 4-10: the result is 0-10, shard by shard anew, conditions and all."""
    one = write_tiny_bank(tmp_path / "one")
    two = write_tiny_bank(tmp_path / "two", changed(shard_size=2), first=4)
    manifest = merge([one, two], BankFiles(tmp_path / "m"))
    assert (manifest.num_paths, manifest.shard_size, manifest.num_shards) == (11, 3, 4)
    bank, paths = verified(tmp_path / "m"), make_paths(MANIFEST, range(11))
    assert torch.equal(torch.stack([bank.path(k) for k in range(11)]), paths.states)
    assert torch.equal(bank.sample_ids(range(11)), paths.sample_id)
    assert torch.equal(bank.guidance(range(11)), paths.guidance)
    assert [bank.source(k) for k in range(11)] == paths.sources
    styles = torch.stack([row["cond.style"] for row in paths.conditions]).half()
    assert torch.equal(bank.conditions(range(11))["cond.style"], styles)


def test_unfinished_parts_give_what_they_have(tmp_path: Path) -> None:
    part = write_tiny_bank(tmp_path / "part", shards=(0, 2))
    assert merge([part, part], BankFiles(tmp_path / "m")).num_paths == 4
    assert verified(tmp_path / "m").sample_ids(range(4)).tolist() == [
        make_paths(MANIFEST, [k]).sample_id.item() for k in (0, 1, 2, 6)
    ]


def test_another_kind_is_refused(tmp_path: Path) -> None:
    one = write_tiny_bank(tmp_path / "one")
    two = write_tiny_bank(tmp_path / "two", changed(seed=5, strength=0.5))
    with pytest.raises(BankMismatchError) as caught:
        merge([one, two], BankFiles(tmp_path / "m"))
    assert caught.value.got == "seed: 4 there, 5 here; strength: 0.7 there, 0.5 here"
    assert caught.value.where == str(tmp_path / "two")
    assert not (tmp_path / "m").exists()


def test_what_cannot_be_merged(tmp_path: Path) -> None:
    one = write_tiny_bank(tmp_path / "one")
    before = contents(tmp_path / "one")
    with pytest.raises(BankError, match="there is a bank already"):
        merge([one], one)
    with pytest.raises(BankError, match="no bank here"):
        merge([one, BankFiles(tmp_path / "none")], BankFiles(tmp_path / "m"))
    with pytest.raises(BankError, match="no finished path"):
        merge([write_tiny_bank(tmp_path / "empty", shards=())], BankFiles(tmp_path / "m"))
    other = write_tiny_bank(tmp_path / "other", changed(seed=9))
    other.remove("manifest.json")
    with pytest.raises(BankMismatchError, match="shards of another bank"):
        merge([one], other)
    assert contents(tmp_path / "one") == before and not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", ["shards/shard-00001.safetensors", "conditions/cond-00001.safetensors"])
@pytest.mark.parametrize("is_cut", [True, False], ids=["cut", "flipped"])
def test_damage_is_not_copied(tmp_path: Path, name: str, is_cut: bool) -> None:
    one = write_tiny_bank(tmp_path / "one")
    data = (tmp_path / "one" / name).read_bytes()
    (tmp_path / "one" / name).write_bytes(data[:-1] if is_cut else data[:-1] + bytes([data[-1] ^ 1]))
    out = BankFiles(tmp_path / "m")
    with pytest.raises(BankCorruptError) as caught:
        merge([one], out)
    assert "shard-00001" in str(caught.value) or "shard 1" in str(caught.value) or name in str(caught.value)
    assert caught.value.hint == f"stdcli bank verify {tmp_path / 'one'}"
    assert not out.exists("manifest.json")


def test_a_merge_that_was_killed_is_repeated(tmp_path: Path) -> None:
    one = write_tiny_bank(tmp_path / "one")

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge([one], BankFiles(tmp_path / "m"), advance=stop)
    assert (tmp_path / "m/shards/shard-00000.json").exists()
    merge([one], BankFiles(tmp_path / "m"))
    assert contents(tmp_path / "m") == contents(tmp_path / "one")


def test_a_bank_of_one_is_itself(tmp_path: Path) -> None:
    one = write_tiny_bank(tmp_path / "one")
    shutil.copytree(one.root, tmp_path / "copy")
    merge([one, BankFiles(tmp_path / "copy")], BankFiles(tmp_path / "m"))
    assert contents(tmp_path / "m") == contents(one.root)
