"""Micro-batches: every item with all that belongs to its own path, from its number alone."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from stdcli.bank.format import ClipExtent
from stdcli.bank.online_bank import OnlineBank, PathStart
from stdcli.bank.order import PairOrder
from stdcli.bank.reader import Bank
from stdcli.diffusion.levels import Level, level_table, make_teacher_path
from stdcli.distill.batch_sources import BankSource, OnlineSource, Ranks
from stdcli.distill.methods.lcm import Lcm
from stdcli.distill.methods.std import Std, StdSection, make_target_sampler
from stdcli.distill.real_latents import make_styles
from stdcli.errors import ConfigError
from stdcli.runtime.seeding import fold
from tests.tiny_banks import CLIPS, write_tiny_bank
from tests.tiny_methods import (
    NUM_PATHS,
    SD,
    SHAPE,
    START,
    condition_of,
    draw,
    guidance_of,
    mean_of,
    moved,
    path_of,
    roles_of,
    scales,
    start_of,
    taught,
    time_of,
    unmean_of,
    write_known_bank,
    x0_of,
)

TABLE = level_table(SD, 50)
CLIP = (2, 3, 1, 3)  # as many values as SHAPE
KEPT = (37, 28, 19, 10, 3, 0)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return write_known_bank(tmp_path_factory.mktemp("bank"))


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    return write_known_bank(tmp_path_factory.mktemp("sparse"), kept=KEPT)


def std_of(bank, **section) -> Std:
    levels = [TABLE[id_] for id_ in bank.level_ids]
    return Std(TABLE, make_target_sampler(StdSection(**section), levels, (2, 4)), "mix")


def source_of(bank, method, *, ranks=None, seed=3, **more) -> BankSource:
    ids = bank.level_ids[:-1] if method.states == "path" else range(START, 0, -1)
    order = PairOrder(len(bank), tuple(ids), seed)
    return BankSource(bank, method, TABLE, order, ranks or Ranks(6), CPU, **more)


def batches(source, numbers):
    found = [source.batch(number) for number in numbers]
    source.close()
    return found


def below(kept, id_: int) -> int:
    return max(k for k in kept if k < id_)


def close(found: torch.Tensor, expected: torch.Tensor, atol: float = 3e-5) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=atol)


@pytest.mark.parametrize("name", ["bank", "sparse"])
def test_defect_1_every_item_has_what_belongs_to_its_own_path(name, request) -> None:
    bank = request.getfixturevalue(name)
    real_latents = {}

    def note(paths, x0):
        real_latents["paths"], real_latents["x0"] = paths.clone(), x0.clone()
        return x0 + 1

    source = source_of(bank, std_of(bank), real_latents=note)
    for batch in batches(source, range(3)):
        assert batch.cond.batch == batch.uncond.batch == 6
        for k in range(6):
            path, j, s = (int(v[k]) for v in (batch.sample_ids - 100, batch.level_ids, batch.target_ids))
            states = path_of(path)
            close(batch.states[k], states[j])
            close(batch.targets[k], states[s])
            assert s < j and int(batch.next_ids[k]) == below(bank.level_ids, j)
            close(batch.next_states[k], states[int(batch.next_ids[k])])
            close(batch.cond.encoder_hidden_states[k], condition_of([mean_of(path)]).encoder_hidden_states[0])
            close(
                batch.uncond.encoder_hidden_states[k],
                condition_of([unmean_of(path)]).encoder_hidden_states[0],
            )
            close(batch.real_latents[k], x0_of(path) + 1)
        assert batch.guidance.dtype == torch.float64
    assert torch.equal(real_latents["paths"], batch.sample_ids - 100)


def test_defect_2_guidance_is_one_number_for_all_of_a_path(bank) -> None:
    seen: dict[int, set[float]] = {}
    for batch in batches(source_of(bank, std_of(bank), ranks=Ranks(37)), range(NUM_PATHS)):
        for path, guidance in zip((batch.sample_ids - 100).tolist(), batch.guidance.tolist(), strict=True):
            seen.setdefault(path, set()).add(guidance)
    assert seen == {path: {guidance_of(path)} for path in range(NUM_PATHS)}


def test_defect_4_ranks_see_different_data_and_together_what_one_sees(bank) -> None:
    alone = batches(source_of(bank, std_of(bank), ranks=Ranks(4)), range(5))
    parts = [batches(source_of(bank, std_of(bank), ranks=Ranks(2, rank, 2)), range(5)) for rank in range(2)]
    for one, left, right in zip(alone, *parts, strict=True):
        assert set(left.sample_index.tolist()).isdisjoint(right.sample_index.tolist())
        for name in (
            "sample_index",
            "sample_ids",
            "level_ids",
            "target_ids",
            "states",
            "targets",
            "guidance",
        ):
            both = torch.cat([getattr(left, name), getattr(right, name)])
            assert torch.equal(both, getattr(one, name)), name


def test_small_batches_are_parts_of_large_ones(bank) -> None:
    method = std_of(bank)
    (large,) = batches(source_of(bank, method, ranks=Ranks(4)), range(1, 2))
    small = batches(source_of(bank, method, ranks=Ranks(1)), range(4, 8))
    assert torch.equal(torch.cat([one.states for one in small]), large.states)
    assert torch.equal(torch.cat([one.target_ids for one in small]), large.target_ids)


def test_defects_8_and_9_every_level_down_to_1_is_an_input_once_an_epoch(bank) -> None:
    seen, anchors = [], 0
    for batch in batches(source_of(bank, std_of(bank), ranks=Ranks(37)), range(NUM_PATHS)):
        seen += zip(batch.sample_ids.tolist(), batch.level_ids.tolist(), strict=True)
        anchors += int((batch.target_ids == batch.level_ids - 1).sum())
    every = {(100 + path, j) for path in range(NUM_PATHS) for j in range(1, START + 1)}
    assert set(seen) == every and len(seen) == len(every)
    assert anchors > 0


def test_a_later_start_is_the_same_and_so_is_going_back(bank) -> None:
    source = source_of(bank, std_of(bank))
    straight = [source.batch(number) for number in range(4)]
    again = source.batch(1)  # back
    (late,) = batches(source_of(bank, std_of(bank)), range(3, 4))
    source.close()
    assert torch.equal(straight[3].states, late.states) and torch.equal(straight[1].states, again.states)
    assert torch.equal(straight[3].target_ids, late.target_ids)
    assert source.state() == {}


def test_what_is_not_needed_is_not_read(bank) -> None:
    teacher = Std(TABLE, std_of(bank).target_sampler, "teacher")
    (batch,) = batches(source_of(bank, teacher), range(1))
    assert batch.next_states is None and batch.next_ids is None and batch.real_latents is None
    own = Std(TABLE, std_of(bank).target_sampler, "consistency")
    (batch,) = batches(source_of(bank, own), range(1))
    assert batch.targets is None and batch.next_states is not None


def taught_step(roles):
    """What `setup` hands in, over the known teacher."""
    from stdcli.distill.setup import _teacher_step

    return _teacher_step(roles)


@pytest.mark.parametrize("name", ["bank", "sparse"])
def test_data_are_the_transformed_samples_under_fresh_noise(name, request) -> None:
    bank = request.getfixturevalue(name)
    roles = roles_of()
    source = source_of(bank, Lcm(TABLE, START), teacher_step=taught_step(roles), ranks=Ranks(8))
    (batch,) = batches(source, range(2, 3))
    assert not set(batch.level_ids.tolist()) <= set(KEPT)  # any level will do
    for k in range(8):
        path, j = int(batch.sample_ids[k]) - 100, int(batch.level_ids[k])
        generator = fold(3, "data noise", int(batch.sample_index[k]))
        noise = torch.randn(SHAPE, generator=generator)
        alpha, sigma = scales(time_of(j))
        close(batch.states[k], alpha * start_of(x0_of(path).double()) + sigma * noise)
        told = {"mean": mean_of(path), "unmean": unmean_of(path), "guidance": guidance_of(path)}
        eps = taught(batch.states[k].double(), time_of(j), **told)
        close(batch.next_states[k], moved(batch.states[k].double(), eps, time_of(j), time_of(j - 1)))
        assert int(batch.next_ids[k]) == j - 1 and int(batch.target_ids[k]) == 0
        assert not torch.allclose(noise, draw(path))  # not the path's own
    assert batch.targets is None


PURE = (*TABLE[:START], Level(START, 999, 0.0, 1.0))


def test_data_of_plain_samples_are_the_stored_ones_under_noise_up_to_pure_noise(tmp_path) -> None:
    plain = write_known_bank(tmp_path, transform="none")
    order = PairOrder(len(plain), tuple(range(START, 0, -1)), 3)
    source = BankSource(
        plain, Lcm(PURE, START), PURE, order, Ranks(37), CPU, teacher_step=lambda x, *_: x + 1
    )
    seen = set()
    for batch in batches(source, range(NUM_PATHS)):
        for k, (sample_id, j) in enumerate(zip(batch.sample_ids, batch.level_ids.tolist(), strict=True)):
            generator = fold(3, "data noise", int(batch.sample_index[k]))
            noise = torch.randn(SHAPE, generator=generator).double()
            alpha, sigma = scales(time_of(j)) if j < START else (0.0, 1.0)
            close(batch.states[k], alpha * x0_of(int(sample_id) - 100).double() + sigma * noise, 1e-6)
            assert torch.equal(batch.next_states[k], batch.states[k] + 1)
            seen.add(j)
    assert START in seen


@pytest.mark.parametrize(
    ("alpha", "store_dtype", "works"),
    [(0.0, "float32", False), (0.0, "float16", False), (0.011, "float16", True), (0.009, "float16", False),
     (0.009, "float32", True), (0.011, "bfloat16", False)],
)  # fmt: skip
def test_styled_samples_that_noise_hides_are_refused(alpha, store_dtype, works, bank) -> None:
    table = (*TABLE[:START], Level(START, 999, alpha, (1 - alpha**2) ** 0.5))
    manifest = dataclasses.replace(bank.manifest, store_dtype=store_dtype)
    hidden = SimpleNamespace(manifest=manifest, level_ids=bank.level_ids)
    order = PairOrder(5, (1,), 3)
    if works:
        BankSource(hidden, Lcm(table, START), table, order, Ranks(1), CPU)
        return
    with pytest.raises(ConfigError, match="noise that hides their samples") as caught:
        BankSource(hidden, Lcm(table, START), table, order, Ranks(1), CPU)
    assert "--strength 0.72 or less" in caught.value.hint
    BankSource(hidden, std_of(bank), table, order, Ranks(1), CPU)


@pytest.mark.parametrize("name", ["std", "lcm"])
def test_clips_are_learned_from_as_pictures_of_as_many_cells(name, bank, tmp_path) -> None:
    """States, noise, targets and predictions of a bank of clips are those of pictures in another shape."""
    extent = ClipExtent(height=8, width=24, frames=3, frame_stride=1)
    clips = write_known_bank(tmp_path, latent_shape=CLIP, resolution_px=None, clip=extent)
    roles, found = roles_of(), {}
    for kind, paths in (("pictures", bank), ("clips", clips)):
        method = std_of(paths) if name == "std" else Lcm(TABLE, START)
        step = taught_step(roles) if name == "lcm" else None
        source = source_of(paths, method, teacher_step=step, real_latents=lambda _, x0: x0)
        (batch,) = batches(source, range(1, 2))
        made = method.predict(roles, batch)
        found[kind] = {"states": batch.states, "next": batch.next_states, "real": batch.real_latents}
        found[kind] |= {"made": made.state, "x0": made.denoised.x0, "target": method.target(roles, batch)}
    for key, value in found["clips"].items():
        assert value.shape == (6, *CLIP), key
        assert torch.equal(value.reshape(6, *SHAPE), found["pictures"][key]), key


def test_style_pictures_are_no_real_clips(tmp_path) -> None:
    files = write_tiny_bank(tmp_path, CLIPS)
    with pytest.raises(ConfigError) as caught:
        make_styles(Bank(files.root), tmp_path, codec=None, device=CPU)
    assert caught.value.problems == [
        (
            "adversary.real",
            "a style picture is no clip, and this bank holds clips; --adv-real x0 or path-end",
        )
    ]


def test_fresh_noise_is_another_each_time(bank) -> None:
    source = source_of(bank, Lcm(TABLE, START), teacher_step=taught_step(roles_of()), ranks=Ranks(37))
    seen = [row for batch in batches(source, range(10)) for row in batch.states]
    assert len({row.sum().item() for row in seen}) == 370


def online_of(*, rank=0, num_ranks=1, slots=6, shape=SHAPE) -> OnlineBank:
    """The paper's bank over the known teacher: sample n is path n modulo their number."""

    def begin(number: int) -> PathStart:
        path = number % NUM_PATHS
        alpha, sigma = scales(time_of(START))
        rows = {"cond": condition_of([mean_of(path)]), "uncond": condition_of([unmean_of(path)])}
        named = {f"{side}.encoder_hidden_states": c.encoder_hidden_states[0] for side, c in rows.items()}
        state = alpha * start_of(x0_of(path)) + sigma * draw(path)
        return PathStart(x0_of(path).reshape(shape), state.reshape(shape), named, guidance_of(path))

    def step(states, level, next_level, conditions, guidance):
        rows = []
        for k, x in enumerate(states.double()):
            means = [conditions[f"{s}.encoder_hidden_states"][k].mean().item() for s in ("cond", "uncond")]
            told = {"mean": means[0], "unmean": means[1], "guidance": float(guidance[k])}
            t = int(level.t[k])
            rows.append(moved(x, taught(x, t, **told), t, int(next_level.t[k])))
        return torch.stack(rows).float()

    plan = make_teacher_path(SD, num_solver_steps=50, strength=0.75)
    return OnlineBank(begin, step, path=plan, num_slots=slots, seed=0, rank=rank, num_ranks=num_ranks)


def online_source(**options) -> OnlineSource:
    levels = [TABLE[id_] for id_ in range(START, -1, -1)]
    method = Std(TABLE, make_target_sampler(StdSection(), levels, (2, 4)), "consistency")
    ranks = Ranks(3, options.get("rank", 0), options.get("num_ranks", 1))
    real_latents = options.pop("real_latents", None)
    return OnlineSource(online_of(**options), method, ranks, seed=3, device=CPU, real_latents=real_latents)


def test_states_of_the_online_bank_are_those_of_the_stored_paths() -> None:
    source = online_source(real_latents=lambda numbers, x0: x0 - 1)
    for number in range(6):
        batch = source.batch(number)
        for k in range(3):
            path, j = int(batch.sample_ids[k]) % NUM_PATHS, int(batch.level_ids[k])
            close(batch.states[k], path_of(path)[j], 2e-4)
            close(batch.next_states[k], path_of(path)[j - 1], 2e-4)
            assert int(batch.next_ids[k]) == j - 1 and int(batch.target_ids[k]) < j
            assert float(batch.guidance[k]) == guidance_of(path)
            close(batch.cond.encoder_hidden_states[k].mean(), torch.tensor(mean_of(path)))
            close(batch.uncond.encoder_hidden_states[k].mean(), torch.tensor(unmean_of(path)))
            close(batch.real_latents[k], x0_of(path) - 1)
        assert batch.sample_index.tolist() == [3 * number, 3 * number + 1, 3 * number + 2]


def test_clips_go_through_the_online_bank_as_pictures_of_as_many_cells() -> None:
    pictures, clips = online_source(), online_source(shape=CLIP)
    for number in range(6):
        one, other = pictures.batch(number), clips.batch(number)
        for name in ("states", "next_states"):
            value = getattr(other, name)
            assert value.shape == (3, *CLIP)
            assert torch.equal(value.reshape(3, *SHAPE), getattr(one, name)), name
    again = online_source(shape=CLIP)
    again.restore(clips.state())
    assert torch.equal(again.batch(6).states, clips.batch(6).states)


def test_an_online_source_goes_on_where_its_state_was_taken() -> None:
    source = online_source()
    for number in range(3):
        source.batch(number)
    kept = {name: value.clone() for name, value in source.state().items()}
    expected = [source.batch(number) for number in range(3, 6)]
    other = online_source()
    other.restore(kept)
    for number, batch in enumerate(expected, 3):
        found = other.batch(number)
        for name in ("states", "next_states", "level_ids", "target_ids", "sample_ids"):
            assert torch.equal(getattr(found, name), getattr(batch, name)), name


def test_online_ranks_share_neither_samples_nor_draws() -> None:
    left, right = (online_source(rank=rank, num_ranks=2) for rank in range(2))
    for number in range(4):
        a, b = left.batch(number), right.batch(number)
        assert set(a.sample_ids.tolist()).isdisjoint(b.sample_ids.tolist())
        assert set(a.sample_index.tolist()).isdisjoint(b.sample_index.tolist())
