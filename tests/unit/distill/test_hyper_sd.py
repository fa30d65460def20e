"""Segments of the path by hand, and what a stage of them asks for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from stdcli.config.distill import DistillConfig
from stdcli.diffusion.levels import level_table
from stdcli.distill.adversarial_term import AdversarialTerm
from stdcli.distill.loss_terms import LossTerms
from stdcli.distill.methods.hyper_sd import HyperSd, segment_choices
from stdcli.distill.methods.tcd import Tcd
from stdcli.errors import ConfigError
from tests.tiny_methods import SD, START

TABLE = level_table(SD, 50)
EDGES = {8: (0, 4, 9, 13, 18, 23, 27, 32, 37), 4: (0, 9, 18, 27, 37), 2: (0, 18, 37), 1: (0, 37)}
"""floor(37 i / k), worked out by hand."""


def method(steps: int = 8, start_id: int = START, **section) -> HyperSd:
    config = DistillConfig(
        method="hyper-sd", bank="b", hyper_sd=section, train={"steps": steps, "warmup_steps": 0}
    )
    return HyperSd.from_settings(config, paths=SimpleNamespace(start_id=start_id), table=TABLE)


@pytest.mark.parametrize("count", EDGES)
def test_segments_by_hand(count) -> None:
    choices = segment_choices(START, count)
    assert list(choices) == list(range(1, 38)), "segments cover every level once"
    for low, high in zip(EDGES[count], EDGES[count][1:], strict=False):
        for j in range(low + 1, high + 1):
            assert choices[j] == tuple(s for s in range(37, -1, -1) if low <= s < j)


def test_one_segment_is_trajectory_consistency_distillation() -> None:
    config = DistillConfig(method="tcd", bank="b")
    tcd = Tcd.from_settings(config, paths=SimpleNamespace(start_id=START), table=TABLE)
    assert segment_choices(START, 1) == tcd.target_sampler.free


def test_the_ends_of_jumps_are_uniform_in_the_segment_of_the_stage() -> None:
    sampler = method().target_sampler
    assert [sampler.stages.bounds(k) for k in range(4)] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    position = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    draws = torch.stack([position, position], dim=1)
    for stage, low in enumerate((23, 18, 18, 0)):  # below j = 26
        drawn = sampler.of_stage(stage).select(torch.full((1000,), 26), draws)
        counts = drawn.bincount(minlength=26)
        assert counts[:low].sum() == 0 and counts.sum() == 1000
        assert counts[low:].max() - counts[low:].min() <= 1, "every end alike"


def test_the_adversarys_weight_rises_by_stage(monkeypatch) -> None:
    given = {"adversary": None, "variant": "xs-xr", "start_step": 0}
    term = AdversarialTerm(weight=0.8, learning_rate=1e-4, schedule=SD, table=TABLE, seed=0, **given)
    terms, seen = LossTerms(START, adversarial=term), []

    def note(self, *args, step, **more):
        seen.append(None if self.adversarial is None else self.adversarial.weight)
        yield from ()

    monkeypatch.setattr(LossTerms, "losses", note)
    monkeypatch.setattr(HyperSd, "predict", lambda *args: None)
    monkeypatch.setattr(HyperSd, "target", lambda *args: None)
    for step in range(8):
        list(method().losses(None, terms, None, step))
    assert seen == pytest.approx([0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8])
    list(method().losses(None, LossTerms(START), None, 0))
    assert seen[-1] is None and terms.adversarial.weight == 0.8


def test_more_segments_than_levels_are_refused_with_those_that_fit() -> None:
    with pytest.raises(ConfigError) as told:
        method(start_id=6)
    assert told.value.problems == [("hyper_sd.segments", "8 segments do not fit in 6 levels")]
    assert told.value.hint == "--set hyper_sd.segments=4,2,1"
    assert method(start_id=6, segments=[4, 2, 1], shares=[0.5, 0.25, 0.25]).stages.firsts == (0, 4, 6)
