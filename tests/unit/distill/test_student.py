"""The student under training: it starts as its base, only what is trained moves, and the teacher stays."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from stdcli.distill.student import Student, make_student
from stdcli.models.load import load_denoiser
from stdcli.models.spec import ModelSpec
from stdcli.models.unet_denoiser import LORA_TARGETS, lora_targets
from tests.tiny_models import add_style_adapter, save_tiny_embedded, save_tiny_sd15, save_tiny_sdxl
from tests.tiny_students import condition_for, latents_for, student_of, train

X, T = latents_for("embedded"), torch.tensor([739, 199])
CONDITION = condition_for("embedded")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_embedded(tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="module")
def base(model: Path) -> torch.Tensor:
    """The base's own output, without any of the code under test."""
    return load_denoiser(ModelSpec(str(model), device="cpu", dtype="float32")).denoiser(X, T, CONDITION)


def output(student: Student, **inputs: object) -> torch.Tensor:
    with torch.no_grad():
        return student(X, T, CONDITION, **inputs)


KINDS = [
    {"kind": "lora"},
    {"kind": "lora", "has_target_time": True},
    {"kind": "full", "keep_teacher": True},
    {"kind": "full", "keep_teacher": True, "has_target_time": True},
]


def alike(student: torch.Tensor, base: torch.Tensor, *, kind: str) -> bool:
    """Bits, but for full weights: some processors' products round by where a copy of the weights lies."""
    return torch.equal(student, base) if kind == "lora" else (student - base).abs().max() < 1e-5


@pytest.mark.parametrize(("options", "checkpointing"), [*((kind, False) for kind in KINDS), (KINDS[0], True)])
def test_begins_as_its_base_and_keeps_it_as_teacher(model, base, options, checkpointing) -> None:
    student = student_of(model, checkpointing=checkpointing, **options)
    target = {"target_time": 199} if student.has_target_time else {}
    assert alike(output(student, **target), base, kind=student.kind)
    train(student)
    changed = output(student, **target)
    assert (changed - base).abs().max() > 0.01
    with student.as_teacher():
        assert alike(output(student), base, kind=student.kind)
        with student.as_teacher():
            pass
        assert alike(output(student), base, kind=student.kind), "the inner end is not the outer one"
    assert torch.equal(output(student, **target), changed)
    assert all(p.requires_grad for p in student.trainable().values())
    assert student.network.is_gradient_checkpointing == checkpointing


def test_the_teacher_ends_with_an_exception(model, base) -> None:
    student = train(student_of(model))
    changed = output(student)
    with pytest.raises(KeyError), student.as_teacher():
        raise KeyError
    assert torch.equal(output(student), changed)
    assert all(p.requires_grad for p in student.trainable().values())


def test_full_weights_without_a_copy_have_no_teacher(model) -> None:
    with pytest.raises(ValueError, match="keep_teacher"), student_of(model, kind="full").as_teacher():
        pass


@pytest.mark.parametrize("options", KINDS)
def test_averages_are_what_a_copy_with_those_values_gives(model, base, options) -> None:
    student = train(student_of(model, **options))
    target = {"target_time": torch.tensor([199.0, 0.0])} if student.has_target_time else {}
    average = {name: value.detach() * 0.5 for name, value in student.trainable().items()}
    live = output(student, **target)
    other = copy.deepcopy(student)
    with torch.no_grad():
        for name, parameter in other.trainable().items():
            parameter.copy_(average[name])
    expected = output(other, **target)
    before = {name: value.clone() for name, value in student.trainable().items()}
    with student.using(average):
        assert torch.allclose(output(student, **target), expected, atol=1e-6)
        with student.as_teacher():
            assert torch.equal(output(student), base)
        assert torch.allclose(output(student, **target), expected, atol=1e-6)
    assert (expected - live).abs().max() > 0.01
    assert torch.equal(output(student, **target), live)
    assert all(torch.equal(before[name], value) for name, value in student.trainable().items())


@pytest.mark.parametrize(
    ("options", "checkpointing", "backward"),
    [
        *((kind, False, "outside") for kind in KINDS),
        *((KINDS[0], True, where) for where in ("inside", "outside", "inside another's")),
    ],
)
def test_gradients_under_other_weights_go_to_those_alone(model, options, checkpointing, backward) -> None:
    """They are those of a second student that holds the weights as its own, bit for bit."""
    options = options | {"checkpointing": checkpointing}
    student, other = train(student_of(model, **options)), train(student_of(model, **options), seed=4)
    target = {"target_time": torch.tensor([199.0, 0.0])} if student.has_target_time else {}
    given = {name: value.detach().clone().requires_grad_() for name, value in other.trainable().items()}
    halves = {name: value.detach() * 0.5 for name, value in student.trainable().items()}
    base = {name: p.clone() for name, p in student.named_parameters()}
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    with student.using(given):
        found = student(x, T, CONDITION, **target)
        if backward == "inside":
            found.square().mean().backward()
    if backward == "outside":
        found.square().mean().backward()
    if backward == "inside another's":
        with student.using(halves):
            found.square().mean().backward()
    expected = other(y, T, CONDITION, **target)
    expected.square().mean().backward()
    assert torch.equal(found, expected) and torch.equal(x.grad, y.grad)
    for name, parameter in other.trainable().items():
        assert (given[name].grad is None) == (parameter.grad is None)
        assert parameter.grad is None or torch.equal(given[name].grad, parameter.grad)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in given.values())
    assert all(parameter.grad is None for parameter in student.parameters())
    assert all(torch.equal(base[name], p) for name, p in student.named_parameters())


def test_what_other_weights_compute_is_computed_again_where_checkpoints_are_asked_for(model) -> None:
    student, calls = train(student_of(model, checkpointing=True)), []
    block = student.network.down_blocks[0].resnets[0]
    block.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    given = {name: value.detach().clone().requires_grad_() for name, value in student.trainable().items()}
    with student.using(given):
        loss = student(X, T, CONDITION).square().mean()
    before = len(calls)
    loss.backward()
    assert before == 1 and len(calls) == 2


def test_averages_need_every_name_and_no_teacher(model) -> None:
    student = student_of(model)
    with pytest.raises(ValueError, match="2 names differ"), student.using(_renamed(student)):
        pass
    average = dict(student.trainable())
    with (
        student.as_teacher(),
        pytest.raises(ValueError, match="no averaged"),
        student.using(average),
    ):
        pass


def _renamed(student: Student) -> dict[str, torch.Tensor]:
    first, *rest = student.trainable().items()
    return {"other": first[1], **dict(rest)}


@pytest.mark.parametrize(("options", "checkpointing"), [*((kind, False) for kind in KINDS), (KINDS[0], True)])
def test_gradients_reach_all_that_is_trained_and_nothing_else(model, options, checkpointing) -> None:
    student = train(student_of(model, checkpointing=checkpointing, **options))
    loss = (
        student(X, T, CONDITION, **({"target_time": 99} if student.has_target_time else {})).square().mean()
    )
    with torch.no_grad(), student.as_teacher():
        student(X, T, CONDITION)
    loss.backward()
    trained = {id(p) for p in student.trainable().values()}
    touched = {id(p) for p in student.parameters() if p.grad is not None}
    assert touched == trained
    assert all(p.grad.any() for p in student.trainable().values())
    assert {id(p) for p in student.parameters() if p.requires_grad} == trained
    assert all(p.dtype == torch.float32 for p in student.trainable().values())


def test_checkpointing_gives_the_same_gradients(model) -> None:
    gradients = []
    for checkpointing in (False, True):
        student = train(student_of(model, checkpointing=checkpointing))
        student(X, T, CONDITION).square().mean().backward()
        gradients.append([p.grad for p in student.trainable().values()])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("way", ["as_teacher", "using"])
def test_graphs_of_other_weights_stay_theirs_under_checkpointing(model, way) -> None:
    """The gradient with respect to the input of what was recorded inside, asked for outside."""
    gradients = []
    for checkpointing in (False, True):
        student = train(student_of(model, checkpointing=checkpointing))
        halves = {name: value.detach() * 0.5 for name, value in student.trainable().items()}
        x = X.clone().requires_grad_()
        with student.as_teacher() if way == "as_teacher" else student.using(halves):
            loss = student(x, T, CONDITION).square().mean()
        gradients.append(torch.autograd.grad(loss, x)[0])
    assert torch.allclose(*gradients, atol=1e-7)


def test_adapters_come_from_the_seed_and_leave_torchs_generator_alone(model) -> None:
    state = torch.get_rng_state()
    bases = [load_denoiser(ModelSpec(str(model), device="cpu")).denoiser for _ in range(3)]
    made = [make_student(b, kind="lora", rank=3, seed=s) for b, s in zip(bases, (5, 5, 6), strict=True)]
    first, same, other = (student.trainable() for student in made)
    assert torch.equal(torch.get_rng_state(), state)
    downs = [name for name in first if ".lora_A." in name]
    assert len(downs) * 2 == len(first)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in downs)
    assert all(not first[name].any() for name in first if ".lora_B." in name)
    for name in downs:  # uniform in +-1/sqrt(fan in), as peft's own
        bound = first[name][0].numel() ** -0.5
        assert 0.8 * bound < first[name].abs().max() <= bound


def test_alpha_is_a_factor_times_rank(model) -> None:
    """alpha = 2 rank and alpha = rank with B twice as large are the same network."""
    double = train(student_of(model, rank=4, alpha=8))
    single = train(student_of(model, rank=4))
    with torch.no_grad():
        for name, parameter in single.trainable().items():
            if ".lora_B." in name:
                parameter.mul_(2)
    assert torch.allclose(output(double), output(single), atol=1e-5)


def test_float32_adapters_on_a_bfloat16_base(model) -> None:
    student = student_of(model, dtype="bfloat16")
    plain = load_denoiser(ModelSpec(str(model), device="cpu", dtype="bfloat16")).denoiser
    assert student.network.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in student.trainable().values())
    assert student(X, T, CONDITION).dtype == torch.float32
    assert torch.equal(output(student), plain(X, T, CONDITION))
    train(student)(X, T, CONDITION).square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in student.trainable().values())


def test_full_weights_of_a_bfloat16_base_are_float32_and_the_teacher_is_not(model) -> None:
    student = student_of(model, dtype="bfloat16", kind="full", keep_teacher=True)
    assert {p.dtype for p in student.network.parameters()} == {torch.float32}
    plain = load_denoiser(ModelSpec(str(model), device="cpu", dtype="bfloat16")).denoiser
    with student.as_teacher():
        assert torch.equal(output(student), plain(X, T, CONDITION))


def test_a_target_is_seen_once_its_projection_is_trained(model) -> None:
    student = student_of(model, kind="full", has_target_time=True)
    assert torch.equal(output(student, target_time=0), output(student, target_time=599))
    torch.nn.init.normal_(
        student.trainable()["time_embedding.cond_proj.weight"], generator=torch.Generator().manual_seed(0)
    )
    low, high = output(student, target_time=0), output(student, target_time=599)
    assert not torch.allclose(low, high, atol=1e-3)
    mixed = output(student, target_time=torch.tensor([0, 599]))
    assert torch.allclose(mixed[0], low[0], atol=1e-5) and torch.allclose(mixed[1], high[1], atol=1e-5)
    with pytest.raises(ValueError, match="no time was given"):
        output(student)


def test_the_embedder_beside_adapters_by_hand(model, base) -> None:
    """sin and cos of the target's time, two layers with SiLU between, added to those of its own time."""
    student = student_of(model, has_target_time=True)
    weights = {k.rpartition("cond_proj.")[2]: v for k, v in student.trainable().items() if "cond_proj" in k}
    names = {"linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias"}
    assert weights.keys() == names and {v.dtype for v in weights.values()} == {torch.float32}
    assert weights["linear_1.weight"].any() and not weights["linear_2.weight"].any()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in weights.values():
            value += 0.1 * torch.randn(value.shape, generator=draw)
    angles = torch.tensor([199.0, 0.0])[:, None] * torch.exp(
        -torch.arange(128) / 128 * torch.tensor(1e4).log()
    )
    told = torch.cat([angles.cos(), angles.sin()], dim=1)
    hidden = told @ weights["linear_1.weight"].T + weights["linear_1.bias"]
    added = hidden * hidden.sigmoid() @ weights["linear_2.weight"].T + weights["linear_2.bias"]
    inputs: list[torch.Tensor] = []
    first = student.network.time_embedding.linear_1
    first.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    told_output = output(student, target_time=torch.tensor([199, 0]))
    with student.as_teacher():
        assert torch.equal(output(student), base)
    assert torch.allclose(inputs[0] - inputs[1], added, atol=1e-5)
    assert not torch.allclose(told_output, output(student, target_time=599), atol=1e-3)
    with pytest.raises(ValueError, match="no time was given"):
        output(student)


def test_an_embedder_comes_from_the_seed_and_its_first_step_moves_the_last_layer(model) -> None:
    made = [student_of(model, has_target_time=True, seed=seed).trainable() for seed in (5, 6)]
    assert not torch.equal(*(m["time_embedding.cond_proj.linear_1.weight"] for m in made))
    adapters = student_of(model, seed=5).trainable()
    assert all(torch.equal(made[0][name], value) for name, value in adapters.items())
    student = student_of(model, has_target_time=True)
    student(X, T, CONDITION, target_time=99).square().mean().backward()
    assert student.trainable()["time_embedding.cond_proj.linear_2.weight"].grad.any()


def test_an_embedder_beside_half_precision_is_float32(model) -> None:
    student = student_of(model, has_target_time=True, dtype="bfloat16")
    plain = load_denoiser(ModelSpec(str(model), device="cpu", dtype="bfloat16")).denoiser
    assert torch.equal(output(student, target_time=199), plain(X, T, CONDITION))
    train(student)(X, T, CONDITION, target_time=199).square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in student.trainable().values())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kind": "lokr"}, "neither"),
        ({"kind": "lora", "rank": 0}, "at least 1"),
    ],
)
def test_refuses_what_makes_no_sense(model, options, reason) -> None:
    denoiser = load_denoiser(ModelSpec(str(model), device="cpu")).denoiser
    with pytest.raises(ValueError, match=reason):
        make_student(denoiser, seed=0, **options)


@pytest.mark.parametrize("family", ["embedded", "sdxl", "sd15-plus"])
def test_every_adapter_is_outside_the_style_adapter(tmp_path, family) -> None:
    makers = {"embedded": save_tiny_embedded, "sd15-plus": save_tiny_sd15, "sdxl": save_tiny_sdxl}
    model = makers[family](tmp_path)
    if family != "embedded":
        add_style_adapter(model, plus=family.endswith("plus"))
    student = student_of(model, styles=True)
    adapted = {n.rpartition(".lora_")[0] for n in student.trainable()}
    assert not {n for n in adapted if "processor" in n or "encoder_hid_proj" in n}
    unet = load_denoiser(ModelSpec(str(model), device="cpu")).denoiser.network
    inside, wanted = dict(unet.named_modules()), set(lora_targets(unet))
    assert adapted == wanted
    # by the published list: every weight with one of these last names that plain diffusers' UNet has
    ends = {end for end in LORA_TARGETS if any(n.endswith(f".{end}") for n in wanted)}
    assert ends >= {"to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"}
    assert ends >= {"conv1", "conv2", "conv_shortcut", "time_emb_proj"}
    assert ends >= {"downsamplers.0.conv", "upsamplers.0.conv"}
    for n, module in inside.items():
        is_listed = n.endswith(tuple(f".{end}" for end in LORA_TARGETS)) and hasattr(module, "weight")
        is_style = n.startswith("encoder_hid_proj") or ".processor" in n
        assert (n in wanted) == (is_listed and not is_style)
