"""Short runs of every method by the real command: their settings, and the losses that they had once.

`python -m tests.tiny_method_runs` writes those of methods that have none yet. A change that moves the others
is one of numerics, to be told in the changelog; delete their rows first.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.tiny_runs import Bench, distill, reports

GOLDEN = Path(__file__).parent / "golden/method_losses.json"
STEPS = 20
JUDGED = {"adversary__weight": 0.5, "adversary__features": "teacher"}
PUSHED = JUDGED | {"adversary__levels": "xq-xq", "adversary__real": "target"}
METHODS: dict[str, dict[str, Any]] = {
    "std": {"std__window": 12},
    "dmd2": {"dmd2__every": 2, **JUDGED},
    "flow-map": {},
    "hyper-sd": {"hyper_sd__segments": "2,1"},
    "lcm": {"std__target_weights": "average"},
    "lightning": {"lightning__counts": "2,1", "step_counts": "1", "steps": 1},
    "mcm": {"std__target_weights": "average"},
    "pcm": {"pcm__phases": 2, "std__target_weights": "average", **PUSHED},
    "tcd": {"std__target_weights": "average"},
    "tdd": {"step_counts": "2,3,4"},
}
"""Method -> what its run is told; every method of the package stands here."""

# a low rate: what rounding does to the sign of a vanishing gradient, Adam makes a whole step of
SHARED = {"std__window": "null", "train__learning_rate": 1e-4, "train__log_every": 1}


def train(name: str, bench: Bench, out: Path, **more: Any) -> int:
    """Run the command for a method; its exit code."""
    told = SHARED | {"train__steps": STEPS, "train__checkpoint_every": 5} | METHODS[name] | more
    return distill(out, "--bank", bench.bank(), "--method", name, "--quiet", **told)


def losses_of(run: Path) -> dict[str, list[float | None]]:
    """Every loss of a run, step by step; None in steps that had none."""
    rows = reports(run)
    names = sorted({key for row in rows for key in row if key.startswith("loss/") and "level_" not in key})
    return {name: [row.get(name) and float(f"{row[name]:.7g}") for row in rows] for name in names}


def main() -> None:
    """Write what is missing."""
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "bench")
        for name in METHODS:
            if name not in known:
                out = Path(folder) / name
                assert train(name, bench, out) == 0
                known[name] = losses_of(out)
    lines = (f" {json.dumps(name)}: {json.dumps(known[name])}" for name in sorted(known))
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
