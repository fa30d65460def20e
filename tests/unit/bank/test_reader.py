"""Reading at random against the arrays that were written."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from stdcli.bank import reader
from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import finished, shard_name, write_manifest
from stdcli.bank.reader import Bank
from stdcli.errors import BankCorruptError, BankError, BankMismatchError
from tests.tiny_banks import MANIFEST, changed, make_paths, write_tiny_bank

WRITTEN = make_paths(MANIFEST, range(7))
SOME = [6, 0, 3, 3, 5]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bank(tmp_path_factory.mktemp("bank")).root


@pytest.mark.parametrize("paths", [SOME, torch.tensor(SOME)], ids=["list", "tensor"])
def test_every_accessor(root: Path, paths: list[int] | torch.Tensor) -> None:
    bank = Bank(root)
    assert (len(bank), bank.level_ids, bank.manifest) == (7, (7, 5, 2, 0), finished(MANIFEST))
    for name, accessor in (
        ("x0", bank.x0),
        ("guidance", bank.guidance),
        ("noise_seed", bank.noise_seeds),
        ("sample_id", bank.sample_ids),
    ):
        expected = getattr(WRITTEN, name)[SOME]
        assert torch.equal(accessor(paths), expected) and accessor(paths).dtype == expected.dtype
    ids = [0, 7, 5, 2, 7]
    rows = [MANIFEST.level_ids.index(id_) for id_ in ids]
    for given in (ids, torch.tensor(ids)):
        states = bank.states(paths, given)
        assert torch.equal(states, WRITTEN.states[SOME, rows]) and states.dtype == torch.float16
    for path in range(7):
        assert torch.equal(bank.path(path), WRITTEN.states[path])
        assert bank.source(path) == WRITTEN.sources[path]


def test_each_path_has_its_own_conditions(root: Path) -> None:
    found = Bank(root).conditions(SOME)
    assert set(found) == {"cond.style", "cond.time_ids", "uncond.style"}
    rows = [WRITTEN.conditions[path] for path in SOME]
    assert torch.equal(found["cond.style"], torch.stack([row["cond.style"] for row in rows]).half())
    assert torch.equal(found["cond.time_ids"], torch.stack([row["cond.time_ids"] for row in rows]))
    assert torch.equal(found["uncond.style"], torch.zeros(5, 4, 6, dtype=torch.float16))


def test_what_is_not_there(root: Path) -> None:
    bank = Bank(root)
    for path in (7, -1):
        with pytest.raises(IndexError, match=f"path {path} is not in 0..6"):
            bank.x0([path])
    with pytest.raises(KeyError):
        bank.states([0], [1])
    with pytest.raises(ValueError, match="zip"):
        bank.states([0, 1], [7])


def test_few_shards_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Least recently used ones go; what is read again and again stays open."""
    manifest = changed(num_paths=12, shard_size=1)
    monkeypatch.setattr(reader, "OPEN_SHARDS", 3)
    opened = []
    original = BankFiles.map_tensors
    bank = Bank(write_tiny_bank(tmp_path, manifest).root)
    monkeypatch.setattr(
        BankFiles, "map_tensors", lambda files, name: (opened.append(name), original(files, name))[1]
    )
    for path in [*range(12), 11, 10, 9]:
        bank.guidance([path])
        bank.guidance([0])
        assert len(bank._open) <= 3
    shards = [name for name in opened if name.startswith("shards")]
    assert shards.count(shard_name(0)) == 1
    assert shards == [shard_name(k) for k in (*range(12), 9)], "0, 11 and 10 were still open"


def test_threads_each_with_a_reader(root: Path) -> None:
    results: dict[int, bool] = {}

    def read(number: int) -> None:
        bank, order = Bank(root), torch.randperm(7, generator=torch.Generator().manual_seed(number)).tolist()
        seen = torch.stack([bank.path(path) for path in order])
        results[number] = torch.equal(seen, WRITTEN.states[order])

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), True)


@pytest.mark.parametrize("shards", [(), (0, 2), (0, 1)])
def test_an_unfinished_bank_is_refused(tmp_path: Path, shards: tuple[int, ...]) -> None:
    root = write_tiny_bank(tmp_path, shards=shards).root
    first = min(set(range(3)) - set(shards))
    with pytest.raises(BankCorruptError, match=f"shard {first}: not built") as caught:
        Bank(root)
    assert caught.value.hint == f"stdcli bank verify {root}"


def test_a_bank_that_grows_is_unfinished(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path)
    write_manifest(files, changed(num_paths=8))
    with pytest.raises(BankCorruptError, match="shard 2: holds paths 6 to 6, not 6 to 7"):
        Bank(tmp_path)


def test_damage_that_shows_without_reading_all(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path)
    path = tmp_path / shard_name(1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(BankCorruptError, match=r"shard 1: .* bytes, not"):
        Bank(tmp_path)
    path.write_bytes(b"\xff" * len(whole))
    bank = Bank(tmp_path)
    with pytest.raises(BankCorruptError, match="damaged or missing"):
        bank.x0([3])
    assert torch.equal(bank.x0([2]), WRITTEN.x0[2:3])
    files.write_json("manifest.json", MANIFEST.to_json() | {"version": 9})
    with pytest.raises(BankMismatchError):
        Bank(tmp_path)
    with pytest.raises(BankError, match="no bank here"):
        Bank(tmp_path / "none")
