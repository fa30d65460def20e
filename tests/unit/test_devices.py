"""Choice of device and dtype, on machines that are pretended."""

from __future__ import annotations

import pytest
import torch

from stdcli.errors import ResourceError
from stdcli.runtime.devices import available, choose


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    def pretend(
        *, capability: tuple[int, int] | None = None, gpus: int = 1, mps: bool = False, cpu: str = ""
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: cpu == "amx")
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu in ("amx", "avx512"))

    return pretend


@pytest.mark.parametrize(
    ("pretended", "device", "dtype", "reason"),
    [
        ({"cpu": "amx"}, "cpu", torch.bfloat16, "this CPU has AMX"),
        ({"cpu": "avx512"}, "cpu", torch.bfloat16, "this CPU has AVX512-BF16"),
        ({}, "cpu", torch.float32, "neither AMX nor AVX512-BF16"),
        ({"mps": True, "cpu": "amx"}, "mps", torch.float16, "half precision"),
        ({"capability": (9, 0), "mps": True}, "cuda:0", torch.bfloat16, "natively"),
        ({"capability": (8, 0)}, "cuda:0", torch.bfloat16, "natively"),
        ({"capability": (7, 5)}, "cuda:0", torch.float16, "half precision"),
    ],
)
def test_auto(machine, pretended: dict, device: str, dtype: torch.dtype, reason: str) -> None:
    machine(**pretended)
    choice = choose()
    assert (str(choice.device), choice.dtype) == (device, dtype)
    assert reason in choice.reason
    assert choice.reason.startswith(f"{device}: ")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_processes_of_a_launcher_have_a_gpu_each(machine, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    machine(capability=(8, 0), gpus=4)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert str(choose(name).device) == "cuda:2" and str(choose("cuda:1").device) == "cuda:1"
    machine(capability=(8, 0), gpus=1)
    with pytest.raises(ResourceError, match="no such device"):
        choose("cuda")


@pytest.mark.parametrize("pretended", [{"capability": (7, 5)}, {"mps": True}])
def test_auto_avoids_float16_where_it_was_never_tried(machine, pretended: dict) -> None:
    machine(**pretended)
    choice = choose(float16_ok=False)
    assert choice.dtype == torch.float32
    assert "not made for float16" in choice.reason


def test_asked_for_wins(machine) -> None:
    machine(capability=(9, 0), gpus=2)
    choice = choose("cuda:1", "float32", float16_ok=False)
    assert (choice.device, choice.dtype) == (torch.device("cuda:1"), torch.float32)
    assert choice.reason == "cuda:1: as asked; float32: as asked"
    assert choose("cuda").device == torch.device("cuda:0")
    assert choose("cpu", "bfloat16").dtype == torch.bfloat16


def test_slow_bfloat16_is_told(machine) -> None:
    machine()
    assert "emulates it slowly" in choose("cpu", "bfloat16").reason


@pytest.mark.parametrize("name", ["cuda", "cuda:2", "mps", "tpu", ""])
def test_refused_device_names_what_exists(machine, name: str) -> None:
    machine(capability=(9, 0) if name == "cuda:2" else None, gpus=2)
    with pytest.raises(ResourceError) as caught:
        choose(name)
    there = "auto, cuda:0, cuda:1, cpu" if name == "cuda:2" else "auto, cpu"
    assert caught.value.expected == f"one of {there}"
    assert caught.value.exit_code == 7


def test_refused_dtypes(machine) -> None:
    machine()
    with pytest.raises(ResourceError, match="unknown dtype"):
        choose("cpu", "float8")
    with pytest.raises(ResourceError, match="float16 is not computed natively by CPUs"):
        choose("cpu", "float16")


def test_available_lists_the_best_first(machine) -> None:
    machine(capability=(9, 0), gpus=2, mps=True)
    assert available() == ["cuda:0", "cuda:1", "mps", "cpu"]
