"""Banks whose building stopped, failed or was damaged afterwards, and the commands that mend them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import read_manifest
from stdcli.bank.reader import Bank
from stdcli.bank.verify import verify
from stdcli.cli.main import main
from stdcli.rollout import shards as shards_module
from tests.bank_builds import NAMES, build, rows, verified
from tests.tiny_banks import contents, write_pictures

pytestmark = pytest.mark.usefixtures("one_load")


def test_ctrl_c_keeps_finished_shards(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    original = shards_module.write_shard

    def stop_at_two(files: BankFiles, manifest: object, index: int, paths: object) -> None:
        if index == 2:
            raise KeyboardInterrupt
        original(files, manifest, index, paths)

    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "write_shard", stop_at_two)
        build(world.common, "--data", world.photos, "-o", tmp_path / "b", code=130)
    error = capsys.readouterr().err
    assert "4 paths built" in error and "the same command goes on" in error
    assert BankFiles(tmp_path / "b").names("shards")[::2] == [
        "shards/shard-00000.json",
        "shards/shard-00001.json",
    ]
    assert read_manifest(BankFiles(tmp_path / "b")).state == "building"
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", "--json")
    assert json.loads(capsys.readouterr().out)["built"] == 3
    assert contents(tmp_path / "b") == contents(world.bank)


def test_nan_in_the_teacher(world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = Path(shutil.copytree(world.model, tmp_path / "model"))
    path = model / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_out.bias"][0] = float("nan")
    save_file(tensors, path)
    build(world.common, "--model", model, "--data", world.photos, "-o", tmp_path / "b", code=9)
    error = capsys.readouterr().err
    assert "a state of a path is NaN or infinite" in error
    assert "a.png" in error and "level 2" in error and "float32" in error
    files = BankFiles(tmp_path / "b")
    assert files.names("shards") == [] == files.names("conditions") and files.leftovers() == []


def test_the_one_bad_path_of_a_batch_is_named(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A teacher that breaks on one sample; a state too large for half precision."""
    bad = rows(world.bank)["d.png"]["sample_id"]
    original = shards_module.Teacher.start_paths

    def begin(self: object, samples: list, pictures: object) -> object:
        begun = original(self, samples, pictures)
        for k, sample in enumerate(samples):
            if sample.sample_id == bad:
                begun.state[k] *= value
        return begun

    monkeypatch.setattr(shards_module.Teacher, "start_paths", begin)
    for value, told in (
        (float("inf"), "a state of a path is NaN or infinite"),
        (1e6, "does not fit into float16"),
    ):
        out = tmp_path / str(value)
        build(world.common, "--data", world.photos, "-o", out, code=9)
        error = capsys.readouterr().err
        assert told in error and "at: d.png, level 3" in error
        assert BankFiles(out).names("shards") == ["shards/shard-00000.json", "shards/shard-00000.safetensors"]


def test_a_disk_too_small(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    build(world.common, "--data", world.photos, "-o", tmp_path / "b", code=7)
    assert "the disk is too small for the bank" in capsys.readouterr().err
    assert contents(tmp_path / "b") == {}
    build(world.common, "--data", world.photos, "-o", world.bank)  # a finished one needs no room


@pytest.mark.slow
@pytest.mark.parametrize("room_kb", [16, 40])
def test_a_disk_that_is_full(
    world: SimpleNamespace,
    tmp_path: Path,
    room_kb: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={room_kb}k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(["mount", *options], check=False).returncode:
        pytest.skip("mounting is not permitted")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12))
            build(world.common, "--data", world.photos, "-o", disk / "b", code=7)
        assert "No space left on device" in capfd.readouterr().err
        assert BankFiles(disk / "b").leftovers() == []
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        build(world.common, "--data", world.photos, "-o", disk / "b")
        assert contents(disk / "b") == contents(world.bank)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder where even root may not write")
def test_a_folder_that_takes_no_file(world: SimpleNamespace, capsys: pytest.CaptureFixture) -> None:
    build(world.common, "--data", world.photos, "-o", "/proc/bank", code=3)
    assert "cannot be written" in capsys.readouterr().err


def test_two_builders(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """While the first is writing its first shard the second is refused, also with another split."""
    original, codes = shards_module.write_shard, []

    def write(files: BankFiles, manifest: object, index: int, paths: object) -> None:
        if index == 0:
            for more in ([], ["--worker", "0/2"], ["--worker", "1/3"]):
                arguments = [*world.common, "--data", world.photos, "-o", tmp_path / "b", *more]
                codes.append(main(["bank", "build", *map(str, arguments)]))
            codes.append(main(["bank", "prune", str(tmp_path / "b")]))
        original(files, manifest, index, paths)

    monkeypatch.setattr(shards_module, "write_shard", write)
    build(world.common, "--data", world.photos, "-o", tmp_path / "b")
    assert codes == [3, 3, 3, 3]
    assert capsys.readouterr().err.count("error: somebody is building this bank") == 4
    assert contents(tmp_path / "b") == contents(world.bank)


def test_workers_with_other_data(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The second plans while the first has read an empty folder: it may not write over that plan."""
    other = write_pictures(tmp_path / "other", ["q.png", "r.png"])
    out = tmp_path / "b"
    original = shards_module.check_space

    def check(*arguments: object) -> None:
        monkeypatch.setattr(shards_module, "check_space", original)
        build(world.common, "--data", other, "-o", out, "--worker", "1/2")

    monkeypatch.setattr(shards_module, "check_space", check)
    build(world.common, "--data", world.photos, "-o", out, "--worker", "0/2", code=3)
    assert "another worker has planned other paths" in capsys.readouterr().err
    assert list(rows(out)) == ["q.png", "r.png"] and read_manifest(BankFiles(out)).num_paths == 2


def test_files_that_are_gone(
    world: SimpleNamespace, copy: Path, tmp_path: Path, capsys, walked: list[str]
) -> None:
    """Needed only for what is still to be built."""
    photos = Path(shutil.copytree(world.photos, tmp_path / "photos"))
    (photos / "a.png").unlink()
    build(world.common, "--data", photos, "-o", copy)
    assert walked == []
    (copy / "shards/shard-00000.safetensors").unlink()
    before = contents(copy)
    build(world.common, "--data", photos, "-o", copy, code=2)
    assert "files of this bank are gone" in (error := capsys.readouterr().err) and "a.png" in error
    assert contents(copy) == before


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


def swap(one: Path, two: Path) -> None:
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


SHARD = "shards/shard-0000{}.safetensors"
HARMS: dict[str, tuple[Callable[[Path], object], list[int], str]] = {
    "truncated": (lambda r: (r / SHARD.format(1)).write_bytes(b"abc"), [1], SHARD.format(1)),
    "flipped": (lambda r: flip(r / SHARD.format(2)), [2], SHARD.format(2)),
    "missing": (lambda r: (r / SHARD.format(0)).unlink(), [0], SHARD.format(0)),
    "swapped": (lambda r: swap(r / SHARD.format(0), r / SHARD.format(2)), [0, 2], SHARD.format(0)),
    "conditions": (lambda r: flip(r / "conditions/cond-00003.safetensors"), [3], SHARD.format(3)),
    "sidecar": (lambda r: (r / "shards/shard-00001.json").write_text("{"), [1], SHARD.format(1)),
    "no manifest": (lambda r: (r / "manifest.json").unlink(), [], "manifest.json"),
    "torn manifest": (lambda r: (r / "manifest.json").write_text('{"format"'), [], "manifest.json"),
    "no samples": (lambda r: (r / "samples.jsonl").unlink(), [], "samples.jsonl"),
    "torn samples": (lambda r: (r / "samples.jsonl").write_text('{"sample_id": 3'), [], "samples.jsonl"),
    "extra": (lambda r: shutil.copy(r / SHARD.format(0), r / SHARD.format(9)), [], SHARD.format(9)),
}


@pytest.mark.parametrize("name", HARMS)
def test_what_verify_advises_repairs_the_bank(
    world: SimpleNamespace,
    copy: Path,
    tmp_path: Path,
    walked: list[str],
    name: str,
    capsys: pytest.CaptureFixture,
) -> None:
    harm, rebuilt, told = HARMS[name]
    harm(copy)
    assert main(["bank", "verify", str(copy)]) == 3
    error = capsys.readouterr().err
    assert told in error
    if name == "no manifest":  # nothing says any more that this is a bank
        command = f"stdcli bank build --config {copy}/run.json -o {copy}"
    else:
        command = error.split("hint: ")[1].strip()
    for part in command.split(" && "):
        if part.startswith("rm "):
            subprocess.run(part.split(), check=True)
        else:
            assert main(part.split()[1:]) == 0
    assert walked == [NAMES[path] for k in rebuilt for path in (2 * k, 2 * k + 1) if path < 7]
    assert contents(copy) == contents(world.bank)
    assert verify(BankFiles(copy), read_manifest(BankFiles(copy))) == []


def test_a_lost_list_of_a_bank_that_grew(
    world: SimpleNamespace, copy: Path, walked: list[str], tmp_path: Path
) -> None:
    """Its order is that of the shards, not that of the names."""
    more = write_pictures(tmp_path / "more", ["0.png"])
    build(world.common, "--data", world.photos, "--data", more, "-o", copy)
    before = contents(copy)
    (copy / "samples.jsonl").unlink()
    build(world.common, "--data", world.photos, "--data", more, "-o", copy)
    assert contents(copy) == before and walked == ["0.png"]


def test_merged_and_pruned_banks_through_the_command_line(
    world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert (
        main(["bank", "prune", str(world.bank), "--num-paths", "3", "-o", str(tmp_path / "p"), "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out) == {"path": str(tmp_path / "p"), "paths": 3}
    assert torch.equal(verified(tmp_path / "p").path(2), Bank(world.bank).path(2))
    flip(tmp_path / "p" / SHARD.format(1))
    capsys.readouterr()
    assert main(["bank", "verify", str(tmp_path / "p")]) == 3
    assert "hint: repeat the command that wrote this bank" in capsys.readouterr().err
    for arguments, code, told in (
        (["prune", world.bank, "--num-paths", "0", "-o", tmp_path / "q"], 2, "--num-paths"),
        (["prune", world.bank, "--num-paths", "-1", "-o", tmp_path / "q"], 2, "--num-paths"),
        (["prune", world.bank, "--num-paths", "3"], 2, "--out"),
        (["prune", world.bank, "--keep-levels", "a", "-o", tmp_path / "q"], 2, "not level ids"),
        (["prune", world.bank, "--keep-levels", "7", "-o", tmp_path / "q"], 3, "no such level in this bank"),
        (["prune", tmp_path / "none"], 3, "no bank here"),
        (["verify", tmp_path / "none"], 3, "no bank here"),
        (["info", tmp_path / "none"], 3, "no bank here"),
        (["merge", world.bank, "-o", world.bank], 3, "there is a bank already"),
        (["info", world.bank, "--grid", tmp_path / "g.png", "--paths", "0"], 2, "--paths"),
    ):
        assert main(["bank", *map(str, arguments)]) == code, arguments
        assert told in capsys.readouterr().err
    assert not (tmp_path / "q").exists()


def test_a_picture_of_a_bank(world: SimpleNamespace, tmp_path: Path) -> None:
    """Rows are paths; the first column is the sample, then its states; the gaps are white."""
    assert main(["bank", "info", str(world.bank), "--grid", str(tmp_path / "g.png"), "--paths", "3"]) == 0
    with Image.open(tmp_path / "g.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (3 * 32 + 2 * 4, 5 * 32 + 4 * 4, 3)
    assert (sheet[32:36] == 255).all() and (sheet[:, 32:36] == 255).all()
    from stdcli.media.tensors import to_uint8
    from stdcli.models.load import load_model
    from stdcli.models.spec import ModelSpec

    bank, codec = (
        Bank(world.bank),
        load_model(ModelSpec(str(world.model), dtype="float32", device="cpu")).codec,
    )
    with torch.no_grad():
        last = to_uint8(codec.decode(bank.path(6)[3:4].float()))[0]
        first = to_uint8(codec.decode(bank.x0([0]).float()))[0]
    assert np.array_equal(sheet[-32:, -32:], last) and np.array_equal(sheet[:32, :32], first)
