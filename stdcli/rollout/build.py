"""`stdcli bank build`: find the data, load the teacher, plan, say what it takes, have the shards built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from stdcli.bank.files import BankFiles
from stdcli.bank.format import (
    MANIFEST,
    SAMPLES,
    Manifest,
    check_same,
    read_manifest,
)
from stdcli.config.bank import SELF, BankConfig
from stdcli.config.quantities import read_bytes
from stdcli.console import Console
from stdcli.errors import (
    BankCorruptError,
    BankError,
    BankMismatchError,
    ConfigError,
    MediaError,
)
from stdcli.models.bundle import Bundle
from stdcli.models.load import load_model
from stdcli.rollout.data import File, Found, find_files, read_prompts
from stdcli.rollout.plan import (
    Cost,
    describe,
    estimate,
    guidance_range,
    plan_path,
)
from stdcli.rollout.samples import Pictures, Sample, draw_samples, make_sample
from stdcli.rollout.shards import Work
from stdcli.rollout.teacher import Teacher

SHOWN = 10  # files named in a message


@dataclass(frozen=True)
class Built:
    """What a build did.

    Attributes:
        manifest: of the bank, as it is now.
        cost: of the whole bank.
        built: paths walked by this run.
        seconds: for them.
        missing: shards that other workers still owe.
    """

    manifest: Manifest
    cost: Cost
    built: int
    seconds: float
    missing: int


def build_bank(
    config: BankConfig, *, out: Path, worker: tuple[int, int], console: Console, dry_run: bool = False
) -> Built:
    """Build what is missing of a bank.

    Args:
        config: the user's values.
        out: folder of the bank.
        worker: (i, n): the shards k with k mod n = i are this run's.
        console: told the plan and the progress.
        dry_run: only plan.

    Raises:
        ConfigError: no data, or a setting that fits no path.
        MediaError: nothing readable; or, with `strict`, a file that is not.
        BankMismatchError: `out` holds paths of another kind.
        BankError: somebody is building there, or the disk refuses.
        ResourceError: the disk is too small or full.
        NumericsError: a state is NaN or infinite.
        Interrupted: Ctrl-C; finished shards are kept.
    """
    if not config.data:
        raise ConfigError("no pictures to start from", [("data", "is missing")], hint="--data FOLDER")
    prompts = read_prompts(config.prompts)
    files = BankFiles(out)
    existing = [Sample.from_json(row) for row in files.read_lines(SAMPLES)] if files.exists(SAMPLES) else []
    found, styles = _find(config, existing, console)
    is_styled = config.style_data is not None
    bundle = load_model(
        config.model, base=config.base, device=config.device, dtype=config.dtype, offline=config.offline,
        styles=is_styled,
    )  # fmt: skip
    console.note(f"{bundle.name}: {bundle.dtype_reason}")
    wanted = max(config.num_paths or len(found.files), len(existing))
    make = partial(
        make_sample,
        guidance_range=guidance_range(config, bundle),
        prompts=prompts,
        styles=SELF if config.style_data == SELF else styles or None,
        seed=config.seed,
    )
    samples = draw_samples(found.files, count=wanted, existing=existing, make=make)
    manifest = describe(config, bundle, num_paths=len(samples))
    _check_kind(files, manifest, out)
    pictures = Pictures(found.files, styles, side_px=manifest.resolution_px)
    teacher = _teacher(manifest, config, bundle)
    probes = _probes(teacher, samples, pictures)
    cost = estimate(manifest, teacher.plan, samples, probes)
    if config.max_bytes is not None:
        count = max(len(existing), _fitting(cost, len(samples), config.max_bytes, console))
        samples, manifest = samples[:count], replace(manifest, num_paths=count)
        cost = estimate(manifest, teacher.plan, samples, probes)
    _tell(console, manifest, cost, teacher, config)
    if dry_run:
        return Built(manifest, cost, built=0, seconds=0.0, missing=manifest.num_shards)
    work = Work(files, manifest, samples, teacher, pictures, config=config, worker=worker, console=console)
    with _lock(files, worker):
        return Built(cost=cost, **work.run(cost))


def _find(config: BankConfig, existing: Sequence[Sample], console: Console) -> tuple[Found, tuple[File, ...]]:
    """Samples' files and style pictures; what cannot be read is told, or an error with `strict`."""
    known = {s.sha256 for s in existing} | {s.style_sha256 for s in existing if s.style_sha256}
    with console.progress("files") as progress:
        found = find_files(config.data, known=known, advance=progress.advance)
        has_styles = config.style_data not in (None, SELF)
        styles = (
            find_files([config.style_data], known=known, advance=progress.advance) if has_styles else None
        )
    for what, result in (("data", found), ("style_data", styles)):
        if result is None:
            continue
        listed = [f"{name}: {reason}" for name, reason in result.skipped]
        more = [f"and {len(listed) - SHOWN} more"] if len(listed) > SHOWN else []
        told = "; ".join(listed[:SHOWN] + more)
        if not result.files:
            raise MediaError(f"nothing readable in {what}", where=config.data, got=told)
        if listed and config.strict:
            raise MediaError(
                f"{len(listed)} files of {what} cannot be read", got=told, hint="leave out --strict"
            )
        if listed:
            console.warning(f"{what}: {len(listed)} unreadable and left out ({told})")
    clips = [file for file in (styles.files if styles else ()) if file.kind == "video"]
    if clips:
        raise MediaError("a style is a picture, not a clip", where=clips[0].path)
    return found, styles.files if styles else ()


def _fitting(cost: Cost, count: int, max_bytes: str, console: Console) -> int:
    """How many of `count` paths stay below a size."""
    limit = read_bytes(max_bytes)
    if cost.total_bytes <= limit:
        return count
    fitting = int(count * limit / cost.total_bytes)
    if fitting < 1:
        raise ConfigError("no path fits", [("max_bytes", f"one path takes {cost.path_bytes} bytes")])
    console.note(f"{fitting} of {count} paths fit into {max_bytes}")
    return fitting


def _check_kind(files: BankFiles, manifest: Manifest, out: Path) -> None:
    """Refuse a folder that holds something else than the bank asked for."""
    hint = "choose another --out, or repeat the settings that it was built with"
    if files.exists(MANIFEST):
        try:
            there = read_manifest(files)
        except BankCorruptError as error:
            error.hint = f"rm {out / MANIFEST}, then the same command again; finished shards are kept"
            raise
        check_same(there, manifest, where=out, hint=hint)
        return
    for name in files.names("shards"):
        if name.endswith(".json") and files.read_json(name).get("bank") != manifest.fingerprint():
            raise BankMismatchError("this folder holds shards of another bank", where=out / name, hint=hint)


def _teacher(manifest: Manifest, config: BankConfig, bundle: Bundle) -> Teacher:
    return Teacher(
        bundle=bundle,
        plan=plan_path(config, bundle),
        kept=frozenset(manifest.level_ids),
        transform=manifest.start["transform"],
        store_dtype=getattr(torch, manifest.store_dtype),
        seed=manifest.seed,
        side_px=manifest.resolution_px,
        guided=(manifest.guidance["min"], manifest.guidance["max"]) != (1, 1),
    )


def _probes(teacher: Teacher, samples: Sequence[Sample], pictures: Pictures) -> list[dict[str, Any]]:
    """Conditions of two samples that differ in prompt and style, if there are such."""
    first = samples[0]
    others = (s for s in samples if s.prompt != first.prompt or s.style_sha256 != first.style_sha256)
    other = next(others, samples[-1] if first.style == SELF else None)
    chosen = [first] if other is None or other is first else [first, other]
    return [teacher.conditions(sample, pictures) for sample in chosen]


def _tell(console: Console, manifest: Manifest, cost: Cost, teacher: Teacher, config: BankConfig) -> None:
    second_s = teacher.time_forward(batch_size=min(config.batch_size, manifest.num_paths))
    total = manifest.num_paths * cost.forwards
    hours = manifest.num_paths * cost.evaluations * second_s / 3600
    length = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
    start, end = manifest.levels[0], manifest.levels[-1]
    console.note(
        f"{manifest.num_paths} paths in {manifest.num_shards} shards · {len(manifest.levels)} levels, t "
        f"{start['t']} to {end['t']} · {cost.path_bytes / 1e6:.2f} MB per path, "
        f"{cost.total_bytes / 1e9:.3f} GB in all · {cost.forwards} forwards per path, {total} in all, "
        f"about {length} on one such machine"
    )


def _lock(files: BankFiles, worker: tuple[int, int]) -> FileLock:
    index, count = worker
    path = files.root / "locks" / f"worker-{index}-of-{count}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0)
        lock.acquire()
    except Timeout as error:
        hint = "wait for it, or give this one another --worker I/N"
        raise BankError(
            "somebody is building this bank", where=files.root, got=f"worker {index}/{count}", hint=hint
        ) from error
    except OSError as error:
        raise BankError(f"cannot be written to: {error.strerror}", where=files.root) from error
    return lock
