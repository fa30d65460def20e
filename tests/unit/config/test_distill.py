"""Settings of distillation that contradict each other, and what an online bank is told."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from stdcli.config.distill import DistillConfig


def test_defaults() -> None:
    config = DistillConfig()
    std = config.std
    assert (config.method, std.target, std.policy, std.window, std.p_sched) == (
        "std",
        "teacher",
        "window",
        None,
        0.5,
    )
    assert std.anchor and std.jump_weight == "none" and config.step_counts == (2, 4, 6, 8)
    assert (config.student.kind, config.student.rank, config.adversary.weight) == ("lora", 32, 0)


def test_an_online_bank_is_told_what_the_run_is() -> None:
    run = {"model": "there", "device": "cpu", "dtype": "float32", "seed": 4, "offline": True}
    paths = {"data": ["photos"], "seed": 1}
    config = DistillConfig(**run, paths=paths, std={"target": "consistency"})
    walked = config.rollout_config()
    assert (walked.model, walked.device, walked.dtype, walked.seed) == ("there", "cpu", "float32", 4)
    assert walked.offline and walked.data == ("photos",) and walked.base is None
    assert DistillConfig(paths={"model": "own"}).rollout_config().model == "own"


ONLINE = {"paths": {"data": ["photos"]}, "std": {"target": "consistency"}}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 3}, "steps: 3 is not among step_counts"),
        ({"method": "lcm", "student": {"kind": "full", "s_embedding": True}}, "student.s_embedding: belongs"),
        (
            {"method": "flow-map", "paths": {"data": ["photos"]}},
            "bank: method flow-map needs one: only stored paths know",
        ),
        ({"method": "flow-map", "std": {"window": 3}}, "std.window: belongs to method std"),
        ({"adversary": {"weight": 1, "real": "style"}}, "style_data: is needed"),
        ({"train": {"steps": 5, "warmup_steps": 5}}, "warmup_steps: 5 leaves nothing of 5 steps"),
        ({"paths": {"data": ["photos"]}}, "bank: target teacher needs one"),
        (ONLINE | {"method": "lcm"}, "bank: method lcm needs one"),
        (
            ONLINE | {"adversary": {"weight": 1, "real": "path-end"}},
            "bank: adversary.real path-end needs one",
        ),
        (
            ONLINE | {"adversary": {"weight": 1, "real": "style"}, "style_data": "art"},
            r"paths\.style_data: is needed for adversary.real style; --style-data FOLDER",
        ),
        (
            ONLINE
            | {"adversary": {"weight": 1, "real": "style"}}
            | {"paths": {"data": ["photos"], "style_data": "self"}},
            r"paths\.style_data: self takes crops of the samples",
        ),
        (ONLINE | {"online": {"slots": 4}}, "online.slots: 4 are fewer than a batch of 8"),
    ],
)
def test_contradictions_are_named(settings: dict, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        DistillConfig(**settings)


@pytest.mark.parametrize("more", [{}, {"weight": 0}])
def test_an_online_adversary_takes_style_pictures(more: dict) -> None:
    paths = {"data": ["photos"], "style_data": None if more else "art"}
    DistillConfig(**(ONLINE | {"paths": paths}), adversary={"weight": 1, "real": "style"} | more)
    DistillConfig(bank="b", style_data="art", adversary={"weight": 1, "real": "style"} | more)


def test_a_bank_beside_pictures_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"paths\.data: is not used beside a bank"):
        DistillConfig(bank="a", paths={"data": ["b"]})


@pytest.mark.parametrize(
    ("size", "fits"), [(7, True), (8, True), (9, False), (10, True), (16, True), (17, False)]
)
def test_local_batches_must_divide(size: int, fits: bool) -> None:
    values = {"adversary": {"weight": 0.1, "norm": "local-batch"}, "train": {"batch_size": size}}
    if fits:
        DistillConfig(**values)
    else:
        with pytest.raises(ValidationError, match=f"{size} does not divide"):
            DistillConfig(**values)


def test_full_weights_are_walked_with_in_float32() -> None:
    config = DistillConfig(dtype="bfloat16", student={"kind": "full"}, paths={"keep_levels": (5, 0)})
    assert (config.rollout_config().dtype, config.rollout_config().keep_levels) == ("float32", None)
    assert DistillConfig(dtype="bfloat16").rollout_config().dtype == "bfloat16"


def test_lcm_refuses_what_it_would_not_use() -> None:
    DistillConfig(method="lcm", std={"target_weights": "average", "target_decay": 0.9})
    with pytest.raises(ValidationError, match=r"std\.target: belongs to method std.*std\.window: belongs"):
        DistillConfig(method="lcm", std={"target": "mix", "window": 3})
