"""What a training step costs: STD from a bank, LCM with a live teacher, STD without a bank.

    STDCLI_BENCH_BANK=banks/guided pytest tests/benchmarks/test_distill_cost.py -s

Seconds are medians of steps taken in turns, in one process; memory is the peak of a process of its own. The
same LoRA, batch and bank for all. Without a bank the teacher walks every item of a batch from the start to
its level, and each no further than it needs. Ratios are to the step of the ordinary kind (LCM).
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from stdcli.bank.reader import Bank
from stdcli.diffusion.levels import level_table, pick_levels
from stdcli.diffusion.solvers import jump
from stdcli.models.condition import Condition
from tests.benchmarks.held import BANK, make_train_step, median_seconds, say

ROUNDS = 7
KINDS = {
    "lcm": ("lcm", []),
    "std teacher": ("std-offline", []),
    "std consistency": ("std-offline", ["std.target=consistency"]),
    "std teacher, adversary": ("std-offline", ["adversary.weight=0.3", "adversary.features=teacher"]),
}

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not BANK, reason="STDCLI_BENCH_BANK names no bank"),
]


class WithoutBank:
    """The same batches, but for their states and next states, which the teacher walks to anew."""

    def __init__(self, training) -> None:
        self.inner, self.roles = training.task.source, training.roles
        self.bank = Bank(BANK)
        self.table = level_table(training.network.schedule, self.bank.manifest.num_solver_steps)

    @torch.no_grad()
    def batch(self, number: int):
        made = self.inner.batch(number)
        start = self.bank.level_ids[0]
        x = made.states.clone()
        after = torch.empty_like(x)
        for id_ in range(start, 0, -1):
            todo = torch.nonzero(made.level_ids <= id_).flatten()
            if not len(todo):
                continue
            level, lower = (pick_levels(self.table, torch.full_like(todo, k)) for k in (id_, id_ - 1))
            cond, uncond = (_rows(side, todo) for side in (made.cond, made.uncond))
            denoised = self.roles.teacher(x[todo], level, cond, uncond, guidance=made.guidance[todo])
            moved = jump(x[todo], denoised, from_level=level, to_level=lower)
            last = made.level_ids[todo] == id_
            after[todo[last]] = moved[last]
            x[todo[~last]] = moved[~last]
        return replace(made, states=x, next_states=after)


def _rows(condition: Condition, which: torch.Tensor) -> Condition:
    return Condition.from_tensors({name: value[which] for name, value in condition.tensors().items()})


def test_seconds_per_step():
    steps_of = {name: make_train_step(*kind) for name, kind in KINDS.items()}
    steps_of["std without a bank"] = make_train_step(*KINDS["std consistency"])
    bankless = steps_of["std without a bank"].training.task
    bankless.source = WithoutBank(steps_of["std without a bank"].training)
    medians = median_seconds(steps_of, ROUNDS)
    for name, value in medians.items():
        say(f"{name}: {value:.2f} s, {value / medians['lcm']:.2f} of lcm's")
    say(f"without a bank: {medians['std without a bank'] / medians['std consistency']:.1f} times as long")
    assert medians["std teacher"] <= 0.55 * medians["lcm"]
    assert medians["std consistency"] <= 0.75 * medians["lcm"]


def test_memory(tmp_path):
    peaks = {}
    for name, (preset, sets) in KINDS.items():
        command = [sys.executable, "-m", "stdcli", "distill", "--preset", preset, "--bank", BANK, "--json"]
        command += ["--dry-run", "-o", str(tmp_path / "run"), "--dtype", "float32"]
        command += [word for one in sets for word in ("--set", one)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[name] = json.loads(done.stdout)["memory_bytes"]
        say(f"{name}: peak {peaks[name] / 2**20:.0f} MiB")
    assert peaks["std teacher"] <= peaks["lcm"]
