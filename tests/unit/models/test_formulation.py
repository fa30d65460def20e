"""Schedulers of folders: those of other formulations are refused by name, the usual ones are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

from stdcli.diffusion.predictions import PredictionType
from stdcli.errors import ModelError
from stdcli.models.formulation import check_scheduler
from stdcli.models.load import load_denoiser
from stdcli.models.spec import ModelSpec
from stdcli.models.weights import is_finite
from tests.tiny_models import save_tiny_sdxl

COSXL = {"sigma_min": 0.002, "sigma_max": 120.0, "sigma_data": 1.0, "prediction_type": "v_prediction"}


@pytest.mark.parametrize(
    "scheduler",
    [
        EDMEulerScheduler(**COSXL),
        EDMDPMSolverMultistepScheduler(**COSXL),
        EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"),
        EulerDiscreteScheduler(sigma_min=0.002, sigma_max=120.0),
    ],
)
def test_another_formulation_is_named(scheduler) -> None:
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    with pytest.raises(ModelError, match="EDM") as caught:
        check_scheduler(config, Path("m"))
    assert type(scheduler).__name__ in caught.value.got and caught.value.where == "m"


@pytest.mark.parametrize("scheduler", [DDIMScheduler(), EulerDiscreteScheduler(), LCMScheduler()])
def test_the_usual_ones_are_taken(scheduler) -> None:
    check_scheduler({**scheduler.config, "_class_name": type(scheduler).__name__}, Path("m"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_one_value_that_is_none_is_found_anywhere(dtype) -> None:
    values = torch.linspace(-1, 1, 99).to(dtype).reshape(9, 11)
    assert is_finite(values) and is_finite(values[:0]) and is_finite(torch.arange(3))
    for bad in (torch.nan, torch.inf, -torch.inf):
        for place in (0, 49, 98):
            broken = values.clone()
            broken.view(-1)[place] = bad
            assert not is_finite(broken)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return save_tiny_sdxl(tmp_path_factory.mktemp("m") / "m")


def give(folder: Path, scheduler) -> str:
    """Make it the scheduler of a model's folder."""
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return str(folder)


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"),
    ],
)
def test_a_folder_of_a_flow_model_loads_as_one(tiny, scheduler) -> None:
    network = load_denoiser(ModelSpec(give(tiny, scheduler), device="cpu"))
    assert (network.schedule.kind, network.prediction) == ("flow", PredictionType.FLOW)
    assert network.schedule.sigmas[500].item() == pytest.approx(0.75)


@pytest.mark.parametrize("kind", [EDMEulerScheduler])
def test_a_folder_with_such_a_scheduler_is_refused(tiny, kind: type) -> None:
    folder = Path(give(tiny, kind()))
    with pytest.raises(ModelError, match="formulation that is not sampled here") as caught:
        load_denoiser(ModelSpec(str(folder), device="cpu"))
    assert kind.__name__ in caught.value.got


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits_are_looked_at_too(dtype: torch.dtype) -> None:
    assert is_finite(torch.ones(3).to(dtype))
    assert not is_finite(torch.tensor([1.0, float("nan")]).to(dtype))
