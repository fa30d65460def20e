"""Conditions and the denoiser's call: rows, order, dtypes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from stdcli.models.condition import Condition
from stdcli.models.unet_denoiser import UNetDenoiser


def condition(value: float, *, batch: int = 1, notes: tuple[str, ...] = (), image: bool = True) -> Condition:
    added = {"text_embeds": torch.full((batch, 5), value), "time_ids": torch.full((batch, 6), value)}
    if image:
        added["image_embeds"] = torch.full((batch, 1, 4), value)
    return Condition(torch.full((batch, 2, 3), value), added, notes)


class RecordingUNet:
    """Keeps what it was called with; its output says which row of the condition each sample met."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.calls: list[SimpleNamespace] = []

    def __call__(self, x, t, *, encoder_hidden_states, added_cond_kwargs, return_dict):
        self.calls.append(SimpleNamespace(x=x, t=t, tokens=encoder_hidden_states, added=added_cond_kwargs))
        return (x * 0 + encoder_hidden_states[:, :1, :1, None],)


def test_concat_keeps_the_order() -> None:
    joined = condition(1.0, notes=("a", "b")).concat(condition(2.0, batch=2, notes=("b",)))
    assert joined.batch == 3
    assert joined.encoder_hidden_states[:, 0, 0].tolist() == [1, 2, 2]
    assert {k: v.flatten(1)[:, 0].tolist() for k, v in joined.added.items()} == {
        "text_embeds": [1, 2, 2],
        "time_ids": [1, 2, 2],
        "image_embeds": [1, 2, 2],
    }
    assert joined.notes == ("a", "b")


def test_concat_refuses_other_tensors() -> None:
    with pytest.raises(ValueError, match="conditions differ"):
        condition(1.0).concat(condition(1.0, image=False))


def test_expand_repeats_without_copying() -> None:
    one = condition(1.0)
    many = one.expand(4)
    assert {v.shape[0] for v in many.tensors().values()} == {4}
    assert many.encoder_hidden_states.data_ptr() == one.encoder_hidden_states.data_ptr()
    assert many.expand(4).batch == 4
    with pytest.raises(ValueError, match="cannot expand 4 conditions to 3"):
        many.expand(3)


def test_tensors_round_trip() -> None:
    original = condition(3.0, batch=2)
    back = Condition.from_tensors(original.tensors())
    assert set(original.tensors()) == {"encoder_hidden_states", "text_embeds", "time_ids", "image_embeds"}
    assert all(torch.equal(v, back.tensors()[k]) for k, v in original.tensors().items())


def test_denoiser_casts_all_but_time_ids() -> None:
    unet = RecordingUNet(torch.bfloat16)
    out = UNetDenoiser(unet)(torch.ones(2, 4, 8, 8, dtype=torch.float64), 499, condition(1.0))
    (call,) = unet.calls
    assert out.dtype == torch.float32
    assert call.x.dtype == call.tokens.dtype == call.added["text_embeds"].dtype == torch.bfloat16
    assert call.added["time_ids"].dtype == torch.float32
    assert isinstance(call.added["image_embeds"], list)
    assert call.added["image_embeds"][0].shape == (2, 1, 4)
    assert call.t == 499


def test_denoiser_refuses_a_batch_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="cannot expand 2 conditions to 3"):
        UNetDenoiser(RecordingUNet())(torch.ones(3, 4, 8, 8), 1, condition(1.0, batch=2))


@pytest.mark.parametrize("t", [499, torch.tensor(499), torch.tensor([499, 99])])
def test_pair_is_one_doubled_forward(t: object) -> None:
    unet = RecordingUNet()
    under, without = UNetDenoiser(unet).pair(torch.zeros(2, 4, 8, 8), t, condition(1.0), condition(-1.0))
    (call,) = unet.calls
    assert call.x.shape[0] == 4
    assert (under == 1).all()
    assert (without == -1).all()
    if isinstance(t, torch.Tensor) and t.ndim:
        assert call.t.tolist() == [499, 99, 499, 99]
