"""Seeds and noise: the documented bytes, pinned values, and independence of everything but seed and id."""

import hashlib

import pytest
import torch

from stdcli.diffusion.noise import hash63, make_noise, noise_seed, sample_id
from stdcli.runtime.seeding import fold


def first_63_bits(data: bytes) -> int:
    return int(bin(int.from_bytes(hashlib.sha256(data).digest(), "big"))[2:].zfill(256)[:63], 2)


def test_the_documented_bytes_are_hashed():
    data = b"s\0\0\0\0\0\0\0\x05noise" + b"i\0\0\0\0\0\0\0\x017" + b"i\0\0\0\0\0\0\0\x03123"
    assert noise_seed(7, 123) == hash63("noise", 7, 123) == first_63_bits(data)
    step = b"s\0\0\0\0\0\0\0\x04step" + b"i\0\0\0\0\0\0\0\x012"
    assert noise_seed(7, 123, step=2) == first_63_bits(data + step)
    digest = hashlib.sha256(b"picture").digest()
    data = b"s\0\0\0\0\0\0\0\x06sample" + b"b\0\0\0\0\0\0\0\x20" + digest + b"i\0\0\0\0\0\0\0\x013"
    assert sample_id(digest.hex(), 3) == sample_id(digest.hex().upper(), 3) == first_63_bits(data)


def test_seeds_of_version_1_stay():
    """Banks on disk store these: a change needs a new bank version."""
    assert noise_seed(0, 0) == 794864572300168425
    assert sample_id("00" * 32, 1) == 1084699799107329251
    assert make_noise((2, 2), 0, 0).flatten().tolist() == pytest.approx(
        [1.0884743, 1.2693641, -0.344451, -0.88885], abs=1e-6
    )


def test_parts_are_kept_apart():
    parts = [("ab", "c"), ("a", "bc"), ("abc",), (1,), ("1",), (b"1",), (1, 1), (11,), (-1,), (0,), ()]
    assert len({hash63(*part) for part in parts}) == len(parts)
    assert all(0 <= hash63(index) < 2**63 for index in range(200))
    assert max(hash63(index) for index in range(200)) > 2**62


@pytest.mark.parametrize("part", [1.0, None, True, torch.tensor(1)])
def test_other_parts_are_refused(part):
    with pytest.raises(TypeError, match="seed"):
        hash63("noise", part)


@pytest.mark.parametrize(("digest", "repeat"), [("ab", 0), ("00" * 32, -1), ("zz" * 32, 0)])
def test_wrong_sample_identity_is_refused(digest, repeat):
    with pytest.raises(ValueError):
        sample_id(digest, repeat)


def test_noise_depends_on_seed_id_and_step_alone():
    noise = make_noise((4, 8, 8), 3, 42)
    assert noise.dtype == torch.float32 and noise.device.type == "cpu" and noise.shape == (4, 8, 8)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert torch.equal(make_noise([4, 8, 8], 3, 42), noise)
    assert torch.equal(torch.get_rng_state(), before)
    draws = [
        noise,
        *(make_noise((4, 8, 8), 3, 42, step=step) for step in (0, 1)),
        make_noise((4, 8, 8), 4, 42),
    ]
    draws.append(make_noise((4, 8, 8), 3, 43))
    for index, draw in enumerate(draws):
        for other in draws[:index]:
            assert abs((draw * other).mean().item()) < 0.25, "independent draws are uncorrelated"


def test_noise_is_standard_normal():
    noise = make_noise((64, 1000), 0, 1).double()
    assert abs(noise.mean().item()) < 0.016 and noise.var().item() == pytest.approx(1, abs=0.025)
    assert (noise**4).mean().item() == pytest.approx(3, abs=0.2)


def test_fold_is_fresh_named_and_apart_from_noise():
    def first(*names):
        return torch.rand(1, generator=fold(5, *names), dtype=torch.float64).item()

    assert first("distill", 3, 0) == first("distill", 3, 0)
    draws = [("distill", 3, 0), ("distill", 3, 1), ("distill", 4, 0), ("bank", 3, 0), ("distill", "3", 0), ()]
    assert len({first(*names) for names in draws}) == len(draws)
    assert fold(5, "a").initial_seed() == hash63("fold", 5, "a") != fold(6, "a").initial_seed()
    assert fold(5, "a").device.type == "cpu"
    with pytest.raises(TypeError, match="seed"):
        fold(5, 0.5)
