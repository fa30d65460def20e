"""`stdcli bank`: a teacher's paths on disk, from which students learn without the teacher."""

from __future__ import annotations

import os
from pathlib import Path

from stdcli.cli.command import REQUIRED, Call, argument, command, option, setting
from stdcli.cli.options import shared
from stdcli.cli.usage import make_group
from stdcli.config.pasting import pasted
from stdcli.config.quantities import parse_worker
from stdcli.errors import BankCorruptError, ConfigError

ROOT = argument("root", Path, "BANK", "Folder of the bank.")
OUT = option("--out", Path, "DIR", "Folder of the new bank.", short="-o", default=REQUIRED)
NUM_PATHS = setting("--num-paths", int, "N", "Paths in all.", min=1)
KEEP_LEVELS = setting("--keep-levels", str, "IDS", "Store these levels only, such as 37,28,19,9,0.")


@command(
    OUT,
    setting("--data", list[str], "DIR|FILE", "Pictures and clips; may be repeated."),
    setting("--model", str, "NAME", "The teacher. [default: embedded]"),
    setting("--strength", float, "X", "Noise fraction where paths start, in (0, 1]."),
    setting("--num-solver-steps", int, "N", "Rows of the level table. [default: 50]"),
    setting("--solver", str, "NAME", "ddim."),
    setting("--guidance-range", str, "A:B", "Each path draws its guidance from here; 1 is off."),
    NUM_PATHS,
    setting("--prompts", str, "FILE", "none, sidecar, a .txt of prompts, or a .jsonl."),
    setting("--style-data", str, "DIR", "A style picture per path; self: a crop of the sample."),
    setting("--resolution", int, "PX", "Side of the square samples."),
    setting("--split", str, "NAME", "all, train, or held-out: a tenth kept to measure on."),
    KEEP_LEVELS,
    setting("--shard-size", int, "N", "Paths per shard. [default: 64]"),
    setting("--batch-size", int, "N", "Paths walked at once. [default: 8]"),
    setting("--max-bytes", str, "SIZE", "Largest bank, such as 20GB."),
    option("--worker", str, "I/N", "Build every N-th shard only, from the I-th on, 0-based."),
    setting("--strict", bool, None, "Fail on files that cannot be read."),
    *shared("seed device dtype offline preset config set dry_run"),
)
def build(call: Call, *, out: Path, worker: str | None, dry_run: bool) -> None:
    """Walk the teacher's paths from your pictures and keep every state.

    The same command goes on with a build that was stopped, rebuilds damaged shards, and adds what is new.

    \b
    Examples:
      stdcli bank build --data photos/ --style-data art/ -o banks/art
      stdcli bank build --data photos/ --model ./sdxl --guidance-range 5:7 -o banks/sdxl
      stdcli bank build --config banks/art/run.json --worker 2/8 -o banks/art
    """
    config = call.resolve("bank").config
    split = _worker(worker)
    from stdcli.rollout.build import build_bank

    built = build_bank(config, out=out, worker=split, console=call.console, dry_run=dry_run)
    speed = f", {built.built / built.seconds:.2f} paths per second" if built.built else ""
    owed = f"; {built.missing} shards are other workers'" if built.missing and not dry_run else ""
    message = (
        f"{out}: {built.built} paths built{speed}{owed}" if not dry_run else f"{out}: nothing built (dry run)"
    )
    call.console.result(
        message,
        path=out,
        dry_run=dry_run,
        state=built.manifest.state,
        paths=built.manifest.num_paths,
        built=built.built,
        missing_shards=built.missing,
        bytes_per_path=built.cost.path_bytes,
        total_bytes=built.cost.total_bytes,
        forwards_per_path=built.cost.forwards,
        seconds=round(built.seconds, 3),
    )


def _worker(text: str | None) -> tuple[int, int]:
    """--worker, or else the rank that accelerate or torchrun gave this process."""
    if text is None:
        text = f"{os.environ.get('RANK', '0')}/{os.environ.get('WORLD_SIZE', '1')}"
    try:
        return parse_worker(text)
    except ValueError as error:
        raise ConfigError("no such worker", [("--worker", str(error))]) from error


@command(
    ROOT,
    option("--grid", Path, "PNG", "Decode some paths into a picture, levels left to right."),
    option("--paths", int, "N", "Paths in the picture.", default=4, min=1),
    *shared("device"),
)
def info(call: Call, *, root: Path, grid: Path | None, paths: int) -> None:
    """Say what a bank holds.

    \b
    Examples:
      stdcli bank info banks/art
      stdcli bank info banks/art --grid paths.png
    """
    from stdcli.bank.bank_files import BankFiles
    from stdcli.bank.format import read_manifest
    from stdcli.bank.info import bank_metadata

    files = BankFiles(root)
    rows = bank_metadata(files, read_manifest(files))
    if grid is not None:
        from stdcli.rollout.path_grid import write_grid

        write_grid(root, grid, num_paths=paths, device=call.flags["device"] or "auto")
        rows["grid"] = str(grid)
    call.console.table(("what", "value"), [(key, value) for key, value in rows.items()], path=root, **rows)


@command(ROOT)
def verify(call: Call, *, root: Path) -> None:
    """Read a whole bank and compare every hash; exit code 3 if anything is wrong.

    \b
    Examples:
      stdcli bank verify banks/art
      stdcli bank verify banks/art --json
    """
    console = call.console
    from stdcli.bank.bank_files import BankFiles
    from stdcli.bank.format import read_manifest, repair
    from stdcli.bank.verify import unplanned
    from stdcli.bank.verify import verify as find_problems

    files = BankFiles(root)
    manifest = read_manifest(files)
    with console.progress("shards", manifest.num_shards) as progress:
        problems = find_problems(files, manifest, advance=progress.advance)
    if problems:
        for problem in problems:
            console.warning(f"{problem.name}: {problem.what}")
        is_litter = {problem.name for problem in problems} <= set(unplanned(files, manifest))
        raise BankCorruptError(
            "the bank is not whole",
            where=root,
            got=f"{len(problems)} problems, the first in {problems[0].name}: {problems[0].what}",
            hint=f"stdcli bank prune {pasted(root)}" if is_litter else repair(files),
        )
    console.result(
        f"{root}: {manifest.num_paths} paths in {manifest.num_shards} shards, all whole",
        path=root,
        paths=manifest.num_paths,
        shards=manifest.num_shards,
    )


@command(argument("sources", list[Path], "BANK...", "Banks of one kind."), OUT)
def merge(call: Call, *, sources: list[Path], out: Path) -> None:
    """Write one bank of all finished paths of several, each path once.

    \b
    Examples:
      stdcli bank merge banks/part-0 banks/part-1 -o banks/whole
      stdcli bank merge banks/photos banks/more -o banks/all
    """
    console = call.console
    from stdcli.bank.bank_files import BankFiles
    from stdcli.bank.merge_banks import merge as merge_banks

    with console.progress("shards") as progress:
        manifest = merge_banks(
            [BankFiles(root) for root in sources], BankFiles(out), advance=progress.advance
        )
    console.result(f"{out}: {manifest.num_paths} paths", path=out, paths=manifest.num_paths)


@command(
    ROOT,
    option("--out", Path, "DIR", "Write a smaller bank here; else only sweep up.", short="-o"),
    NUM_PATHS,
    KEEP_LEVELS,
)
def prune(call: Call, *, root: Path, out: Path | None) -> None:
    """Write a smaller bank; or, without --out, delete what killed builders left behind.

    \b
    Examples:
      stdcli bank prune banks/art --num-paths 1000 --keep-levels 37,28,19,9,0 -o banks/small
      stdcli bank prune banks/art
    """
    console = call.console
    num_paths, keep_levels = call.flags["num_paths"], call.flags["keep_levels"]
    if out is None and (num_paths is not None or keep_levels is not None):
        raise ConfigError("a smaller bank needs a place", [("--out", "is missing")])
    levels = _levels(keep_levels)
    from stdcli.bank.bank_files import BankFiles
    from stdcli.bank.prune import prune as write_smaller
    from stdcli.bank.prune import sweep

    if out is None:
        freed = sweep(BankFiles(root))
        console.result(f"{root}: {freed} bytes freed", path=root, freed_bytes=freed)
        return
    options = {"num_paths": num_paths, "keep_levels": levels}
    with console.progress("shards") as progress:
        manifest = write_smaller(BankFiles(root), BankFiles(out), **options, advance=progress.advance)
    console.result(f"{out}: {manifest.num_paths} paths", path=out, paths=manifest.num_paths)


def _levels(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError("not level ids", [("--keep-levels", f"{text!r} is not like 37,28,0")]) from error


GROUP = make_group(
    "bank",
    "Keep a teacher's paths on disk, for students to learn from.",
    {"build": build, "info": info, "verify": verify, "merge": merge, "prune": prune},
)
