"""The decoder's last stage."""

from __future__ import annotations

import torch

from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.models.scratch import build_codec, build_networks, make_scheduler
from stdcli.teacher.codec import fit_components
from stdcli.teacher.decoder import decoder_loss, train_decoder
from stdcli.teacher.pairs import PairBatch


def batch(step: int) -> PairBatch:
    rng = torch.Generator().manual_seed(step)
    pictures = torch.nn.functional.interpolate(torch.rand(6, 3, 8, 8, generator=rng) * 2 - 1, size=(32, 32))
    return PairBatch(pictures, pictures, pictures, torch.ones(6, dtype=torch.bool))


def test_the_loss_is_zero_for_equal_pictures_and_knows_how_much_texture_there_is() -> None:
    rng = torch.Generator().manual_seed(0)
    grain = 0.2 * torch.randn(2, 3, 64, 64, generator=rng)
    other = 0.2 * torch.randn(2, 3, 64, 64, generator=rng)
    assert decoder_loss(grain, grain) == 0
    flat = torch.zeros_like(grain)
    textured = decoder_loss(other, grain) - decoder_loss(other.flip(0), grain)
    assert abs(textured.item()) < 0.02, "where each grain lies must hardly matter"
    # one constant apart: L1 alone, no edges and no texture
    assert torch.isclose(decoder_loss(flat + 0.25, flat), torch.tensor(0.25))


def test_only_the_refinement_learns_and_it_gets_better() -> None:
    codec = build_codec(latent_channels=8, hidden_channels=16)
    fit_components(codec, batch(99).pictures, temper=1.0)
    networks = build_networks(
        latent_channels=8, channels=(32, 32), style_dim=8, style_width=32, style_layers=1, cross_dim=8
    )
    before = {k: v.clone() for k, v in codec.state_dict().items()}
    weights = [p.clone() for p in networks.parameters()]
    losses: list[float] = []
    train_decoder(
        codec,
        networks,
        NoiseSchedule.from_config(make_scheduler().config),
        make_batch=lambda step: batch(0),
        steps=60,
        learning_rate=1e-2,
        seed=0,
        on_step=lambda step, loss: losses.append(loss),
    )
    after = codec.state_dict()
    changed = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"refine"}
    assert all(torch.equal(a, b) for a, b in zip(weights, networks.parameters(), strict=True))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
