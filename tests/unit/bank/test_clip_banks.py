"""Banks of clips: version 2, through all that reads and writes banks; pictures stay version 1."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.batches import iter_batches
from stdcli.bank.format import Manifest, check_same, read_manifest, write_manifest
from stdcli.bank.info import bank_metadata
from stdcli.bank.merge_banks import merge
from stdcli.bank.order import PairOrder
from stdcli.bank.prune import prune
from stdcli.bank.reader import Bank
from stdcli.bank.shard import write_shard
from stdcli.bank.verify import verify
from stdcli.diffusion.levels import Level
from stdcli.errors import BankCorruptError, BankMismatchError
from tests.tiny_banks import CLIPS, MANIFEST, contents, make_paths, write_tiny_bank

WRITTEN = make_paths(CLIPS, range(7))
EXTENT = {"height": 16, "width": 32, "frames": 9, "frame_stride": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bank(tmp_path_factory.mktemp("bank"), CLIPS).root


def assert_whole(root: Path, manifest: Manifest, *, rows: list[int], count: int) -> None:
    """The bank has the first paths at these rows of the levels."""
    files, bank = BankFiles(root), Bank(root)
    assert verify(files, read_manifest(files)) == []
    assert (bank.manifest, len(bank)) == (manifest, count)
    assert torch.equal(torch.stack([bank.path(k) for k in range(count)]), WRITTEN.states[:count, rows])
    assert torch.equal(bank.x0(range(count)), WRITTEN.x0[:count])


def test_the_manifest_says_version_2_and_how_large_the_clips_are(root: Path) -> None:
    data = json.loads((root / "manifest.json").read_text())
    assert (data["format"], data["version"], data["latent_shape"]) == ("stdcli-bank", 2, [2, 3, 2, 4])
    assert {name: data[name] for name in EXTENT} == EXTENT
    assert "resolution_px" not in data and "clip" not in data
    assert read_manifest(BankFiles(root)) == replace(CLIPS, state="complete")
    times = [level["t"] for level in data["levels"]]
    assert times == [875.0, 714.2857142857143, 333.3333333333333, 0.0]
    assert CLIPS.path_levels()[1] == Level(5, 714.2857142857143, 1 - 0.7142857142857143, 0.7142857142857143)


def test_pictures_stay_version_1_with_the_fields_that_they_had() -> None:
    assert MANIFEST.to_json()["version"] == 1
    assert list(MANIFEST.to_json()) == [
        "format", "version", "model", "schedule", "prediction", "levels", "strength", "num_solver_steps",
        "solver", "guidance", "latent_shape", "resolution_px", "compute_dtype", "store_dtype", "start",
        "seed", "state", "plan",
    ]  # fmt: skip
    assert MANIFEST.fingerprint() == "32a85f360e50934ad68467b92e4619e8846a709aa37317338fab1743e0fd4511"


def test_a_shard_reads_without_us(root: Path) -> None:
    shard = load_file(root / "shards/shard-00001.safetensors")
    assert shard["states"].shape == (3, 4, 2, 3, 2, 4) and shard["x0"].shape == (3, 2, 3, 2, 4)
    assert torch.equal(shard["states"], WRITTEN.states[3:6]) and torch.equal(shard["x0"], WRITTEN.x0[3:6])


def test_states_are_read_at_random(root: Path) -> None:
    bank, paths, ids = Bank(root), [6, 0, 3, 3], [0, 7, 5, 2]
    rows = [CLIPS.level_ids.index(id_) for id_ in ids]
    assert torch.equal(bank.states(paths, ids), WRITTEN.states[paths, rows])


def test_batches_hold_clips_with_what_belongs_to_them(root: Path) -> None:
    bank = Bank(root)
    order = PairOrder(len(bank), bank.level_ids[:-1], seed=5)
    with closing(iter_batches(bank, order, lambda pairs: {"here": pairs.level_ids}, batch_size=4)) as batches:
        for batch in islice(batches, 6):
            rows = [CLIPS.level_ids.index(id_) for id_ in batch.pairs.level_ids.tolist()]
            assert torch.equal(batch.states["here"], WRITTEN.states[batch.pairs.paths, rows])
            assert torch.equal(batch.x0, WRITTEN.x0[batch.pairs.paths])
            assert torch.equal(batch.sample_ids, WRITTEN.sample_id[batch.pairs.paths])


def test_parts_of_two_workers_are_the_bytes_of_one(root: Path, tmp_path: Path) -> None:
    parts = [
        write_tiny_bank(tmp_path / "0", CLIPS, shards=(0, 2)),
        write_tiny_bank(tmp_path / "1", CLIPS, shards=(1,)),
    ]
    manifest = merge(parts, BankFiles(tmp_path / "m"))
    assert contents(tmp_path / "m") == contents(root)
    assert_whole(tmp_path / "m", manifest, rows=[0, 1, 2, 3], count=7)


def test_pruned_paths_and_levels_are_those_of_the_bank(root: Path, tmp_path: Path) -> None:
    manifest = prune(BankFiles(root), BankFiles(tmp_path / "p"), num_paths=4, keep_levels=[2])
    assert (manifest.clip, manifest.level_ids) == (CLIPS.clip, (7, 2, 0))
    assert_whole(tmp_path / "p", manifest, rows=[0, 2, 3], count=4)


def test_states_of_another_shape_are_neither_written_nor_taken_for_whole(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path, CLIPS)
    turned = make_paths(replace(CLIPS, latent_shape=(2, 2, 3, 4)), range(3))
    with pytest.raises(ValueError, match="shard 0 holds 3 paths"):
        write_shard(files, CLIPS, 0, turned)
    write_shard(files, replace(CLIPS, latent_shape=(2, 2, 3, 4)), 0, turned)
    sidecar = files.read_json("shards/shard-00000.json") | {"bank": CLIPS.fingerprint()}
    files.write_json("shards/shard-00000.json", sidecar)
    (problem,) = verify(files, read_manifest(files))
    assert problem.what == "states are [3, 4, 2, 2, 3, 4], not [3, 4, 2, 3, 2, 4]"


OTHERS = {
    "height": replace(CLIPS.clip, height=24),
    "width": replace(CLIPS.clip, width=40),
    "frames": replace(CLIPS.clip, frames=13),
    "frame_stride": replace(CLIPS.clip, frame_stride=1),
}


@pytest.mark.parametrize("name", EXTENT)
def test_clips_of_another_size_are_another_kind(name: str) -> None:
    other = replace(CLIPS, clip=OTHERS[name])
    with pytest.raises(BankMismatchError) as caught:
        check_same(CLIPS, other, where="bank")
    assert caught.value.got == f"{name}: {EXTENT[name]} there, {getattr(OTHERS[name], name)} here"
    assert other.fingerprint() != CLIPS.fingerprint()


def test_clips_and_pictures_are_not_mixed(root: Path, tmp_path: Path) -> None:
    pictures = write_tiny_bank(tmp_path / "pictures")
    with pytest.raises(BankMismatchError) as caught:
        merge([pictures, BankFiles(root)], BankFiles(tmp_path / "m"))
    assert "frames: nothing there, 9 here" in caught.value.got
    assert "version: 1 there, 2 here" in caught.value.got


IMPOSSIBLE = {
    "a picture's shape": {"latent_shape": [2, 3, 5]},
    "a shape of five": {"latent_shape": [2, 3, 2, 4, 1]},
    "a pixel size too": {"resolution_px": 40},
    "a field of ours": {"clip": EXTENT},
    "half a frame": {"frames": 8.5},
    "a truth value": {"frame_stride": True},
    "no stride": {"frame_stride": 0},
    "more latent frames than frames": {"frames": 2},
    "more rows than pixels": {"height": 1},
    "more columns than pixels": {"width": 3},
    "a word": {"width": "32"},
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_manifest_that_cannot_be_one(name: str) -> None:
    with pytest.raises(BankCorruptError, match="the manifest is incomplete"):
        Manifest.from_json(CLIPS.to_json() | IMPOSSIBLE[name], where="here")


@pytest.mark.parametrize("name", EXTENT)
def test_a_missing_field_is_named_and_one_too_many_of_a_picture(name: str) -> None:
    data = {key: value for key, value in CLIPS.to_json().items() if key != name}
    with pytest.raises(BankCorruptError, match="the manifest is incomplete") as caught:
        Manifest.from_json(data, where="here")
    assert name in str(caught.value.got)
    with pytest.raises(BankCorruptError, match="the manifest is incomplete") as caught:
        Manifest.from_json(MANIFEST.to_json() | {name: EXTENT[name]}, where="here")
    assert name in str(caught.value.got)


@pytest.mark.parametrize("changes", [{"latent_shape": [2, 3, 2, 4]}, {"clip": None}])
def test_a_picture_is_no_clip(changes: dict[str, object]) -> None:
    with pytest.raises(BankCorruptError, match="the manifest is incomplete"):
        Manifest.from_json(MANIFEST.to_json() | changes, where="here")


def test_what_a_bank_holds_is_told_in_frames(root: Path, tmp_path: Path) -> None:
    told = bank_metadata(BankFiles(root), CLIPS)
    assert (told["latent"], told["resolution"]) == ("2x3x2x4", "9 frames of 32x16 px, stride 2")
    assert told["levels"] == "4: 7 (t 875.0) to 0 (t 0.0)"
    assert bank_metadata(write_tiny_bank(tmp_path), MANIFEST)["resolution"] == "40 px"


def test_a_changed_size_breaks_the_seal(tmp_path: Path) -> None:
    files = write_tiny_bank(tmp_path, CLIPS)
    data = files.read_json("manifest.json")
    files.write_json("manifest.json", data | {"frame_stride": 3})
    assert ("manifest.json", "has been changed since it was written") in [
        (problem.name, problem.what) for problem in verify(files, read_manifest(files))
    ]
    write_manifest(files, CLIPS)
