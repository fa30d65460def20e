"""Conditions of paths: equal ones stored once, exact ones kept exact, everyone's own found again."""

from __future__ import annotations

import hashlib

import pytest
import torch

from stdcli.bank.conditions import content_hash, pack_conditions

A, B = torch.tensor([[0.1, 2.0]]), torch.tensor([[3.0, -4.0]])


def test_equal_rows_are_stored_once_in_the_order_met() -> None:
    rows = [{"cond.t": B, "uncond.t": A}, {"cond.t": A, "uncond.t": A}, {"cond.t": B.clone(), "uncond.t": A}]
    tensors, indices = pack_conditions(rows, torch.float32)
    assert torch.equal(tensors["cond.t"], torch.stack([B, A]))
    assert torch.equal(tensors["uncond.t"], A[None])
    assert indices["cond.t"].tolist() == [0, 1, 0] and indices["uncond.t"].tolist() == [0, 0, 0]
    assert indices["cond.t"].dtype == torch.int64


def test_rows_that_the_stored_dtype_cannot_tell_apart_are_one() -> None:
    near = A + 1e-6
    assert not torch.equal(near, A)
    rows = [{"c": A}, {"c": near}]
    assert len(pack_conditions(rows, torch.float16)[0]["c"]) == 1
    assert len(pack_conditions(rows, torch.float32)[0]["c"]) == 2


def test_pixel_counts_stay_exact() -> None:
    """Half precision has no 2049; the end of the name says what may not be rounded."""
    sizes = torch.tensor([2049.0, 1023.0])
    rows = [{"cond.added.time_ids": sizes, "cond.x": sizes}]
    tensors, _ = pack_conditions(rows, torch.float16)
    assert tensors["cond.added.time_ids"].dtype == torch.float32
    assert tensors["cond.added.time_ids"].tolist() == [[2049.0, 1023.0]]
    assert tensors["cond.x"].dtype == torch.float16 and tensors["cond.x"].tolist() != [[2049.0, 1023.0]]


def test_zero_and_minus_zero_are_two_and_nan_is_one() -> None:
    zero, nan = torch.zeros(1), torch.full((1,), float("nan"))
    _, indices = pack_conditions([{"c": zero}, {"c": -zero}, {"c": nan}, {"c": nan.clone()}], torch.float32)
    assert indices["c"].tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"a": A}, {"b": A}], "conditions of different kinds"),
        ([{"a": A}, {"a": A, "b": A}], "conditions of different kinds"),
        ([{"a": A}, {"a": torch.zeros(3)}], "condition a has several shapes"),
    ],
)
def test_rows_that_fit_no_table(rows: list[dict[str, torch.Tensor]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        pack_conditions(rows, torch.float32)


def test_the_hash_is_of_dtype_shape_and_bytes() -> None:
    value = torch.tensor([[1.0, 2.0]])
    expected = hashlib.sha256(b"torch.float32 [1, 2]" + b"\x00\x00\x80\x3f\x00\x00\x00\x40").hexdigest()
    assert content_hash(value) == expected
    others = (value.view(2, 1), value.view(torch.int32), value.double())
    assert len({expected, *map(content_hash, others)}) == 4
    assert content_hash(torch.tensor([[1.0, 9.0, 2.0, 9.0]])[:, ::2]) == expected


def test_rows_of_a_graph_and_views() -> None:
    row = torch.arange(6.0, requires_grad=True).view(2, 3).T
    tensors, _ = pack_conditions([{"c": row}], torch.float32)
    assert tensors["c"].tolist() == [[[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]] and not tensors["c"].requires_grad
