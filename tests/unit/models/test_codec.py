"""Codec: scaling and shift, randomness, what happens to NaN."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stdcli.errors import ModelError, NumericsError
from stdcli.models.codec import Codec, codec_dtype


class HalvingAutoencoder(nn.Module):
    """Latent = 3 x every second pixel, posterior of unit deviation; overflows like a real one if told to."""

    def __init__(
        self, *, overflows_in: tuple[torch.dtype, ...] = (), dtype: torch.dtype = torch.float32, **config
    ) -> None:
        super().__init__()
        self.config = {"scaling_factor": 0.5, **config}
        self.config = type("Config", (dict,), {"__getattr__": dict.__getitem__})(self.config)
        self.weight = nn.Parameter(torch.ones(1, dtype=dtype))
        self._overflows_in = overflows_in

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def encode(self, x):
        mean = 3 * x[..., ::2, ::2]
        sample = lambda generator: mean + torch.randn(mean.shape, generator=generator)  # noqa: E731
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: mean, sample=sample))

    def decode(self, z, return_dict):
        out = (z / 3).repeat_interleave(2, -1).repeat_interleave(2, -2)
        return (out * torch.inf if self.dtype in self._overflows_in else out,)


def codec(**kwargs) -> tuple[Codec, list[str]]:
    notes: list[str] = []
    return Codec(HalvingAutoencoder(**kwargs), factor=2, notes=notes), notes


def test_scaling_and_shift_by_hand() -> None:
    c, _ = codec(shift_factor=1.0)
    z = c.encode(torch.full((1, 3, 4, 4), 0.5))
    assert z.shape == (1, 3, 2, 2)
    assert (z == (3 * 0.5 - 1.0) * 0.5).all()
    assert torch.equal(c.decode(z), torch.full((1, 3, 4, 4), 0.5))


def test_statistics_of_each_channel_by_hand() -> None:
    """z = (latent - mean) * scaling / std, as diffusers' SDXL pipelines compute it."""
    c, _ = codec(latents_mean=[1.0, -2.0, 0.0], latents_std=[2.0, 4.0, 1.0], shift_factor=None)
    z = c.encode(torch.full((1, 3, 4, 4), 0.5))
    assert z[0, :, 0, 0].tolist() == [(1.5 - 1) * 0.5 / 2, (1.5 + 2) * 0.5 / 4, 1.5 * 0.5]
    assert torch.equal(c.decode(z), torch.full((1, 3, 4, 4), 0.5))


@pytest.mark.parametrize(
    "config",
    [
        {"latents_mean": [0.0] * 4},
        {"latents_std": [1.0] * 4},
        {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 3},
        {"latents_mean": [0.0] * 3, "latents_std": [1.0] * 3, "latent_channels": 4},
        {"latents_mean": [0.0] * 4, "latents_std": [1.0, 1.0, 0.0, 1.0]},
        {"latents_mean": [float("nan")] * 4, "latents_std": [1.0] * 4},
        {"latents_mean": "many", "latents_std": [1.0] * 4},
    ],
)
def test_statistics_that_are_none_are_refused(config) -> None:
    with pytest.raises(ModelError, match="latents_mean and latents_std"):
        codec(**config)


def test_encoding_is_deterministic_unless_a_generator_is_given() -> None:
    c, _ = codec()
    x = torch.zeros(1, 3, 4, 4)
    assert torch.equal(c.encode(x), c.encode(x))
    drawn = c.encode(x, generator=torch.Generator().manual_seed(1))
    expected = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(1)) * 0.5
    assert torch.equal(drawn, expected)


def test_overflow_in_bfloat16_is_repeated_in_float32_and_told() -> None:
    c, notes = codec(overflows_in=(torch.bfloat16,), dtype=torch.bfloat16)
    out = c.decode(torch.full((1, 3, 2, 2), 0.75))
    assert (out == 0.5).all()
    assert out.dtype == torch.float32
    assert c.vae.dtype == torch.float32
    assert "overflowed in torch.bfloat16" in notes[0]
    c.decode(torch.zeros(1, 3, 2, 2))
    assert len(notes) == 1


def test_overflow_in_float32_is_an_error() -> None:
    c, notes = codec(overflows_in=(torch.float32,))
    with pytest.raises(NumericsError, match="in float32 too") as caught:
        c.decode(torch.ones(1, 3, 2, 2))
    assert caught.value.exit_code == 9
    assert notes == []


def test_bad_latents_are_not_decoded() -> None:
    c, _ = codec()
    z = torch.zeros(1, 3, 2, 2)
    z[0, 0, 0, 0] = torch.nan
    with pytest.raises(NumericsError, match="latents to decode") as caught:
        c.decode(z)
    assert caught.value.got == "1 of 12 values"


def test_bad_pictures_are_refused() -> None:
    c, _ = codec()
    with pytest.raises(NumericsError, match="encoded a picture to NaN"):
        c.encode(torch.full((1, 3, 2, 2), torch.inf))


@pytest.mark.parametrize(
    ("dtype", "num_parameters", "expected"),
    [
        (torch.float16, 80_000_000, torch.float32),
        (torch.bfloat16, 80_000_000, torch.bfloat16),
        (torch.bfloat16, 300_000, torch.float32),
        (torch.float32, 80_000_000, torch.float32),
    ],
)
def test_codec_dtype(dtype: torch.dtype, num_parameters: int, expected: torch.dtype) -> None:
    assert codec_dtype(dtype, num_parameters=num_parameters) == expected


def test_gradient_passes_through_the_decoder() -> None:
    c, _ = codec()
    z = torch.ones(1, 3, 2, 2, requires_grad=True)
    c.decode(z).sum().backward()
    assert (z.grad == 4 / 3 / 0.5).all()
