"""Published files: what is read, and that nothing in them ever runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stdcli.errors import ModelError
from stdcli.models.perceptual.pth import check_tensors, read_published
from tests.tiny_backbones import csd_tensors, save_csd

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(1)}


class Payload:
    """Calls a function when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("wrapper", ["bare", "model_state_dict", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("is_zip", [True, False])
def test_state_dicts_bare_and_wrapped(tmp_path: Path, wrapper: str, prefix: str, is_zip: bool) -> None:
    named = {prefix + name: value for name, value in TENSORS.items()}
    path = tmp_path / "x.pth"
    stored = named if wrapper == "bare" else {wrapper: named, "epoch": 3}
    torch.save(stored, path, _use_new_zipfile_serialization=is_zip)
    assert same(read_published(path))


def test_safetensors(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors")
    assert same(read_published(tmp_path / "x.safetensors"))


def test_a_training_run_with_flags_and_numpy_scalars(tmp_path: Path) -> None:
    found = read_published(save_csd(tmp_path / "x.pth"))
    assert all(torch.equal(found[name], value) for name, value in csd_tensors().items())


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_is_refused_and_does_not_run(tmp_path: Path, is_zip: bool) -> None:
    path = tmp_path / "x.pth"
    torch.save(TENSORS | {"c": Payload(tmp_path / "ran")}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ModelError, match="could run code") as caught:
        read_published(path)
    assert caught.value.got in ("posix.mkdir", "nt.mkdir")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut short", b"\x80\x02}q\x00"])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_damaged_files(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match="damaged or cut short"):
        read_published(tmp_path / name)


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_file_cut_short(tmp_path: Path, cut: float) -> None:
    path = save_csd(tmp_path / "x.pth")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(ModelError, match="damaged or cut short"):
        read_published(path)


@pytest.mark.parametrize("stored", [{}, [1], {"state_dict": {"a": 1}}, torch.ones(2)], ids=str)
def test_no_state_dict(tmp_path: Path, stored: object) -> None:
    torch.save(stored, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="no weights in this file"):
        read_published(tmp_path / "x.pth")


def test_tensors_that_do_not_fit_are_named() -> None:
    shapes = {name: tuple(value.shape) for name, value in TENSORS.items()}
    where = Path("x.pth")
    check_tensors(TENSORS, shapes, what="X", where=where)
    with pytest.raises(ModelError, match="this X file lacks tensors") as caught:
        check_tensors(TENSORS, shapes | {f"c{i}": () for i in range(5)}, what="X", where=where)
    assert caught.value.expected == "c0, c1, c2 and 2 more"
    with pytest.raises(ModelError, match="do not belong") as caught:
        check_tensors(TENSORS | dict.fromkeys("zyx", torch.ones(1)), shapes, what="X", where=where)
    assert caught.value.got == "x, y, z"
    with pytest.raises(ModelError, match="another shape") as caught:
        check_tensors(TENSORS, shapes | {"a.weight": (3, 2)}, what="X", where=where)
    assert (caught.value.where, caught.value.got) == ("x.pth: a.weight", [2, 3])
