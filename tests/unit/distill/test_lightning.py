"""Progressive distillation: plans by hand, targets by two jumps made by hand, the sampler by diffusers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from stdcli.bank.order import StagedOrder
from stdcli.config.distill import DistillConfig
from stdcli.diffusion.levels import level_table, make_sampling_path
from stdcli.diffusion.predictions import PredictionType, to_x0_eps
from stdcli.diffusion.sample import sample
from stdcli.distill.adversary import Adversary
from stdcli.distill.batch import Batch
from stdcli.distill.batch_sources import BankSource, Ranks
from stdcli.distill.learner import STAGE_STUDENT
from stdcli.distill.loss_terms import LossTerms
from stdcli.distill.methods.lightning import METHOD, Halving, Lightning
from stdcli.distill.real_fake_pairs import RealFakeBatch
from stdcli.errors import ConfigError
from tests.tiny_methods import (
    SD,
    START,
    STD,
    condition_of,
    guidance_of,
    mean_of,
    moved,
    noise_in,
    path_of,
    roles_of,
    scales,
    taught,
    time_of,
    unmean_of,
    write_known_bank,
)

TABLE = level_table(SD, 50)
BEFORE_STD = 0.55
PLANS = {  # 37 - floor(37 i / 2K), by hand: j -> (m, s)
    8: {
        **{37: (35, 33), 33: (31, 28), 28: (26, 24), 24: (21, 19)},
        **{19: (17, 14), 14: (12, 10), 10: (7, 5), 5: (3, 0)},
    },
    4: {37: (33, 28), 28: (24, 19), 19: (14, 10), 10: (5, 0)},
    2: {37: (28, 19), 19: (10, 0)},
    1: {37: (19, 0)},
}


def config_of(**more) -> DistillConfig:
    given = {"method": "lightning", "bank": "b", "steps": 2, "lightning": {"counts": [8, 4, 2]}}
    return DistillConfig(**(given | {"train": {"steps": 12, "warmup_steps": 0}} | more))


def method(start_id: int = START, **more) -> Lightning:
    return METHOD.from_settings(config_of(**more), paths=SimpleNamespace(start_id=start_id), table=TABLE)


def batch_of(paths: tuple[int, ...], j: tuple[int, ...], s: tuple[int, ...]) -> Batch:
    return Batch(
        sample_ids=torch.tensor(paths),
        sample_index=torch.arange(len(paths)),
        level_ids=torch.tensor(j),
        target_ids=torch.tensor(s),
        states=torch.stack([path_of(path)[id_] for path, id_ in zip(paths, j, strict=True)]).float(),
        next_ids=None,
        next_states=None,
        targets=None,
        real_latents=None,
        cond=condition_of([mean_of(path) for path in paths]),
        uncond=condition_of([unmean_of(path) for path in paths]),
        guidance=torch.tensor([guidance_of(path) for path in paths], dtype=torch.float64),
    )


def cleaned(x: torch.Tensor, eps: torch.Tensor, t: int) -> torch.Tensor:
    """The clean latent that a state and the noise in it come from."""
    alpha, sigma = scales(t)
    return (x - sigma * eps) / alpha


def noise_before(path: int, x: torch.Tensor, t: int, *, stage: int) -> torch.Tensor:
    """What the stage before sees in a state."""
    if stage:
        return noise_in(x, t, mean=mean_of(path), std=BEFORE_STD)
    return taught(x, t, mean=mean_of(path), unmean=unmean_of(path), guidance=guidance_of(path))


def by_hand(path: int, j: int, m: int, s: int, *, stage: int) -> torch.Tensor:
    """The target of one item."""
    x, (t_j, t_m, t_s) = path_of(path)[j], map(time_of, (j, m, s))
    between = moved(x, noise_before(path, x, t_j, stage=stage), t_j, t_m)
    eps = noise_before(path, between, t_m, stage=stage)
    return moved(between, eps, t_m, t_s) if s else cleaned(between, eps, t_m)


def staged_roles():
    roles = roles_of()
    roles.weights[STAGE_STUDENT] = {"std": torch.tensor(BEFORE_STD, dtype=torch.float64)}
    return roles


@pytest.mark.parametrize("steps", PLANS)
def test_plans_by_hand(steps) -> None:
    halving = Halving.of(START, steps)
    assert {j: (halving.mids[j], s) for j, s in halving.ends.items()} == PLANS[steps]


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_target_is_two_jumps_of_the_stage_before(stage) -> None:
    plan = PLANS[(8, 4, 2)[stage]]
    ids, paths = tuple(plan)[:2] + tuple(plan)[-1:], (0, 3, 1)
    batch, seen = batch_of(paths, ids, tuple(plan[j][1] for j in ids)), {}

    class Terms:
        adversarial = None

        def losses(self, prediction, target, batch, *, step, pair):
            seen.update(state=prediction.state, target=target, pair=pair)
            yield from ()

    list(method().losses(staged_roles(), Terms(), batch, step=4 * stage + 3))
    expected = [by_hand(path, j, *plan[j], stage=stage) for path, j in zip(paths, ids, strict=True)]
    torch.testing.assert_close(seen["target"].double(), torch.stack(expected), rtol=0, atol=3e-5)
    assert not seen["target"].requires_grad and seen["pair"] is None
    for k, (path, j) in enumerate(zip(paths, ids, strict=True)):
        x, t = path_of(path)[j], time_of(j)
        eps, s = noise_in(x, t, mean=mean_of(path), std=STD), plan[j][1]
        state = moved(x, eps, t, time_of(s)) if s else cleaned(x, eps, t)
        torch.testing.assert_close(seen["state"][k].double(), state, rtol=0, atol=3e-5)
    assert seen["state"].requires_grad


def test_a_student_that_jumps_as_the_stage_before_in_two_has_no_loss() -> None:
    """Where the mean is known for sure (std 0), noise stays what it is, and two jumps are one."""
    roles = roles_of()
    roles.weights[STAGE_STUDENT] = {"std": torch.tensor(0.0, dtype=torch.float64)}
    with torch.no_grad():
        roles.module.std.zero_()
    batch = batch_of((0, 2), (37, 10), (28, 0))
    (loss,) = method().losses(roles, LossTerms(START, "l2"), batch, step=5)
    assert float(loss.value.detach()) < 1e-10
    with torch.no_grad():
        roles.module.std.fill_(0.3)
    (loss,) = method().losses(roles, LossTerms(START, "l2"), batch, step=5)
    assert float(loss.value.detach()) > 1e-3


def test_levels_and_ends_are_those_of_the_stages_plan() -> None:
    sampler = method().target_sampler
    assert [sampler.stages.bounds(k) for k in range(3)] == [(0, 4), (4, 8), (8, 12)]
    for stage, steps in enumerate((8, 4, 2)):
        ids = torch.tensor(list(PLANS[steps]))
        drawn = sampler.of_stage(stage).select(ids, torch.rand(len(ids), 2, dtype=torch.float64))
        assert drawn.tolist() == [s for _, s in PLANS[steps].values()]
        assert sampler.of_stage(stage).free.keys() == PLANS[steps].keys()


def test_batches_lie_on_the_plan_of_their_stage_and_take_no_step_of_the_teacher(tmp_path) -> None:
    bank, made = write_known_bank(tmp_path), method()
    levels = [tuple(sampler.free) for sampler in made.target_sampler.samplers]
    order = StagedOrder.of(len(bank), levels, (0, 40, 80), 3)
    source = BankSource(bank, made, TABLE, order, Ranks(20), torch.device("cpu"))
    for number in range(6):
        batch, plan = source.batch(number), PLANS[(8, 4, 2)[number // 2]]
        pairs = zip(batch.level_ids.tolist(), batch.target_ids.tolist(), strict=True)
        assert all(plan[j][1] == s for j, s in pairs)
        assert batch.next_states is batch.next_ids is None
    source.close()


def judged(step: int, **more) -> RealFakeBatch:
    """What the adversary is given in a step."""
    found = {}

    class Terms:
        adversarial = object()

        def losses(self, prediction, target, batch, *, step, pair):
            found.update(pair=pair, prediction=prediction, target=target)
            yield from ()

    batch = batch_of((0, 2), (37, 10), (28, 0))
    list(method(**more).losses(staged_roles(), Terms(), batch, step=step))
    assert found["pair"].fake is found["prediction"].state and found["pair"].real is found["target"]
    assert found["pair"].given is None or found["pair"].given is batch.states
    return found["pair"]


def test_the_adversary_sees_where_a_jump_began_but_for_the_last_part_of_a_stage() -> None:
    section = {"lightning": {"counts": [8, 4, 2], "unconditional": 0.25}}
    shown = [judged(step, **section).given is not None for step in range(4, 8)]
    assert shown == [True, True, True, False]
    pair = judged(4)
    assert pair.level.id.tolist() == [28, -1] and pair.level.t.tolist() == [559, 0]
    assert pair.level.sigma.tolist() == [scales(559)[1], 0] and pair.given_level.id.tolist() == [37, 10]


class Seen:
    """Features: the latent's mean plus the time told, and a draw that augmentations would be."""

    channels = (2,)

    def __call__(self, latents, level, *, generator):
        means = latents.flatten(1).mean(1) + level.t
        draw = torch.rand((), generator=generator)
        return [torch.stack([means, draw.expand(len(means))], dim=1)[..., None]]


class Kept(torch.nn.Module):
    """Remembers what it is asked to judge."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.asked = []

    def forward(self, features, vector):
        self.asked.append(features[0].detach()[..., 0])
        return self.weight * features[0][:, :1, 0]


def test_features_of_both_ends_stand_side_by_side() -> None:
    critic = Kept()
    adversary = Adversary(Seen(), critic, loss="non-saturating", sees_given=True)
    condition, generator = condition_of([0.0]), torch.Generator().manual_seed(0)
    pair = judged(4)
    adversary.discriminator_loss(pair, condition, generator=generator)
    for asked, state in zip(critic.asked, (pair.real, pair.fake), strict=True):
        means = [value.flatten(1).mean(1) for value in (state.detach(), batch_states())]
        torch.testing.assert_close(asked[:, 0], means[0] + torch.tensor([559.0, 0.0]))
        torch.testing.assert_close(asked[:, 2], means[1] + torch.tensor([739.0, 199.0]))
        assert torch.equal(asked[:, 1], asked[:, 3]), "both ends are augmented alike"
    hidden = judged(7)
    loss = adversary.generator_loss(hidden, condition, generator=generator)
    assert critic.asked[-1].shape == (2, 4) and critic.asked[-1][:, 2:].abs().sum() == 0
    expected = torch.nn.functional.softplus(-critic.asked[-1][:, 0]).mean()
    assert float(loss.detach()) == pytest.approx(float(expected))


def batch_states() -> torch.Tensor:
    return batch_of((0, 2), (37, 10), (28, 0)).states


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"lightning": {"counts": [8, 2]}}, "2 follows 8, and a stage has half the steps of the one before"),
        ({"steps": 4}, "steps: 4 is not 2, the last of lightning.counts"),
        ({"student": {"kind": "full", "s_embedding": True}}, r"student\.s_embedding: belongs to method std"),
        ({"adversary": {"weight": 1, "real": "x0"}}, r"adversary\.real: is not used"),
        ({"adversary": {"weight": 1, "levels": "x0"}}, r"adversary\.levels: is not used"),
        ({"std": {"target_weights": "average"}}, "belongs to method std; lightning does not use it"),
        ({"train": {"steps": 2, "warmup_steps": 0}}, r"train\.steps: 2 steps leave none for stage"),
    ],
)
def test_settings_that_do_not_fit(given, told) -> None:
    with pytest.raises(ValueError, match=told):
        config_of(**given)


def test_more_steps_than_levels_are_refused_with_those_that_fit() -> None:
    with pytest.raises(ConfigError) as told:
        method(start_id=9)
    problem = "8 steps are taught by twice as many, and there are 9 levels"
    assert told.value.problems == [("lightning.counts", problem)]
    assert told.value.hint == "--set lightning.counts=4,2"
    assert METHOD.supported_steps(config_of()) == (2,)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_students_walk_as_diffusers_euler_with_trailing_steps(steps) -> None:
    """Counts that divide the levels: others differ in where levels lie, as LCM's grid rounds down."""
    path = make_sampling_path(
        SD, steps=steps, strength=1.0, num_solver_steps=50, final=METHOD.sampling["final"]
    )
    euler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    euler.set_timesteps(steps)
    assert list(path.timesteps) == euler.timesteps.tolist()
    x = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0)).double()

    def noise(state: torch.Tensor, t: int) -> torch.Tensor:
        return noise_in(state, int(t), mean=0.3, std=0.4) + 0.1 * state.sin()

    theirs = x * (euler.sigmas[0].double() ** 2 + 1) ** 0.5
    for t in euler.timesteps:
        theirs = euler.step(noise(euler.scale_model_input(theirs, t), t), t, theirs).prev_sample

    def denoise(state, level):
        eps = noise(state, level.t)
        return to_x0_eps(eps, state, alpha=level.alpha, sigma=level.sigma, kind=PredictionType.EPSILON)

    ours = sample(denoise, x, path, schedule=SD, sampler=METHOD.sampling["sampler"])
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-4, atol=2e-4)
