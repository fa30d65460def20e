"""What `stdcli bank build` reads, plans and says: data, levels, sizes, dry runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.reader import Bank
from stdcli.cli.main import main
from stdcli.models.bundle import Network
from stdcli.rollout import shards as shards_module
from tests.bank_builds import build, verified
from tests.integration.test_clips import write_clip
from tests.tiny_banks import contents

pytestmark = pytest.mark.usefixtures("one_load")


def test_unreadable_files(world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photos = Path(shutil.copytree(world.photos, tmp_path / "photos"))
    (photos / "sub").mkdir()
    (photos / "sub/torn.png").write_bytes((photos / "a.png").read_bytes()[:200])
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "notes.txt").write_text("no picture at all")
    (photos / ".hidden.png").write_bytes(b"")
    shutil.copy(photos / "b.png", photos / "sub/b again.png")
    build(world.common, "--data", photos, "-o", tmp_path / "b")
    told = capsys.readouterr().err
    assert "data: 2 unreadable and left out" in told and "empty.jpg" in told and "sub/torn.png" in told
    assert contents(tmp_path / "b") == contents(world.bank), "the other files are as if these were not there"
    build(world.common, "--data", photos, "--strict", "-o", tmp_path / "c", code=5)
    assert "2 files of data cannot be read" in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_data_that_is_none(world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/a.png").write_bytes(b"x")
    (tmp_path / "notes.md").write_text("x")
    for given, code, told in (
        (["--data", tmp_path / "none"], 5, str(tmp_path / "none")),
        (["--data", tmp_path / "empty"], 5, "no picture or clip in this folder"),
        (["--data", tmp_path / "torn"], 5, "nothing readable in data"),
        (["--data", tmp_path / "notes.md"], 5, "notes.md"),
        ([], 2, "--data FOLDER"),
        (["--data", world.photos, "--style-data", tmp_path / "empty"], 5, "no picture or clip"),
        (["--data", world.photos, "--style-data", tmp_path / "torn"], 5, f"at: {tmp_path / 'torn'}\n"),
    ):
        build(world.common, given, "-o", tmp_path / "b", code=code)
        assert told in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("worker", ["3/2", "2/2", "x", "1", "-1/2", "1/2/3", "0/0", ""])
def test_workers_that_cannot_be(
    world: SimpleNamespace, tmp_path: Path, worker: str, capsys: pytest.CaptureFixture
) -> None:
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", f"--worker={worker}", code=2)
    assert "no such worker" in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_frames_of_a_clip(world: SimpleNamespace, tmp_path: Path) -> None:
    """One frame per path, drawn for it; what is stored is the latent of that very frame."""
    data = tmp_path / "data"
    data.mkdir()
    clip = write_clip(data / "clip.mkv", 9, with_sound=False)
    build(
        world.common, "--data", data, "--num-paths", "5", "-o", tmp_path / "b", "--set", "store_dtype=float32"
    )
    bank = verified(tmp_path / "b")
    frames = [bank.source(path)["frame"] for path in range(5)]
    assert len(set(frames)) > 1 and all(0 <= frame < 9 for frame in frames)
    from stdcli.media.tensors import to_tensor
    from stdcli.media.video import iter_frames
    from stdcli.models.load import load_model
    from stdcli.models.spec import ModelSpec
    from stdcli.rollout.path_inputs import square

    codec, pictures = (
        load_model(ModelSpec(str(world.model), dtype="float32", device="cpu")).codec,
        list(iter_frames(clip)),
    )
    for path, frame in enumerate(frames):
        place = tuple(bank.source(path)["crop"])
        with torch.no_grad():
            distances = [
                (codec.encode(to_tensor(square(rgb, 32, position=place)))[0] - bank.x0([path])[0])
                .abs()
                .max()
                .item()
                for rgb in pictures
            ]
        assert int(np.argmin(distances)) == frame and distances[frame] < 1e-4


def test_some_levels(world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", "--keep-levels", "1")
    bank, whole = verified(tmp_path / "b"), Bank(world.bank)
    assert bank.level_ids == (3, 1, 0)
    for path in range(7):
        assert torch.equal(bank.path(path), whole.path(path)[[0, 2, 3]])
    assert [level["id"] for level in bank.manifest.levels] == [3, 1, 0]
    build(world.common, "--data", world.photos, "-o", tmp_path / "c", "--keep-levels", "9,4,2", code=2)
    assert "4, 9 not in 0..3" in capsys.readouterr().err
    main(["bank", "prune", str(world.bank), "-o", str(tmp_path / "p"), "--keep-levels", "1"])
    shards = [name for name in contents(tmp_path / "b") if name.endswith(".safetensors")]
    assert all(contents(tmp_path / "p")[name] == contents(tmp_path / "b")[name] for name in shards)


def test_the_largest_size(world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def dry(*more: object) -> dict:
        build(world.common, "--data", world.photos, "-o", tmp_path / "d", "--dry-run", "--json", *more)
        return json.loads(capsys.readouterr().out)

    sizes = {count: dry("--num-paths", count)["total_bytes"] for count in (1, 3, 6)}
    for count, size in sizes.items():
        told = dry("--max-bytes", size)
        assert (told["paths"], told["total_bytes"]) == (count, size)
    assert dry("--max-bytes", sizes[3] - 1)["paths"] == 2
    build(world.common, "--data", world.photos, "-o", tmp_path / "d", "--max-bytes", sizes[1] - 1, code=2)
    assert f"one path takes {sizes[1]} bytes" in capsys.readouterr().err
    build(world.common, "--data", world.photos, "-o", tmp_path / "e", "--max-bytes", sizes[3])
    build(world.common, "--data", world.photos, "-o", tmp_path / "e", "--max-bytes", sizes[3])
    assert len(verified(tmp_path / "e")) == 3


def test_a_dry_run_writes_nothing(
    world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", "--dry-run")
    streams = capsys.readouterr()
    assert streams.out == f"{tmp_path / 'b'}: nothing built (dry run)\n"
    for told in (
        "7 paths in 4 shards",
        "4 levels",
        "t 599 to 0",
        "6 forwards per path, 42 in all",
        "MB per path",
    ):
        assert told in streams.err
    assert not (tmp_path / "b").exists()
    before = contents(world.bank)
    build(world.common, "--data", world.photos, "-o", world.bank, "--num-paths", 20, "--dry-run")
    assert contents(world.bank) == before


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Paths of every evaluation of a teacher's network."""
    seen: list[int] = []
    original = Network.denoise

    def denoise(self: Network, x: torch.Tensor, *args: object, **options: object) -> object:
        seen.append(len(x))
        return original(self, x, *args, **options)

    monkeypatch.setattr(Network, "denoise", denoise)
    return seen


def test_nothing_is_computed_for_the_time_alone(
    world: SimpleNamespace,
    tmp_path: Path,
    forwards: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Told from the first batch of all, kept, and told at once by the command that goes on."""
    original = shards_module.write_shard

    def stop_at_two(files: BankFiles, manifest: object, index: int, paths: object) -> None:
        if index == 2:
            raise KeyboardInterrupt
        original(files, manifest, index, paths)

    command = [world.common, "--data", world.photos, "-o", tmp_path / "b", "--batch-size", 8]
    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "write_shard", stop_at_two)
        build(*command, code=130)
    assert forwards == [2] * 3 * 3, "three evaluations of each batch of two"
    assert re.search(r"^about \S+ (s|min) for 7 paths on this machine$", capsys.readouterr().err, re.M)
    forwards.clear()
    batches = BankFiles(tmp_path / "b").read_json("run.json")["pace"]
    assert [list(pace["batches"]) for pace in batches.values()] == [["2"]]
    build(*command, "--dry-run")
    assert forwards == [] and "for 7 paths on one such machine" in capsys.readouterr().err
    build(*command)
    assert forwards == [2, 2, 2, 1, 1, 1]
    lines = capsys.readouterr().err.splitlines()
    known = next(k for k, line in enumerate(lines) if line.startswith("about"))
    assert lines[known].endswith("for 3 paths on this machine")
    assert known < next(k for k, line in enumerate(lines) if line.startswith("paths:"))
    assert contents(tmp_path / "b") == contents(world.bank)


def test_a_dry_run_begins_one_batch_as_a_shard_has_it(
    world: SimpleNamespace, tmp_path: Path, forwards: list[int], capsys: pytest.CaptureFixture
) -> None:
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", "--batch-size", 8, "--dry-run")
    assert forwards == [2, 2]
    assert re.search(r"^about \S+ (s|min) for 7 paths on one such machine$", capsys.readouterr().err, re.M)


def test_json_is_one_object(world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told.pop("seconds") > 0
    path_bytes = 5 * 8 * 4 * 4 * 2 + 4 + 8 + 8  # four states and x0 of 8 channels, 4x4 cells, float16
    path_bytes += 8 * len(Bank(tmp_path / "b").conditions([0]))
    on_disk = sum(len(data) for data in contents(tmp_path / "b").values())
    assert told.pop("total_bytes") == pytest.approx(on_disk, rel=0.5)  # headers weigh much in so small a bank
    assert told == {
        "path": str(tmp_path / "b"),
        "dry_run": False,
        "state": "complete",
        "paths": 7,
        "built": 7,
        "missing_shards": 0,
        "bytes_per_path": path_bytes,
        "forwards_per_path": 6,
    }
    assert main(["bank", "info", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shards"] == "4 of 4"
    assert main(["bank", "verify", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(tmp_path / "b"), "paths": 7, "shards": 4}


def test_unguided_paths_take_one_forward(
    world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    build(
        world.common,
        "--data",
        world.photos,
        "-o",
        tmp_path / "b",
        "--guidance-range",
        "1",
        "--json",
        "--resolution",
        "64",
    )
    assert json.loads(capsys.readouterr().out)["forwards_per_path"] == 3
    assert Bank(tmp_path / "b").guidance(range(7)).tolist() == [1.0] * 7
