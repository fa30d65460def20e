"""Every kind of damage is found, with the name of the shard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import finished, read_manifest, sidecar_name, write_manifest
from stdcli.bank.info import bank_metadata
from stdcli.bank.shard import write_shard
from stdcli.bank.verify import Problem, unplanned, verify
from stdcli.disk.sealing import SEAL, is_changed, sealed
from stdcli.errors import BankCorruptError, StdcliError
from tests.tiny_banks import MANIFEST, changed, contents, make_paths, write_tiny_bank

SHARDS = [f"shards/shard-0000{k}.safetensors" for k in range(3)]
CONDS = [f"conditions/cond-0000{k}.safetensors" for k in range(3)]


def problems(root: Path) -> list[tuple[str, str]]:
    files = BankFiles(root)
    return [(problem.name, problem.what) for problem in verify(files, read_manifest(files))]


def test_a_whole_bank_has_no_problem_and_is_not_touched(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path)
    before, counted = contents(tmp_path), []
    assert verify(files, read_manifest(files), advance=lambda: counted.append(1)) == []
    assert contents(tmp_path) == before and len(counted) == 3


def swap(one: Path, two: Path) -> None:
    other = one.with_suffix(".other")
    one.rename(other)
    two.rename(one)
    other.rename(two)


def all_three(root: Path, one: int, two: int) -> None:
    for name in (SHARDS, CONDS, [sidecar_name(k) for k in range(3)]):
        swap(root / name[one], root / name[two])


def flip_each_end(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 64
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], list[tuple[str, str]]]] = {
    "truncated": (
        lambda root: (root / SHARDS[1]).write_bytes((root / SHARDS[1]).read_bytes()[:100]),
        [(SHARDS[1], "has 100 bytes, not")],
    ),
    "flipped": (lambda root: flip_each_end(root / SHARDS[2]), [(SHARDS[2], "its SHA-256 is another")]),
    "flipped condition": (
        lambda root: flip_each_end(root / CONDS[0]),
        [(SHARDS[0], f"{CONDS[0]} has changed")],
    ),
    "missing": (lambda root: (root / SHARDS[0]).unlink(), [(SHARDS[0], "is missing")]),
    "missing sidecar": (lambda root: (root / sidecar_name(1)).unlink(), [(SHARDS[1], "not built")]),
    "missing folder": (
        lambda root: shutil.rmtree(root / "conditions"),
        [(SHARDS[k], f"{CONDS[k]} is missing") for k in range(3)],
    ),
    "swapped": (
        lambda root: swap(root / SHARDS[0], root / SHARDS[1]),
        [(SHARDS[k], "SHA-256 is another") for k in (0, 1)],
    ),
    "swapped with all that is theirs": (
        lambda root: all_three(root, 0, 1),
        [(SHARDS[0], "holds paths 3 to 5, not 0 to 2"), (SHARDS[1], "holds paths 0 to 2, not 3 to 5")],
    ),
    "extra shard": (
        lambda root: shutil.copy(root / SHARDS[0], root / "shards/shard-00003.safetensors"),
        [("shards/shard-00003.safetensors", "is not part of the plan")],
    ),
    "extra conditions": (
        lambda root: shutil.copy(root / CONDS[0], root / "conditions/cond-00007.safetensors"),
        [("conditions/cond-00007.safetensors", "is not part of the plan")],
    ),
    "a sample less": (
        lambda root: (root / "samples.jsonl").write_text(
            "".join((root / "samples.jsonl").read_text().splitlines(keepends=True)[:-1])
        ),
        [
            ("samples.jsonl", "lists 6 paths, the manifest plans 7"),
            (SHARDS[2], "holds other samples than samples.jsonl says"),
        ],
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_and_nothing_else(tmp_path: Path, name: str) -> None:
    damage, expected = DAMAGES[name]
    write_tiny_bank(tmp_path)
    damage(tmp_path)
    found = problems(tmp_path)
    assert [where for where, _ in found] == [where for where, _ in expected]
    assert all(told in what for (_, what), (_, told) in zip(found, expected, strict=True))


def test_a_sidecar_of_another_bank(tmp_path: Path) -> None:
    write_tiny_bank(tmp_path / "a")
    other = write_tiny_bank(tmp_path / "b", changed(seed=5))
    shutil.copy(other.root / sidecar_name(1), tmp_path / "a" / sidecar_name(1))
    assert problems(tmp_path / "a") == [(SHARDS[1], "belongs to another bank")]


def test_a_sample_in_two_shards(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path)
    write_shard(files, MANIFEST, 1, make_paths(MANIFEST, [3, 1, 5]))
    rows = make_paths(MANIFEST, [0, 1, 2, 3, 1, 5, 6]).sources
    assert problems(tmp_path) == [
        (SHARDS[1], "holds other samples than samples.jsonl says"),
        (SHARDS[1], f"sample {rows[1]['sample_id']} is also in {SHARDS[0]}"),
    ]
    files.write_lines("samples.jsonl", [dict(row) for row in rows])
    assert problems(tmp_path) == [(SHARDS[1], f"sample {rows[1]['sample_id']} is also in {SHARDS[0]}")]


def test_the_order_of_samples_counts(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path)
    files.write_lines(
        "samples.jsonl", [dict(row) for row in make_paths(MANIFEST, [1, 0, *range(2, 7)]).sources]
    )
    assert problems(tmp_path) == [(SHARDS[0], "holds other samples than samples.jsonl says")]


def test_lists_of_samples_that_cannot_be_read(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path)
    path = tmp_path / "samples.jsonl"
    whole = path.read_text()
    for torn in (whole[:-20], whole.replace("sample_id", "sampleid"), None):
        path.unlink() if torn is None else path.write_text(torn)
        with pytest.raises(BankCorruptError) as caught:
            verify(files, MANIFEST)
        assert caught.value.where.startswith(str(path)) and caught.value.hint.startswith("rm -f ")


def test_a_problem_is_plain() -> None:
    assert Problem("a", "b") == Problem(name="a", what="b")


def test_files_of_a_shorter_plan_are_unplanned(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path)
    assert unplanned(files, MANIFEST) == []
    shorter = replace(MANIFEST, num_paths=6)
    assert unplanned(files, shorter) == ["shards/shard-00002.json", SHARDS[2], CONDS[2]]


def test_info_counts_what_is_there(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path, shards=(0, 2))
    told = bank_metadata(files, MANIFEST)
    parts = [tmp_path / part[k] for part in (SHARDS, CONDS) for k in (0, 2)]
    parts += [tmp_path / sidecar_name(k) for k in (0, 2)]
    assert told["bytes"] == sum(path.stat().st_size for path in parts)
    assert (told["shards"], told["paths"], told["state"]) == ("2 of 3", 7, "building")
    assert told["levels"] == "4: 7 (t 140) to 0 (t 0)" and told["guidance"] == "2.0 to 4.0"
    write_manifest(files, finished(changed(guidance={"min": 3.0, "max": 3.0, "form": "imagen"})))
    told = bank_metadata(files, read_manifest(files))
    assert (told["guidance"], told["state"], told["latent"]) == ("3.0", "complete", "2x3x5")
    json.dumps(told)


def test_every_field_that_decides_anything_is_covered(tmp_path: Path) -> None:
    """Each field of manifest, settings and list of samples in turn is another."""
    files = write_tiny_bank(tmp_path)
    files.write_json("run.json", sealed({"task": "bank", "config": {"seed": 3, "data": ["a"]}}))
    assert problems(tmp_path) == []
    for name in ("manifest.json", "run.json"):
        whole = files.read_json(name)
        fields = [(whole, key) for key in whole if key not in ("format", "version", SEAL)]
        fields += [(inner, key) for inner in whole.values() if isinstance(inner, dict) for key in inner]
        for inner, key in fields:
            before = inner[key]
            other = {str: f"{before}x", int: 11, float: 0.125, list: [9], dict: {9: 9}}.get(type(before), "x")
            inner[key] = other if key != "store_dtype" else "float32"
            files.write_json(name, whole)
            try:
                found = problems_of(files)
            except StdcliError:
                found = ["refused"]
            assert found, f"{name} {key}"
            inner[key] = before
        files.write_json(name, whole)
    rows = files.read_lines("samples.jsonl")
    files.write_lines("samples.jsonl", [rows[0] | {"source": "another.png"}, *rows[1:]])
    assert problems(tmp_path) == [(SHARDS[0], "holds other samples than samples.jsonl says")]


def problems_of(files: BankFiles) -> list[Problem]:
    return verify(files, read_manifest(files))


def test_banks_without_seals_are_read_as_before(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path)
    whole = files.read_json("manifest.json")
    assert sealed(whole) == whole and is_changed(whole | {"seed": 99})
    del whole[SEAL]
    files.write_json("manifest.json", whole)
    assert problems(tmp_path) == []


def test_a_plan_without_end_ends(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path)
    whole = files.read_json("manifest.json")
    for count, told in ((10**12, "plans too many paths"), (10**7, None)):
        whole["plan"]["num_paths"] = count
        files.write_json("manifest.json", whole)
        if told:
            with pytest.raises(BankCorruptError, match=told):
                read_manifest(files)
        else:
            assert ("samples.jsonl", "lists 7 paths, the manifest plans 10000000") in problems(tmp_path)
