"""What a run takes, told before it begins: full weights of SDXL by hand, disks and memories too small."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from stdcli.config.distill import DistillConfig
from stdcli.disk.space import check_space
from stdcli.distill import requirements
from stdcli.errors import ResourceError
from stdcli.runtime.free_memory import Room
from stdcli.training.run_folder import RunFolder

SDXL = 2_567_463_684  # values of its UNet
FULL = DistillConfig.model_validate({"student": {"kind": "full"}})
CPU = torch.device("cpu")
Usage = namedtuple("Usage", "total used free")


def memory(monkeypatch: pytest.MonkeyPatch, gigabytes: float) -> None:
    room = Room(int(gigabytes * 1e9), int(1e12), 0, limited=False)
    monkeypatch.setattr(requirements, "measure_room", lambda: room)


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**15, 0, free))


def test_full_weights_of_sdxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, gradients, two moments and an average: 5 x 4 bytes; three checkpoints without gradients."""
    memory(monkeypatch, 64)
    disk(monkeypatch, 10**13)
    told = requirements.check_full(FULL, RunFolder(tmp_path), values=SDXL, device=CPU)
    assert told == "full weights: 51.3 GB of states in memory, 128.4 GB of disk"
    memory(monkeypatch, 51)
    with pytest.raises(ResourceError, match="not enough memory") as caught:
        requirements.check_full(FULL, RunFolder(tmp_path), values=SDXL, device=CPU)
    assert (caught.value.got, caught.value.hint) == ("51.0 GB free", "--student lora")
    assert caught.value.expected.startswith("51.3 GB")
    memory(monkeypatch, 64)
    disk(monkeypatch, 128 * 10**9)
    with pytest.raises(ResourceError, match="disk is too small for the run"):
        requirements.check_full(FULL, RunFolder(tmp_path), values=SDXL, device=CPU)
    requirements.check_full(FULL, None, values=SDXL, device=CPU)  # a dry run writes nothing


def test_what_the_run_holds_already_is_not_needed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(monkeypatch, 64)
    run = RunFolder(tmp_path)
    run.save(1, {"w": torch.zeros(1000)})
    there = run.checkpoints()[0][1].stat().st_size
    needed = 3 * 4 * 1000 * 4 + 2 * 1000
    disk(monkeypatch, needed - there)
    requirements.check_full(FULL, run, values=1000, device=CPU)
    disk(monkeypatch, needed - there - 1)
    with pytest.raises(ResourceError):
        requirements.check_full(FULL, run, values=1000, device=CPU)


def test_the_disk_of_a_folder_to_be(tmp_path: Path) -> None:
    check_space(tmp_path / "a" / "b", 0, what="too small", hint="less")
    with pytest.raises(ResourceError, match="too small") as caught:
        check_space(tmp_path / "a" / "b", 10**18, what="too small", hint="less")
    assert caught.value.where == str(tmp_path) and caught.value.hint == "less"
