"""What a model takes against what there is: refused, warned of, or not a word."""

from __future__ import annotations

import pytest
import torch

from stdcli.errors import ResourceError
from stdcli.runtime.devices import DeviceChoice
from stdcli.runtime.free_memory import Room
from stdcli.runtime.memory_need import Need

GIB = 2**30


def need(dtype: torch.dtype, device: str = "cpu") -> Need:
    """One that takes 6 GiB in half precision: 2.5 values in 2 bytes, and 0.25 of an autoencoder in 4."""
    choice = DeviceChoice(torch.device(device), dtype, "")
    return Need("m", {"unet": 5 * GIB // 2, "vae": GIB // 4}, choice)


def room(free: float, swap: float = 0.0, *, limited: bool = False) -> Room:
    return Room(int(free * GIB), 16 * GIB, int(swap * GIB), limited)


def test_autoencoders_stay_in_float32() -> None:
    assert need(torch.bfloat16).weight_bytes == 6 * GIB
    assert need(torch.float32).weight_bytes == 11 * GIB


@pytest.mark.parametrize(
    ("dtype", "free", "words"),
    [
        (torch.float32, 10, "--dtype bfloat16 takes half"),
        (torch.float32, 5, "smaller --model"),
        (torch.bfloat16, 5.9, "smaller --model"),
    ],
)
def test_what_surely_does_not_fit_is_refused_with_what_to_do(dtype, free, words) -> None:
    with pytest.raises(ResourceError, match="not enough main memory") as caught:
        need(dtype).check(room(free))
    text = caught.value.render()
    assert words in caught.value.hint and f"{free:.1f} GiB free" in text
    assert ("bfloat16 takes half" in text) == (free == 10)
    assert f"{need(dtype).weight_bytes / GIB:.1f} GiB of weights" in text


def test_swap_and_little_room_to_work_are_warned_of() -> None:
    half = need(torch.bfloat16)
    assert half.check(room(7.5)) is None
    assert "1.5 GiB to work with" in half.check(room(7.4))
    assert "raise the limit" in half.check(room(7.4, limited=True))
    assert "little main memory" in half.check(room(4, swap=2))
    with pytest.raises(ResourceError):
        half.check(room(4, swap=1.9))


def test_a_gpu_needs_room_on_both_sides() -> None:
    half = need(torch.float16, "cuda:0")
    assert half.check(room(6), gpu_bytes=6 * GIB) is None
    with pytest.raises(ResourceError, match="on the GPU") as caught:
        half.check(room(20), gpu_bytes=6 * GIB - 1)
    assert caught.value.hint == "--device cpu"
    with pytest.raises(ResourceError, match="on the GPU") as caught:
        need(torch.float32, "cuda:0").check(room(20), gpu_bytes=10 * GIB)
    assert caught.value.hint.startswith("--dtype float16")
    with pytest.raises(ResourceError, match="main memory"):
        half.check(room(5), gpu_bytes=20 * GIB)
