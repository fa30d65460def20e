"""What the settings of distillation do, at one budget: one command per sweep.

    export STDCLI_BENCH_BANK=banks/train STDCLI_BENCH_HELD=banks/held
    export STDCLI_BENCH_PHOTOS=photos STDCLI_BENCH_STYLES=art
    pytest tests/benchmarks/test_sweeps.py -s -k target
    ... -k policy       window against the paper's gamma (its figure 10), anchor
    ... -k weighting    jump weights, p_sched
    ... -k adversary    weight (figure 6) and the level of the real picture (table 3)
    ... -k online       the paper's bank, walked meanwhile, against the one on disk
    ... -k strengths    one student per strength (figure 8), each with banks of its own

Each variant is the preset distill/embedded with the settings shown, STDCLI_BENCH_STEPS training steps (100)
and the seed STDCLI_BENCH_SEED (0). Judged by the error against the teacher's whole path on held pairs
(lower is nearer) and, for the adversary, by palette and texture against the style picture (lower is nearer
to it) beside the teacher's own 20-step Euler result. An adversary is not expected to lower the error.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from tests.benchmarks.held import BANK, HELD, Held, build, say, train

STEPS = int(os.environ.get("STDCLI_BENCH_STEPS", "100"))
SEED = os.environ.get("STDCLI_BENCH_SEED", "0")
BASE = ("--preset", "distill/embedded", "--learning-rate", "3e-4", "--seed", SEED)
SWEEPS = {
    "target": {kind: [f"std.target={kind}"] for kind in ("teacher", "consistency", "mix")},
    "policy": {
        "window 6": [],
        "window 3": ["std.window=3"],
        "window 12": ["std.window=12"],
        **{f"gamma {g}": ["std.policy=proportional", f"std.gamma={g}"] for g in (0.3, 0.5, 0.7, 0.9)},
        "window 6, no anchor": ["std.anchor=false"],
    },
    "weighting": {
        "none, p_sched 0.7": [],
        "inverse-square": ["std.jump_weight=inverse-square"],
        "p_sched 0": ["std.p_sched=0"],
        "p_sched 0.9": ["std.p_sched=0.9"],
    },
    "adversary": {
        "weight 0": [],
        "weight 0.3, r < s": ["adversary.weight=0.3"],
        "weight 0.7, r < s": ["adversary.weight=0.7"],
        "weight 0.7, r = s": ["adversary.weight=0.7", "adversary.levels=xs"],
        "weight 0.7, r > s": ["adversary.weight=0.7", "adversary.levels=xs-xR"],
    },
}

pytestmark = [
    pytest.mark.timeout(4 * 3600),
    pytest.mark.skipif(not (BANK and HELD), reason="STDCLI_BENCH_BANK and STDCLI_BENCH_HELD name no banks"),
]


@pytest.fixture(scope="module")
def held() -> Held:
    return Held(HELD, fine=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    given = os.environ.get("STDCLI_BENCH_RUNS")
    return Path(given) if given else tmp_path_factory.mktemp("sweeps")


@pytest.mark.parametrize("name", SWEEPS)
def test_sweep(name, held, runs):
    say(f"{name}: {STEPS} training steps each")
    if name == "adversary":
        say(f"{'teacher, Euler of 20 steps':28} style distances {held.style_distances(held.stored)}")
    for variant, sets in SWEEPS[name].items():
        options = [word for one in sets for word in ("--set", one)]
        if name == "adversary":
            options += ["--set", "adversary.features=teacher"]
        folder = runs / f"{name} {variant}".replace(" ", "_")
        run = train(folder, *BASE, *options, steps=STEPS)
        styles = ""
        if name == "adversary":
            model = load_model(ModelSpec("embedded", dtype="float32", student=str(run)))
            styles = f" style distances {held.style_distances(held.student(model, 4))}"
        say(f"{variant:28} error {report(held, run, within=name != 'adversary')}{styles}")


def test_online(held, runs):
    same = [*BASE, "--target", "consistency"]
    paths = ["--set", f"paths.resolution={held.manifest.resolution_px}", "--set", "paths.split=train"]
    made = {
        "bank on disk": train(runs / "offline", *same, steps=STEPS),
        "online bank": train(runs / "online", *same, *paths, steps=STEPS, bank=None),
    }
    for name, run in made.items():
        say(f"{name:28} error {report(held, run)}")


def test_strengths(runs):
    sized = ("--resolution", "128", "--strength")
    for strength in ("0.5", "0.65", "0.75"):
        bank = build(runs / f"bank-{strength}", *sized, strength, "--split", "train", "--num-paths", "96")
        apart = build(runs / f"held-{strength}", *sized, strength, "--split", "held-out", "--num-paths", "24")
        held = Held(str(apart), fine=False)
        run = train(runs / f"strength-{strength}", *BASE, steps=STEPS, bank=str(bank))
        model = load_model(ModelSpec("embedded", dtype="float32", student=str(run)))
        say(f"strength {strength}: error {report(held, run)}; DDIM 4 steps {held.ddim_error(4):.5f}")
        say(f"    student {held.style_distances(held.student(model, 4))}")
        say(f"    teacher {held.style_distances(held.stored)}; sample {held.style_distances(held.x0)}")


def report(held: Held, run: Path, *, within: bool = True) -> str:
    """Latent errors of a student against the whole path; `within`: below those of two DDIM steps."""
    model = load_model(ModelSpec("embedded", dtype="float32", student=str(run)))
    errors = {k: held.errors(held.student(model, k), held.stored)["latent"] for k in (4, 8)}
    assert not within or errors[4] < held.ddim_error(2)
    return " ".join(f"{steps} steps {error:.5f}" for steps, error in errors.items())
