"""`stdcli bank`: a teacher's paths on disk, from which students learn without the teacher."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from stdcli.cli.options import (
    ConfigFile,
    Debug,
    Device,
    DryRun,
    Dtype,
    Json,
    Offline,
    PresetName,
    Quiet,
    Seed,
    Sets,
    Verbose,
    make_console,
)
from stdcli.cli.usage import make_group
from stdcli.config.load import resolve
from stdcli.config.pasting import pasted
from stdcli.config.quantities import parse_worker
from stdcli.errors import BankCorruptError, ConfigError

app = make_group("bank", "Keep a teacher's paths on disk, for students to learn from.")

Root = Annotated[Path, typer.Argument(metavar="BANK", help="Folder of the bank.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the new bank.")]
NumPaths = Annotated[int | None, typer.Option("--num-paths", metavar="N", min=1, help="Paths in all.")]
KeepLevels = Annotated[
    str | None,
    typer.Option("--keep-levels", metavar="IDS", help="Store these levels only, such as 37,28,19,9,0."),
]


@app.command()
def build(
    out: Out,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="DIR|FILE", help="Pictures and clips; may be repeated."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="The teacher. [default: embedded]")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option("--strength", metavar="X", help="Noise fraction where paths start, in (0, 1]."),
    ] = None,
    num_solver_steps: Annotated[
        int | None,
        typer.Option("--num-solver-steps", metavar="N", help="Rows of the level table. [default: 50]"),
    ] = None,
    solver: Annotated[str | None, typer.Option("--solver", metavar="NAME", help="ddim.")] = None,
    guidance_range: Annotated[
        str | None,
        typer.Option(
            "--guidance-range", metavar="A:B", help="Each path draws its guidance from here; 1 is off."
        ),
    ] = None,
    num_paths: NumPaths = None,
    prompts: Annotated[
        str | None,
        typer.Option("--prompts", metavar="FILE", help="none, sidecar, a .txt of prompts, or a .jsonl."),
    ] = None,
    style_data: Annotated[
        str | None,
        typer.Option(
            "--style-data", metavar="DIR", help="A style picture per path; self: a crop of the sample."
        ),
    ] = None,
    resolution: Annotated[
        int | None, typer.Option("--resolution", metavar="PX", help="Side of the square samples.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="all, train, or held-out: a tenth kept to measure on."),
    ] = None,
    keep_levels: KeepLevels = None,
    shard_size: Annotated[
        int | None, typer.Option("--shard-size", metavar="N", help="Paths per shard. [default: 64]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", help="Paths walked at once. [default: 8]")
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option("--max-bytes", metavar="SIZE", help="Largest bank, such as 20GB.")
    ] = None,
    worker: Annotated[
        str | None,
        typer.Option(
            "--worker", metavar="I/N", help="Build every N-th shard only, from the I-th on, 0-based."
        ),
    ] = None,
    strict: Annotated[
        bool | None, typer.Option("--strict", help="Fail on files that cannot be read.")
    ] = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    offline: Offline = None,
    preset: PresetName = None,
    config: ConfigFile = None,
    sets: Sets = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Walk the teacher's paths from your pictures and keep every state.

    The same command goes on with a build that was stopped, rebuilds damaged shards, and adds what is new.

    \b
    Examples:
      stdcli bank build --data photos/ --style-data art/ -o banks/art
      stdcli bank build --data photos/ --model ./sdxl --guidance-range 5:7 -o banks/sdxl
      stdcli bank build --config banks/art/run.json --worker 2/8 -o banks/art
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
    flags = {
        "data": data,
        "model": model,
        "strength": strength,
        "num_solver_steps": num_solver_steps,
        "solver": solver,
        "guidance_range": guidance_range,
        "num_paths": num_paths,
        "prompts": prompts,
        "style_data": style_data,
        "resolution": resolution,
        "split": split,
        "keep_levels": keep_levels,
        "shard_size": shard_size,
        "batch_size": batch_size,
        "max_bytes": max_bytes,
        "strict": strict,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "offline": offline,
    }
    resolved = resolve("bank", preset=preset, config_file=config, sets=sets or (), flags=flags)
    split = _worker(worker)
    from stdcli.rollout.build import build_bank

    built = build_bank(resolved.config, out=out, worker=split, console=console, dry_run=dry_run)
    speed = f", {built.built / built.seconds:.2f} paths per second" if built.built else ""
    owed = f"; {built.missing} shards are other workers'" if built.missing and not dry_run else ""
    message = (
        f"{out}: {built.built} paths built{speed}{owed}" if not dry_run else f"{out}: nothing built (dry run)"
    )
    console.result(
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


@app.command()
def info(
    root: Root,
    grid: Annotated[
        Path | None,
        typer.Option("--grid", metavar="PNG", help="Decode some paths into a picture, levels left to right."),
    ] = None,
    num_paths: Annotated[int, typer.Option("--paths", metavar="N", min=1, help="Paths in the picture.")] = 4,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Say what a bank holds.

    \b
    Examples:
      stdcli bank info banks/art
      stdcli bank info banks/art --grid paths.png
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
    from stdcli.bank.files import BankFiles
    from stdcli.bank.format import read_manifest
    from stdcli.bank.info import facts

    files = BankFiles(root)
    rows = facts(files, read_manifest(files))
    if grid is not None:
        from stdcli.rollout.grid import write_grid

        write_grid(root, grid, num_paths=num_paths, device=device or "auto")
        rows["grid"] = str(grid)
    console.table(("what", "value"), [(key, value) for key, value in rows.items()], path=root, **rows)


@app.command()
def verify(
    root: Root, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = False, debug: Debug = False
) -> None:
    """Read a whole bank and compare every hash; exit code 3 if anything is wrong.

    \b
    Examples:
      stdcli bank verify banks/art
      stdcli bank verify banks/art --json
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
    from stdcli.bank.files import BankFiles
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


@app.command()
def merge(
    sources: Annotated[list[Path], typer.Argument(metavar="BANK...", help="Banks of one kind.")],
    out: Out,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write one bank of all finished paths of several, each path once.

    \b
    Examples:
      stdcli bank merge banks/part-0 banks/part-1 -o banks/whole
      stdcli bank merge banks/photos banks/more -o banks/all
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
    from stdcli.bank.files import BankFiles
    from stdcli.bank.merge import merge as merge_banks

    with console.progress("shards") as progress:
        manifest = merge_banks(
            [BankFiles(root) for root in sources], BankFiles(out), advance=progress.advance
        )
    console.result(f"{out}: {manifest.num_paths} paths", path=out, paths=manifest.num_paths)


@app.command()
def prune(
    root: Root,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Write a smaller bank here; else only sweep up."),
    ] = None,
    num_paths: NumPaths = None,
    keep_levels: KeepLevels = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write a smaller bank; or, without --out, delete what killed builders left behind.

    \b
    Examples:
      stdcli bank prune banks/art --num-paths 1000 --keep-levels 37,28,19,9,0 -o banks/small
      stdcli bank prune banks/art
    """
    console = make_console(as_json, quiet, verbose=verbose, debug=debug)
    if out is None and (num_paths is not None or keep_levels is not None):
        raise ConfigError("a smaller bank needs a place", [("--out", "is missing")])
    levels = _levels(keep_levels)
    from stdcli.bank.files import BankFiles
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
