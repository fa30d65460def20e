"""Whether this tree computes what another commit computes, bit for bit: the same commands in both, compared.

    python -m tests.golden.unmoved REV [--only NAME ...] [--keep DIR]

checks REV out into a worktree for the time, runs the jobs of `tests.golden.jobs` in both, each tree in one
process with one thread, and prints for each job `same` or what differs. Exit code 1 where anything does. Two
minutes on two cores; --keep leaves inputs and results in DIR.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.golden.differences import differences
from tests.golden.inputs import make_inputs
from tests.golden.jobs import JOBS, broken_commands
from tests.hub_server import TOKEN, HubServer, running_hub

ROOT = Path(__file__).parents[2]
SIDES = ("before", "latest")  # names of one length, so that a path in a file moves nothing
SHOWN = 12  # differences of a job that are printed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.unmoved", description="See the module.")
    parser.add_argument("rev", help="commit to compare this tree with")
    parser.add_argument(
        "--only", nargs="+", choices=JOBS, default=[*JOBS], metavar="NAME", help=", ".join(JOBS)
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="an empty or new folder")
    told = parser.parse_args(argv)
    with contextlib.ExitStack() as stack:
        folder = told.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unmoved-")))
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            parser.error(f"{folder} is not empty")
        make_inputs(folder / "inputs")
        before = stack.enter_context(_checked_out(told.rev))
        _run_both((before, ROOT), folder.resolve(), told.only)
        return _report(folder.resolve(), told.only)


@contextlib.contextmanager
def _checked_out(rev: str) -> Iterator[Path]:
    """A worktree of a commit, for as long as it lasts."""
    with tempfile.TemporaryDirectory(prefix="unmoved-tree-") as parent:
        tree = Path(parent) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(tree), rev], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def _run_both(trees: tuple[Path, Path], folder: Path, names: list[str]) -> None:
    """Run the jobs of both trees at once, each beside a Hub of its own."""
    with contextlib.ExitStack() as stack:
        hubs = [stack.enter_context(running_hub()) for _ in SIDES]
        runs = [
            _start(tree, folder / side, hub, names)
            for tree, side, hub in zip(trees, SIDES, hubs, strict=True)
        ]
        codes = [run.wait() for run in runs]
        for side, code, hub, tree in zip(SIDES, codes, hubs, trees, strict=True):
            if code:
                raise SystemExit(
                    f"{side}: the jobs broke down\n{(folder / f'{side}.log').read_text()[-4000:]}"
                )
            _keep_repositories(hub, folder / side / "hub")
            shutil.copy(tree / "tests/golden/flags.json", folder / side)


def _start(tree: Path, folder: Path, hub: HubServer, names: list[str]) -> subprocess.Popen[bytes]:
    home = folder.with_name(f"{folder.name}-home")
    home.mkdir()
    (home / "token").write_text(TOKEN)
    folder.mkdir()
    unset = ("HF_", "HUGGINGFACE_", "STDCLI_", "XDG_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(unset)}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    own |= {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NO_COLOR": "1"}
    with folder.with_name(f"{folder.name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("jobs.py")), *names],
            cwd=folder,
            env=kept | own | {"COLUMNS": "80", "TERM": "dumb"},
            stderr=log,
            stdout=log,
        )


def _keep_repositories(hub: HubServer, folder: Path) -> None:
    """Write what was pushed beside the results of the job `hub`, so that it is compared with them."""
    for name, repo in hub.repos.items():
        for file, data in repo.files.items():
            path = folder.joinpath("pushed", *name, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.replace(hub.url.encode(), b"HUB"))


def _report(folder: Path, names: list[str]) -> int:
    """Print what differs; 1 if anything does, or if a command did not end as it should in either tree."""
    found = list(differences(*(folder / side for side in SIDES)))
    moved = False
    for name in (*names, "flags.json"):
        lines = [line for line in found if line.startswith((f"{name}/", f"{name}:"))]
        lines += [f"{side}: {line}" for side in SIDES for line in broken_commands(folder / side / name)]
        sys.stdout.write(f"{name}: {'differs' if lines else 'same'}\n")
        sys.stdout.writelines(f"  {line}\n" for line in lines[:SHOWN])
        if len(lines) > SHOWN:
            sys.stdout.write(f"  and {len(lines) - SHOWN} more\n")
        moved |= bool(lines)
    return int(moved)


if __name__ == "__main__":
    sys.exit(main())
