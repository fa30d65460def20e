"""Smaller banks hold the very states of the larger one; sweeping takes litter alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.build_locks import hold_slot
from stdcli.bank.format import read_manifest
from stdcli.bank.prune import prune, rows_of, sweep
from stdcli.bank.reader import Bank
from stdcli.bank.verify import verify
from stdcli.errors import BankCorruptError, BankError
from tests.tiny_banks import MANIFEST, contents, make_paths, write_tiny_bank

WRITTEN = make_paths(MANIFEST, range(7))


@pytest.mark.parametrize(
    ("keep", "rows"),
    [(None, [0, 1, 2, 3]), ([5], [0, 1, 3]), ([2, 7], [0, 2, 3]), ([0], [0, 3]), ([], [0, 3])],
)
@pytest.mark.parametrize("num_paths", [None, 4, 1, 99])
def test_first_paths_at_some_levels(
    tmp_path: Path, keep: list[int] | None, rows: list[int], num_paths: int | None
) -> None:
    source = write_tiny_bank(tmp_path / "a")
    before = contents(source.root)
    manifest = prune(source, BankFiles(tmp_path / "b"), num_paths=num_paths, keep_levels=keep)
    bank, count = Bank(tmp_path / "b"), min(num_paths or 7, 7)
    assert bank.manifest == manifest and manifest.state == "complete" and len(bank) == count
    assert bank.level_ids == tuple(MANIFEST.level_ids[row] for row in rows)
    assert manifest.levels == tuple(MANIFEST.levels[row] for row in rows)
    assert torch.equal(torch.stack([bank.path(k) for k in range(count)]), WRITTEN.states[:count, rows])
    assert torch.equal(bank.x0(range(count)), WRITTEN.x0[:count])
    assert torch.equal(bank.guidance(range(count)), WRITTEN.guidance[:count])
    styles = torch.stack([row["cond.style"] for row in WRITTEN.conditions[:count]]).half()
    assert torch.equal(bank.conditions(range(count))["cond.style"], styles)
    files = BankFiles(tmp_path / "b")
    assert verify(files, read_manifest(files)) == []
    assert contents(source.root) == before


def test_all_of_a_bank_is_the_bank(tmp_path: Path) -> None:
    source = write_tiny_bank(tmp_path / "a")
    prune(source, BankFiles(tmp_path / "b"))
    assert contents(tmp_path / "b") == contents(source.root)


def test_levels_that_are_not_stored(tmp_path: Path) -> None:
    source = write_tiny_bank(tmp_path / "a")
    with pytest.raises(BankError) as caught:
        prune(source, BankFiles(tmp_path / "b"), keep_levels=[7, 6, 1])
    assert (caught.value.got, caught.value.expected) == ("6, 1", "among 7, 5, 2, 0")
    assert rows_of(MANIFEST, [2]) == [0, 2, 3] and not (tmp_path / "b").exists()


def test_a_bank_is_not_pruned_onto_itself(tmp_path: Path) -> None:
    source = write_tiny_bank(tmp_path / "a")
    before = contents(source.root)
    with pytest.raises(BankError, match="there is a bank already"):
        prune(source, source, num_paths=1)
    assert contents(source.root) == before


def litter(root: Path) -> int:
    (root / "shards/.shard-00001.json.part").write_bytes(b"abc")
    (root / ".manifest.json.part").write_bytes(b"de")
    extra = (root / "shards/shard-00003.safetensors", root / "conditions/cond-00003.safetensors")
    for path in extra:
        path.write_bytes(b"1234567890")
    return 25


def test_sweeping_takes_litter_alone(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    size = litter(tmp_path)
    assert sweep(files) == size
    assert contents(tmp_path) == before and files.leftovers() == []
    assert sweep(files) == 0


def test_an_unfinished_bank_keeps_what_it_has(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path, shards=(0, 2))
    before = contents(tmp_path)
    assert sweep(files) == 0 and contents(tmp_path) == before


def test_nothing_is_swept_from_under_a_builder(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path)
    litter(tmp_path)
    with hold_slot(files, 1, 4):
        before = contents(tmp_path)
        with pytest.raises(BankError, match="somebody is building") as caught:
            sweep(files)
        assert caught.value.got == "worker 1 of 4" and contents(tmp_path) == before
    assert sweep(files) == 25


@pytest.mark.parametrize("folder", ["conditions", "shards"])
def test_nothing_behind_a_link_is_swept(tmp_path: Path, folder: str) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("photo.jpg", "cond-00009.safetensors", "shard-00009.json", ".x.part"):
        (mine / name).write_text("mine")
    files = write_tiny_bank(tmp_path / "bank")
    litter(files.root)
    shutil.copytree(files.root / folder, mine, dirs_exist_ok=True)
    shutil.rmtree(files.root / folder)
    (files.root / folder).symlink_to(mine)
    before = contents(files.root), contents(mine)
    with pytest.raises(BankCorruptError, match="a link") as caught:
        sweep(files)
    assert caught.value.where == str(files.root / folder)
    assert (contents(files.root), contents(mine)) == before


def test_only_names_of_the_format_are_swept(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path)
    for name in (".notes.part", "shards/notes.txt", "shards/.photo.part", "conditions/cond-1.safetensors"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/.manifest.json.part").write_text("mine")
    (tmp_path / "shards/.shard-00001.json.part").symlink_to(tmp_path / "mine")
    before = contents(tmp_path)
    assert sweep(files) == 0 and contents(tmp_path) == before
    assert (tmp_path / "shards/.shard-00001.json.part").is_symlink()


def test_no_bank_is_not_swept(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    shutil.copy(__file__, tmp_path / "a" / ".photo.part")
    with pytest.raises(BankError, match="no bank here"):
        sweep(BankFiles(tmp_path / "a"))
    assert [path.name for path in (tmp_path / "a").iterdir()] == [".photo.part"]
