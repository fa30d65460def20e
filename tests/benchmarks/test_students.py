"""Students against teacher and LCM: how far from the teacher's whole path they end, on pairs not trained on.

    STDCLI_BENCH_BANK=banks/train STDCLI_BENCH_HELD=banks/held pytest tests/benchmarks/test_students.py -s

Both banks are of the embedded model and of one guidance; the second's pictures are not in the first
(`stdcli bank build --split train`, `--split held-out`). STDCLI_BENCH_STEPS is the budget in training steps
(200), STDCLI_BENCH_RUNS a folder where students are kept for the next time.

Errors are root mean squares over all held paths: of latents; of pixels in [0, 1]; and of the style encoder's
vector of the decoded picture, relative to its length, which no training looks at. References are the stored
end of the 50-step solver's path and the end of a 500-step one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from tests.benchmarks.held import BANK, HELD, Held, make_train_step, median_seconds, say, train

STEPS = int(os.environ.get("STDCLI_BENCH_STEPS", "200"))
KS = (2, 4, 6, 8)

pytestmark = [
    pytest.mark.timeout(4 * 3600),
    pytest.mark.skipif(not (BANK and HELD), reason="STDCLI_BENCH_BANK and STDCLI_BENCH_HELD name no banks"),
]


@pytest.fixture(scope="module")
def held() -> Held:
    return Held(HELD)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    given = os.environ.get("STDCLI_BENCH_RUNS")
    return Path(given) if given else tmp_path_factory.mktemp("runs")


def report(held: Held, name: str, walk: Callable[[int], Tensor], *, forwards: int) -> dict[int, float]:
    """Print the errors at every K; latent errors against the stored end."""
    found = {}
    for steps in KS:
        ends = walk(steps)
        to_stored, to_fine = held.errors(ends, held.stored), held.errors(ends, held.fine)
        found[steps] = to_stored["latent"]
        values = " ".join(f"{kind} {to_stored[kind]:.5f} / {to_fine[kind]:.5f}" for kind in to_stored)
        say(f"{name}, {steps} steps, {steps * forwards} forwards: {values}")
    return found


def test_students_end_near_the_teachers_path(held, runs):
    began_s = time.perf_counter()
    std = train(runs / "std", "--preset", "distill/embedded", "--learning-rate", "3e-4", steps=STEPS)
    lcm = train(runs / "lcm-steps", "--preset", "distill/lcm", "--learning-rate", "3e-4", steps=STEPS)
    seconds = median_seconds({name: make_train_step(name, []) for name in ("embedded", "lcm")}, 5)
    fewer = max(2, math.floor(STEPS * seconds["embedded"] / seconds["lcm"]))
    quick = train(runs / f"lcm-{fewer}", "--preset", "distill/lcm", "--learning-rate", "3e-4", steps=fewer)
    say(
        f"std {STEPS} steps of {seconds['embedded']:.2f} s, lcm {STEPS} and {fewer} of {seconds['lcm']:.2f} s"
    )
    guided = 2 if held.is_guided else 1
    found = {"ddim": report(held, "teacher, DDIM", held.ddim, forwards=guided)}
    report(held, "teacher, DPM++ 2M", held.dpm, forwards=guided)
    if guided == 2:
        half = {steps: held.errors(held.ddim(steps // 2), held.stored)["latent"] for steps in KS}
        say("teacher, DDIM at equal forwards: " + " ".join(f"{k} {v:.5f}" for k, v in half.items()))
        dpm = {steps: held.errors(held.dpm(steps // 2), held.stored)["latent"] for steps in KS}
        say("teacher, DPM++ 2M at equal forwards: " + " ".join(f"{k} {v:.5f}" for k, v in dpm.items()))
        found["ddim"] = half
    for name, run in (("std", std), ("lcm, equal steps", lcm), ("lcm, equal seconds", quick)):
        model = load_model(ModelSpec("embedded", dtype="float32", student=str(run)))
        found[name] = report(held, name, lambda steps, model=model: held.student(model, steps), forwards=1)
    say(f"{(time.perf_counter() - began_s) / 60:.0f} minutes")
    for steps in (4, 6, 8):
        others = [errors[steps] for name, errors in found.items() if name != "std"]
        assert found["std"][steps] < min(others), f"{steps} steps"
