"""DMD2's real score: the teacher, or the base with a share of the fake score's adapters."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stdcli.diffusion.levels import level_table, pick_levels
from stdcli.diffusion.predictions import PredictionType
from stdcli.distill.roles import Roles
from tests.tiny_methods import SD
from tests.tiny_models import save_tiny_embedded
from tests.tiny_students import condition_for, latents_for, student_of, train

X, CONDITION = latents_for("embedded"), condition_for("embedded")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_embedded(tmp_path_factory.mktemp("embedded"))


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_real_score_takes_a_share_of_other_adapters(model, guidance) -> None:
    """W + a B A, by a second student whose matrices B are a times as large."""
    student, other = train(student_of(model)), train(student_of(model), seed=4)
    roles = Roles(student, PredictionType.EPSILON, SD, torch.device("cpu"), autocast=nullcontext)
    roles.weights["fake"] = {name: value.detach().clone() for name, value in other.trainable().items()}
    level, scale = (
        pick_levels(level_table(SD, 50), torch.full((len(X),), 20)),
        torch.full((len(X),), guidance),
    )
    uncond = replace(CONDITION, encoder_hidden_states=-CONDITION.encoder_hidden_states)
    with torch.no_grad():
        for name, value in other.trainable().items():
            if "lora_B" in name:
                value.mul_(0.3)
        without = other(X, level.t, uncond)
        expected = without + guidance * (other(X, level.t, CONDITION) - without)
    told = {"guidance": scale.double(), "towards": "fake"}
    found = roles.teacher(X, level, CONDITION, uncond, **told, share=0.3)
    torch.testing.assert_close(found.eps, expected, rtol=0, atol=1e-5)
    base = roles.teacher(X, level, CONDITION, uncond, guidance=scale.double())
    assert torch.equal(roles.teacher(X, level, CONDITION, uncond, **told).eps, base.eps)
    assert (found.eps - base.eps).abs().max() > 1e-3
