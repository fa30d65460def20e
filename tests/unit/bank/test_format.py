"""The manifest on disk, and what is refused as another kind of bank."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import (
    Manifest,
    check_kind,
    check_same,
    conditions_name,
    finished,
    read_manifest,
    read_samples,
    repair,
    samples_of_shards,
    shard_name,
    sidecar_name,
    write_manifest,
)
from stdcli.diffusion.levels import Level
from stdcli.errors import BankCorruptError, BankError, BankMismatchError
from tests.tiny_banks import MANIFEST, changed, make_paths, write_tiny_bank


def test_names_are_those_of_the_design() -> None:
    assert shard_name(0) == "shards/shard-00000.safetensors"
    assert sidecar_name(12) == "shards/shard-00012.json"
    assert conditions_name(123456) == "conditions/cond-123456.safetensors"


def test_the_manifest_is_plain_json_with_the_fields_of_the_design(tmp_path: Path) -> None:
    write_manifest(BankFiles(tmp_path), MANIFEST)
    data = json.loads((tmp_path / "manifest.json").read_text())
    assert (data["format"], data["version"], data["state"]) == ("stdcli-bank", 1, "building")
    assert data["plan"] == {"num_paths": 7, "shard_size": 3, "num_shards": 3}
    assert data["levels"][1] == {"id": 5, "t": 100, "alpha": 0.5, "sigma": 0.5}
    assert data["guidance"] == {"min": 2.0, "max": 4.0, "form": "imagen"}
    assert data["latent_shape"] == [2, 3, 5]
    assert read_manifest(BankFiles(tmp_path)) == MANIFEST


def test_the_plan() -> None:
    assert [list(MANIFEST.paths_of(k)) for k in range(MANIFEST.num_shards)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert changed(num_paths=6).num_shards == 2 and changed(num_paths=1).num_shards == 1
    assert MANIFEST.level_ids == (7, 5, 2, 0)
    assert MANIFEST.path_levels()[2] == Level(id=2, t=40, alpha=0.8, sigma=0.2)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("version", 3, "version 3"),
        ("version", 0, "version 0"),
        ("version", "1", "version '1'"),
        ("version", None, "version None"),
        ("format", "zip", "format 'zip'"),
    ],
)
def test_another_version_is_refused_with_both(key: str, value: object, told: str) -> None:
    with pytest.raises(BankMismatchError, match="not a bank this version reads") as caught:
        Manifest.from_json(MANIFEST.to_json() | {key: value}, where="here")
    expected = "1 or 2" if key == "version" else "'stdcli-bank'"
    assert (caught.value.got, caught.value.expected, caught.value.where) == (told, expected, "here")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", sorted(set(MANIFEST.to_json()) - {"format", "version"}))
def test_a_missing_field_is_named(name: str) -> None:
    data = {key: value for key, value in MANIFEST.to_json().items() if key != name}
    if name == "state":
        assert Manifest.from_json(data, where="here").state == "building"
        return
    with pytest.raises(BankCorruptError, match="the manifest is incomplete") as caught:
        Manifest.from_json(data, where="here")
    assert name in str(caught.value.got)


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"levels": 3},
        {"levels": ["abc"]},
        {"levels": [{"id": 1}]},
        {"levels": []},
        {"plan": None},
        {"plan": {"num_paths": "7", "shard_size": 3}},
        {"plan": {"num_paths": 7, "shard_size": 0}},
        {"plan": {"num_paths": -7, "shard_size": 3}},
    ],
)
def test_a_manifest_that_cannot_be_one(change: dict[str, object]) -> None:
    with pytest.raises(BankCorruptError, match="the manifest"):
        Manifest.from_json(MANIFEST.to_json() | change, where="here")


@pytest.mark.parametrize("data", [b"", b'{"format": "stdcli-bank", "vers', b"[]", b"\xff"])
def test_a_torn_manifest_says_how_to_go_on(tmp_path: Path, data: bytes) -> None:
    files = BankFiles(tmp_path)
    files.write_json("run.json", {})
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(BankCorruptError) as caught:
        read_manifest(files)
    assert caught.value.where == str(tmp_path / "manifest.json")
    build = f"stdcli bank build --config {tmp_path}/run.json -o {tmp_path}"
    assert caught.value.hint == f"rm {tmp_path}/manifest.json && {build}"


def test_no_bank(tmp_path: Path) -> None:
    with pytest.raises(BankError, match="no bank here") as caught:
        read_manifest(BankFiles(tmp_path / "none"))
    assert type(caught.value) is BankError and not (tmp_path / "none").exists()


OTHERS = {
    "model.unet_sha256": (changed(model=MANIFEST.model | {"unet_sha256": "ee" * 32}), "ab" * 32, "ee" * 32),
    "model.family": (changed(model=MANIFEST.model | {"family": "sdxl"}), "tiny", "sdxl"),
    "model.vae_sha256": (changed(model=MANIFEST.model | {"vae_sha256": "v"}), "nothing", "v"),
    "schedule": (changed(schedule="x"), "cd" * 32, "x"),
    "prediction": (changed(prediction="flow"), "epsilon", "flow"),
    "strength": (changed(strength=0.5), "0.7", "0.5"),
    "num_solver_steps": (changed(num_solver_steps=50), "10", "50"),
    "guidance.max": (changed(guidance=MANIFEST.guidance | {"max": 7.5}), "4.0", "7.5"),
    "latent_shape": (changed(latent_shape=(4, 3, 5)), "[2, 3, 5]", "[4, 3, 5]"),
    "resolution_px": (changed(resolution_px=64), "40", "64"),
    "compute_dtype": (changed(compute_dtype="bfloat16"), "float32", "bfloat16"),
    "store_dtype": (changed(store_dtype="float32"), "float16", "float32"),
    "start.transform": (changed(start={"transform": "adain"}), "none", "adain"),
    "seed": (changed(seed=5), "4", "5"),
    "plan.shard_size": (changed(shard_size=4), "3", "4"),
    "levels": (changed(levels=MANIFEST.levels[::3]), "[{'id': 7,", "[{'id': 7,"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_kind_is_told_with_both_values(name: str) -> None:
    other, there, here = OTHERS[name]
    with pytest.raises(BankMismatchError) as caught:
        check_same(MANIFEST, other, where="bank", hint="hint")
    assert caught.value.got.startswith(f"{name}: {there}")
    assert f" there, {here}" in caught.value.got and caught.value.got.endswith(" here")
    assert (caught.value.where, caught.value.hint) == ("bank", "hint")
    assert (other.fingerprint() == MANIFEST.fingerprint()) == (name == "plan.shard_size")


def test_every_difference_is_told() -> None:
    model = MANIFEST.model | {"unet_sha256": "ee" * 32}
    with pytest.raises(BankMismatchError) as caught:
        check_same(MANIFEST, changed(model=model, seed=9, strength=0.2, shard_size=8), where="bank")
    listed = [item.split(":")[0] for item in caught.value.got.split("; ")]
    assert listed == ["model.unet_sha256", "seed", "strength", "plan.shard_size"]


def test_what_is_no_other_kind() -> None:
    """Where the model lies, how many paths are planned and whether they are there."""
    model = MANIFEST.model | {"name": "elsewhere", "revision": "v2"}
    same = finished(changed(model=model, num_paths=70))
    check_same(MANIFEST, same, where="bank")
    assert same.fingerprint() == MANIFEST.fingerprint()


def test_a_folder_of_another_bank(tmp_path: Path) -> None:
    files, other = write_tiny_bank(tmp_path), changed(seed=5)
    check_kind(files, MANIFEST)
    with pytest.raises(BankMismatchError, match="paths of another kind"):
        check_kind(files, other)
    files.remove("manifest.json")
    check_kind(files, MANIFEST)
    with pytest.raises(BankMismatchError, match="shards of another bank") as caught:
        check_kind(files, other)
    assert caught.value.where == str(tmp_path / sidecar_name(0))
    for index in range(3):
        (tmp_path / sidecar_name(index)).write_text("{")
    check_kind(files, other)  # torn sidecars say nothing


def test_the_samples(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path)
    rows = [dict(row) for row in make_paths(MANIFEST, range(7)).sources]
    assert read_samples(files) == rows == samples_of_shards(files)
    (tmp_path / sidecar_name(1)).write_text("{")
    assert samples_of_shards(files) == rows[:3]
    for torn in ('{"sample_id": 3}\n{"sam', '{"sample_id": "3"}\n', '{"source": "a"}\n'):
        (tmp_path / "samples.jsonl").write_text(torn)
        with pytest.raises(BankCorruptError) as caught:
            read_samples(files)
        assert caught.value.hint.startswith(f"rm -f {tmp_path}/samples.jsonl && ")
    assert samples_of_shards(BankFiles(tmp_path / "none")) == []


def test_how_to_repair(tmp_path: Path) -> None:
    files = BankFiles(tmp_path / "my bank")
    assert repair(files) == "repeat the command that wrote this bank"
    files.write_json("run.json", {})
    assert repair(files) == f"stdcli bank build --config '{files.root}/run.json' -o '{files.root}'"


def test_finished_changes_the_state_alone() -> None:
    assert finished(MANIFEST) == replace(MANIFEST, state="complete")
