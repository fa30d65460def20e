"""Heads of the discriminator against plain torch, its spectral norm against the exact one, its conditions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from stdcli.distill.discriminator import Discriminator, SpectralConv1d, condition_vector
from stdcli.models.condition import Condition

CHANNELS, COND = (16, 400), 6


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(**changes) -> Discriminator:
    return Discriminator(CHANNELS, COND, **({"seed": 0} | changes))


def inputs(batch: int = 2, *, tokens: tuple[int, int] = (10, 3)) -> list[torch.Tensor]:
    return [normal(batch, c, t, seed=c) for c, t in zip(CHANNELS, tokens, strict=True)]


def spectral(discriminator: Discriminator) -> list[SpectralConv1d]:
    return [module for module in discriminator.modules() if isinstance(module, SpectralConv1d)]


def plain_conv(x: torch.Tensor, conv: SpectralConv1d) -> torch.Tensor:
    kernel = conv.weight.shape[2]
    ring = torch.cat([x] * 9, dim=2)  # long enough for any reach
    middle = F.conv1d(ring, conv.weight / (conv.u @ conv.weight.flatten(1) @ conv.v), conv.bias)
    start = 4 * x.shape[2] - kernel // 2
    return middle[..., start : start + x.shape[2]]


@pytest.mark.parametrize("tokens", [(10, 3), (1, 4)])
def test_logits_are_those_of_plain_torch(tokens) -> None:
    discriminator, maps, vector = make(), inputs(tokens=tokens), normal(2, COND)
    for weight in discriminator.parameters():
        weight.data += 0.1 * normal(*weight.shape, seed=weight.numel())
    expected = []
    for head, x in zip(discriminator.heads, maps, strict=True):
        inner = min(x.shape[1], 384)

        def block(x, part, inner=inner):
            conv, norm, _ = part
            y = F.group_norm(plain_conv(x, conv), 8, norm.weight, norm.bias)
            assert y.shape[1] == inner
            return F.leaky_relu(y, 0.2)

        x = block(x, head.enter)
        x = plain_conv((x + block(x, head.mix)) / math.sqrt(2), head.leave)
        direction = vector @ head.direction.T + head.offset
        expected.append((x * direction[:, :, None]).sum(1) / 8)
    logits = discriminator(maps, vector)
    assert logits.shape == (2, sum(tokens))
    torch.testing.assert_close(logits, torch.cat(expected, 1), atol=1e-5, rtol=1e-4)


def test_convolution_runs_in_a_ring() -> None:
    conv = SpectralConv1d(3, 5, kernel=9, generator=torch.Generator().manual_seed(1))
    x = normal(1, 3, 7)
    torch.testing.assert_close(conv(x).roll(2, 2), conv(x.roll(2, 2)))


@pytest.mark.parametrize("kernel", [1, 9])
def test_spectral_norm_is_the_exact_one_after_many_updates(kernel) -> None:
    conv = SpectralConv1d(12, 20, kernel=kernel, generator=torch.Generator().manual_seed(2))
    conv.weight.data = 3 * normal(20, 12, kernel, seed=5)
    for _ in range(300):
        conv.iterate()
    exact = torch.linalg.matrix_norm(conv.weight.flatten(1), 2)
    torch.testing.assert_close(conv.u @ conv.weight.flatten(1) @ conv.v, exact, rtol=1e-4, atol=0)
    if kernel == 1:
        seen = conv(torch.eye(12)[None])[0]
        assert torch.linalg.matrix_norm(seen, 2).item() == pytest.approx(1, rel=1e-4)


def test_new_weights_have_a_spectral_norm_near_one() -> None:
    for conv in spectral(make()):
        matrix = conv.weight.flatten(1)
        assert (torch.linalg.matrix_norm(matrix, 2) / (conv.u @ matrix @ conv.v)).item() < 1.1


def test_only_updates_move_the_spectral_norm() -> None:
    discriminator, maps = make(), inputs()
    before = {name: tensor.clone() for name, tensor in discriminator.state_dict().items()}
    for _ in range(3):
        discriminator(maps, normal(2, COND)).sum().backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in discriminator.state_dict().items())
    vectors = [(conv, conv.u.clone(), conv.v.clone()) for conv in spectral(discriminator)]
    discriminator.update_spectral_norm()
    assert len(vectors) == 6
    for conv, u, v in vectors:
        matrix = conv.weight.flatten(1)
        v_next = F.normalize(matrix.T @ u, dim=0)
        u_next = F.normalize(matrix @ v_next, dim=0)
        torch.testing.assert_close((conv.u, conv.v), (u_next, v_next), msg="exactly one iteration")
        assert not torch.equal(conv.v, v)


def test_a_graph_outlives_an_update() -> None:
    discriminator = make()
    loss = discriminator(inputs(), normal(2, COND)).sum()
    discriminator.update_spectral_norm()
    loss.backward()


def test_the_gradient_goes_through_the_norm() -> None:
    """Scaling a spectrally normalised weight changes nothing, so its gradient is orthogonal to it."""
    discriminator = make()
    discriminator(inputs(), normal(2, COND)).square().sum().backward()
    for conv in spectral(discriminator):
        inner = (conv.weight.grad * conv.weight).sum()
        assert inner.abs() < 1e-4 * conv.weight.grad.norm() * conv.weight.norm()
        assert conv.weight.grad.norm() > 0


def test_weights_come_from_the_seed_alone_and_are_all_saved() -> None:
    state = torch.get_rng_state()
    first, second, other = make(), make(), make(seed=1)
    assert torch.equal(state, torch.get_rng_state())
    logits = [discriminator(inputs(), normal(2, COND)) for discriminator in (first, second, other)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])
    assert {"heads.0.mix.0.u", "heads.1.leave.v"} <= first.state_dict().keys()
    twins = Discriminator((16, 16), COND, seed=0).heads
    assert not torch.equal(twins[0].leave.weight, twins[1].leave.weight)
    other.load_state_dict(first.state_dict())
    assert torch.equal(other(inputs(), normal(2, COND)), logits[0])


def test_the_condition_counts_sample_by_sample() -> None:
    discriminator, maps, vector = make(), inputs(), normal(2, COND)
    swapped = discriminator(maps, vector.flip(0))
    assert (discriminator(maps, vector) - swapped).abs().min(1).values.max() > 1e-4
    changed = vector.clone()
    changed[1] += 1
    assert torch.equal(discriminator(maps, changed)[0], discriminator(maps, vector)[0])
    assert not torch.allclose(discriminator(maps, changed)[1], discriminator(maps, vector)[1])


@pytest.mark.parametrize(("batch", "groups"), [(3, 1), (8, 1), (16, 2), (12, 2)])
def test_local_batch_norm_is_batch_norm_of_virtual_batches(batch, groups) -> None:
    norm = make(norm="local-batch").heads[0].enter[1]
    norm.weight.data, norm.bias.data = normal(16, 1, seed=1), normal(16, 1, seed=2)
    x = 5 + 2 * normal(batch, 16, 10)
    parts = [
        F.batch_norm(part, None, None, norm.weight[:, 0], norm.bias[:, 0], training=True)
        for part in x.chunk(groups)
    ]
    torch.testing.assert_close(norm(x), torch.cat(parts))


def test_local_batch_norm_refuses_batches_that_do_not_divide() -> None:
    discriminator = make(norm="local-batch")
    with pytest.raises(ValueError, match="batch of 9 does not divide into 2 equal parts"):
        discriminator(inputs(9), normal(9, COND))
    assert discriminator(inputs(16), normal(16, COND)).shape == (16, 13)


def test_a_feature_map_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        make()(inputs()[:1], normal(2, COND))


def test_condition_vectors_by_hand() -> None:
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert condition_vector(Condition(tokens)).tolist() == [[2.0, 3.0]]
    pooled = {"text_embeds": torch.tensor([[7.0]], dtype=torch.float16), "time_ids": torch.zeros(1, 6)}
    assert condition_vector(Condition(tokens, pooled)).tolist() == [[7.0]]
    assert condition_vector(Condition(tokens, pooled)).dtype == torch.float32
    style = {"image_embeds": torch.tensor([[[1.0, 5.0], [3.0, 7.0]]])}
    assert condition_vector(Condition(tokens, style)).tolist() == [[2.0, 3.0, 2.0, 6.0]]
    plus = {"image_embeds": style["image_embeds"][:, None]}
    assert condition_vector(Condition(tokens, pooled | plus)).tolist() == [[7.0, 2.0, 6.0]]
