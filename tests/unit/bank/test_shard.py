"""One shard: what is written is what `safetensors` alone reads, and what a damaged one is told to be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stdcli.bank.format import finished
from stdcli.bank.shard import COLUMNS, join_paths, read_shard, shard_problem, write_shard
from stdcli.errors import BankCorruptError
from tests.tiny_banks import MANIFEST, changed, make_paths, write_tiny_bank

SHARD, COND, SIDECAR = (
    "shards/shard-00001.safetensors",
    "conditions/cond-00001.safetensors",
    "shards/shard-00001.json",
)


def test_the_files_of_a_shard_read_without_us(tmp_path: Path) -> None:
    write_tiny_bank(tmp_path)
    paths = make_paths(MANIFEST, [3, 4, 5])
    shard, rows = load_file(tmp_path / SHARD), load_file(tmp_path / COND)
    for name in COLUMNS:
        assert (
            torch.equal(shard[name], getattr(paths, name)) and shard[name].dtype == getattr(paths, name).dtype
        )
    assert shard["states"].shape == (3, 4, 2, 3, 5) and shard["states"].dtype == torch.float16
    assert (shard["guidance"].dtype, shard["sample_id"].dtype) == (torch.float32, torch.int64)
    assert shard["cond.style"].tolist() == [0, 1, 1], "paths 4 and 5 share a style"
    assert shard["uncond.style"].tolist() == [0, 0, 0] and len(rows["uncond.style"]) == 1
    for place, row in enumerate(paths.conditions):
        for name, value in row.items():
            stored = rows[name][shard[name][place]]
            assert torch.equal(stored, value if name.endswith("time_ids") else value.half())
    sidecar = json.loads((tmp_path / SIDECAR).read_text())
    for name, facts in ((SHARD, sidecar), (COND, sidecar["conditions"])):
        data = (tmp_path / name).read_bytes()
        assert facts["sha256"] == hashlib.sha256(data).hexdigest() and facts["bytes"] == len(data)
    assert (sidecar["first"], sidecar["count"], sidecar["bank"]) == (3, 3, MANIFEST.fingerprint())
    assert sidecar["sources"] == list(paths.sources)


def test_read_shard_gives_back_the_paths(tmp_path: Path) -> None:
    files, paths = write_tiny_bank(tmp_path), make_paths(MANIFEST, [3, 4, 5])
    back = read_shard(files, 1)
    for name in COLUMNS:
        assert torch.equal(getattr(back, name), getattr(paths, name))
    assert back.sources == paths.sources
    for there, here in zip(back.conditions, paths.conditions, strict=True):
        assert there.keys() == here.keys()
        assert torch.equal(there["cond.style"], here["cond.style"].half())
        assert torch.equal(there["cond.time_ids"], here["cond.time_ids"])


def test_select_and_join() -> None:
    paths = make_paths(MANIFEST, range(5))
    picked = paths.select([4, 1])
    expected = make_paths(MANIFEST, [4, 1])
    joined = join_paths([paths.select([0, 1]), paths.select([2]), paths.select([3, 4])])
    for name in COLUMNS:
        assert torch.equal(getattr(picked, name), getattr(expected, name))
        assert torch.equal(getattr(joined, name), getattr(paths, name))
    assert picked.sources == expected.sources and joined.sources == paths.sources and len(joined) == 5
    assert torch.equal(picked.conditions[0]["cond.style"], expected.conditions[0]["cond.style"])


@pytest.mark.parametrize("wrong", ["count", "levels", "latent"])
def test_paths_of_another_shard_are_not_written(tmp_path: Path, wrong: str) -> None:
    files = write_tiny_bank(tmp_path, shards=())
    source = {"levels": changed(levels=MANIFEST.levels[:-1]), "latent": changed(latent_shape=(2, 5, 3))}
    paths = make_paths(source.get(wrong, MANIFEST), [0, 1] if wrong == "count" else [0, 1, 2])
    with pytest.raises(ValueError, match="shard 0 holds 3 paths"):
        write_shard(files, MANIFEST, 0, paths)
    assert files.names("shards") == [] == files.names("conditions")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def swap(path: Path, other: str) -> None:
    second = path.with_name(other)
    one, two = path.read_bytes(), second.read_bytes()
    path.write_bytes(two)
    second.write_bytes(one)


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


DAMAGES: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    "no sidecar": (lambda root: (root / SIDECAR).unlink(), "not built", True),
    "no states": (lambda root: (root / SHARD).unlink(), f"{SHARD} is missing", True),
    "no conditions": (lambda root: (root / COND).unlink(), f"{COND} is missing", True),
    "cut": (lambda root: (root / SHARD).write_bytes((root / SHARD).read_bytes()[:-9]), "bytes, not", True),
    "empty": (lambda root: (root / COND).write_bytes(b""), f"{COND} has 0 bytes, not", True),
    "a bit": (lambda root: flip(root / SHARD), f"{SHARD} has changed", False),
    "a bit of conditions": (lambda root: flip(root / COND), f"{COND} has changed", False),
    "swapped states": (lambda root: swap(root / SHARD, "shard-00000.safetensors"), f"{SHARD} has", False),
    "swapped sidecars": (
        lambda root: swap(root / SIDECAR, "shard-00000.json"),
        "holds paths 0 to 2, not 3 to 5",
        True,
    ),
    "another bank's": (lambda root: edit(root / SIDECAR, bank="x"), "belongs to another bank", True),
    "torn sidecar": (lambda root: (root / SIDECAR).write_text('{"sha2'), "not JSON", True),
    "sidecar without hash": (lambda root: edit(root / SIDECAR, conditions={}), "is incomplete", True),
    "sidecar of nonsense": (lambda root: edit(root / SIDECAR, first="x", count=None), "is incomplete", True),
    "other samples": (
        lambda root: edit(root / SIDECAR, sources=[{"sample_id": k} for k in range(3)]),
        "its samples are not those of its sidecar",
        False,
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_told(tmp_path: Path, name: str) -> None:
    damage, told, is_shallow = DAMAGES[name]
    files = write_tiny_bank(tmp_path)
    assert shard_problem(files, MANIFEST, 1, deep=True) is None
    damage(tmp_path)
    assert told in shard_problem(files, MANIFEST, 1, deep=True)
    shallow = shard_problem(files, MANIFEST, 1, deep=False)
    assert (told in shallow) if is_shallow else shallow is None
    assert shard_problem(files, MANIFEST, 2, deep=True) is None


def resealed(root: Path, **columns: torch.Tensor) -> None:
    """Put other tensors into a shard and make its sidecar vouch for them."""
    save_file(load_file(root / SHARD) | columns, root / SHARD)
    data = (root / SHARD).read_bytes()
    edit(root / SIDECAR, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"states": torch.zeros(3, 4, 2, 3, 6)}, r"states are [3, 4, 2, 3, 6], not [3, 4, 2, 3, 5]"),
        ({"x0": torch.full((3, 2, 3, 5), float("inf"))}, "a state is NaN or infinite"),
        ({"states": torch.full((3, 4, 2, 3, 5), float("nan"))}, "a state is NaN or infinite"),
        ({"sample_id": torch.tensor([1, 2, 3])}, "its samples are not those of its sidecar"),
        ({"cond.none": torch.zeros(3, dtype=torch.int64)}, "not as a bank has it"),
    ],
)
def test_content_that_no_hash_betrays(tmp_path: Path, columns: dict[str, torch.Tensor], told: str) -> None:
    files = write_tiny_bank(tmp_path)
    resealed(tmp_path, **columns)
    assert told in shard_problem(files, MANIFEST, 1, deep=True)


def test_a_shard_of_a_longer_or_shorter_plan(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path)
    assert shard_problem(files, finished(MANIFEST), 2, deep=True) is None
    longer = replace(MANIFEST, num_paths=8)
    assert shard_problem(files, longer, 1, deep=True) is None
    assert shard_problem(files, longer, 2, deep=True) == "holds paths 6 to 6, not 6 to 7"


def test_reading_what_is_gone(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path, shards=(0,))
    with pytest.raises(BankCorruptError, match="cannot be read"):
        read_shard(files, 1)
