"""Training state on disk: every bit comes back, and half a file is never taken for a whole one."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
import torch

from stdcli.errors import ResourceError, StdcliError
from stdcli.training.checkpoint import (
    DamagedError,
    adam_tensors,
    digest_of,
    load_checkpoint,
    restore_adam,
    save_checkpoint,
)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else bits(tensor[None])


def test_every_bit_comes_back(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    tensors = {
        "float32": torch.tensor([1.0, -0.0, float("nan"), float("inf"), 1e-45]),
        "bfloat16": torch.randn(3, 2, generator=rng).bfloat16(),
        "int64": torch.tensor([2**62, -1]),
        "uint8": torch.arange(5, dtype=torch.uint8),
        "scalar": torch.tensor(7.0),
        "channels_last": torch.randn(2, 3, 4, 4, generator=rng).to(memory_format=torch.channels_last),
    }
    path = tmp_path / "new" / "state.safetensors"
    save_checkpoint(path, tensors, metadata={"step": "12"})
    loaded, metadata = load_checkpoint(path)
    assert metadata == {"step": "12"}
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape
        assert bits(loaded[name]) == bits(tensor)
    assert [p.name for p in path.parent.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_torn_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, {"w": torch.arange(1000.0)}, metadata={})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(StdcliError, match="damaged checkpoint") as caught:
        load_checkpoint(path)
    assert caught.value.where == str(path)
    assert str(path) in caught.value.hint


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """In a tensor, in a name, in a number of the facts, in the hash itself and in what it is called."""
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, {"w": torch.arange(3.0), "n": torch.tensor(7)}, metadata={"step": "12"})
    whole = path.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    padding = whole[:length].rstrip()
    told = 0
    for place in [*range(8, len(padding)), *range(length, len(whole))]:
        for bit in (0, 5):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(DamagedError):
                load_checkpoint(path)
            told += 1
    assert told > 400
    path.write_bytes(whole)
    assert load_checkpoint(path)[1] == {"step": "12"}


def test_the_hash_is_of_all_that_is_stored() -> None:
    """By hand, with hashlib alone."""
    tensors, metadata = {"b": torch.tensor([1.5]), "a": torch.tensor(3, dtype=torch.int16)}, {"step": "1"}
    said = b"[('step', '1')]('a', 'torch.int16', ())\x03\x00('b', 'torch.float32', (1,))\x00\x00\xc0?"
    assert digest_of(tensors, metadata) == hashlib.sha256(said).hexdigest()


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        save_checkpoint(tmp_path / "a", {"w": torch.zeros(1)}, metadata={})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_a_failed_write_keeps_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, {"w": torch.zeros(3)}, metadata={})

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ResourceError, match="No space left"):
        save_checkpoint(path, {"w": torch.ones(3)}, metadata={})
    assert torch.equal(load_checkpoint(path)[0]["w"], torch.zeros(3))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_checkpoint_without_facts(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(1)}, tmp_path / "bare.safetensors")
    assert load_checkpoint(tmp_path / "bare.safetensors")[1] == {}


def make_optimizer(seed: int) -> tuple[torch.optim.Optimizer, list[torch.nn.Parameter]]:
    rng = torch.Generator().manual_seed(seed)
    weights = [torch.randn(2, 3, 4, 4, generator=rng), torch.randn(5, generator=rng)]
    parameters = [torch.nn.Parameter(w.to(memory_format=_layout(w))) for w in weights]
    return torch.optim.AdamW(parameters, lr=1e-2), parameters


def _layout(weight: torch.Tensor) -> torch.memory_format:
    return torch.channels_last if weight.ndim == 4 else torch.contiguous_format


def take_step(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], n: int) -> None:
    rng = torch.Generator().manual_seed(n)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=rng)
    optimizer.step()


def test_a_restored_optimizer_takes_the_same_steps() -> None:
    straight, weights = make_optimizer(0)
    for n in range(3):
        take_step(straight, weights, n)
    other, others = make_optimizer(1)
    with torch.no_grad():
        for ours, theirs in zip(weights, others, strict=True):
            theirs.copy_(ours)
    restore_adam(other, {k: v.clone().contiguous() for k, v in adam_tensors(straight).items()})
    for n in (3, 4):
        take_step(straight, weights, n)
        take_step(other, others, n)
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
    assert other.state[others[0]]["exp_avg"].is_contiguous(memory_format=torch.channels_last)
    assert int(other.state[others[0]]["step"]) == 5
