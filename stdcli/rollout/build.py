"""`stdcli bank build`: find the data, load the teacher, plan, say what it takes, have the shards built."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.build_locks import hold_slot
from stdcli.bank.format import SAMPLES, Manifest, check_kind, read_samples, samples_of_shards
from stdcli.config.bank import SELF, BankConfig
from stdcli.config.pasting import pasted
from stdcli.config.quantities import read_bytes
from stdcli.console import Console
from stdcli.data.files import File, Found, find_files
from stdcli.errors import (
    BankCorruptError,
    ConfigError,
    MediaError,
)
from stdcli.models.bundle import Bundle
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from stdcli.rollout.path_inputs import Pictures, Sample, draw_samples, make_sample
from stdcli.rollout.path_teacher import Teacher
from stdcli.rollout.plan import (
    Cost,
    describe,
    estimate,
    guidance_range,
    teacher_path,
)
from stdcli.rollout.prompts import Prompts, read_prompts
from stdcli.rollout.shards import Work, recall_pace

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
    existing = _read_existing(files)
    found, styles = find_data(config, existing, console)
    with console.stage(f"loading {config.model}"):
        bundle = load_teacher(config)
    console.note(f"{bundle.network.name}: {bundle.network.dtype_reason}")
    wanted = max(config.num_paths or len(existing) + _count_new(found, existing), len(existing))
    make = sample_maker(config, bundle, prompts=prompts, styles=styles)
    samples = draw_samples(found.files, count=wanted, existing=existing, make=make)
    manifest = describe(config, bundle, num_paths=len(samples))
    check_kind(files, manifest)
    pictures = Pictures(found.files, styles, side_px=manifest.resolution_px)
    teacher = make_teacher(manifest, config, bundle)
    probes = probe_conditions(teacher, samples, pictures)

    def cost_of(count: int) -> Cost:
        return estimate(replace(manifest, num_paths=count), teacher.path, samples[:count], probes)

    if config.max_bytes is not None:
        count = max(len(existing), _fitting(cost_of, len(samples), config.max_bytes, console))
        samples, manifest = samples[:count], replace(manifest, num_paths=count)
    cost = cost_of(len(samples))
    _report_plan(console, manifest, cost)
    options = {"config": config, "worker": worker, "console": console, "pace": recall_pace(files, teacher)}
    work = Work(files, manifest, samples, teacher, pictures, **options)
    if dry_run:
        work.tell_length()
        return Built(manifest, cost, built=0, seconds=0.0, missing=manifest.num_shards)
    with hold_slot(files, *worker):
        return Built(cost=cost, **work.run(cost))


def load_teacher(config: BankConfig) -> Bundle:
    """The model that walks, its style adapter found where there will be style pictures."""
    return load_model(ModelSpec.of(config), styles=config.style_data is not None)


def sample_maker(
    config: BankConfig, bundle: Bundle, *, prompts: Prompts, styles: Sequence[File]
) -> Callable[[File, int], Sample]:
    """(file, how often it was used before) -> its sample, see `make_sample`."""
    return partial(
        make_sample,
        guidance_range=guidance_range(config, bundle),
        prompts=prompts,
        styles=SELF if config.style_data == SELF else styles or None,
        seed=config.seed,
    )


def _read_existing(files: BankFiles) -> list[Sample]:
    rows = read_samples(files) if files.exists(SAMPLES) else samples_of_shards(files)
    try:
        return [Sample.from_json(row) for row in rows]
    except (KeyError, TypeError) as error:
        where = files.root / SAMPLES
        raise BankCorruptError(
            "a sample is incomplete", where=where, got=error, hint=f"rm {pasted(where)}"
        ) from error


def find_data(
    config: BankConfig, existing: Sequence[Sample], console: Console
) -> tuple[Found, tuple[File, ...]]:
    """Samples' files and style pictures; what cannot be read is told, or an error with `strict`."""
    known = {s.sha256 for s in existing} | {s.style_sha256 for s in existing if s.style_sha256}
    with console.progress("files") as progress:
        found = find_files(config.data, known=known, advance=progress.advance)
        has_styles = config.style_data not in (None, SELF)
        styles = (
            find_files([config.style_data], known=known, advance=progress.advance) if has_styles else None
        )
    found = found.part(config.split)
    styles = styles and styles.part(config.split)
    for what, result in (("data", found), ("style_data", styles)):
        if result is None:
            continue
        listed = [f"{name}: {reason}" for name, reason in result.skipped]
        more = [f"and {len(listed) - SHOWN} more"] if len(listed) > SHOWN else []
        reasons = "; ".join(listed[:SHOWN] + more)
        if not result.files:
            where = ", ".join(config.data) if what == "data" else config.style_data
            raise MediaError(f"nothing readable in {what}", where=where, got=reasons)
        if listed and config.strict:
            raise MediaError(
                f"{len(listed)} files of {what} cannot be read", got=reasons, hint="leave out --strict"
            )
        if listed:
            console.warning(f"{what}: {len(listed)} unreadable and left out ({reasons})")
    clips = [file for file in (styles.files if styles else ()) if file.kind == "video"]
    if clips:
        raise MediaError("a style is a picture, not a clip", where=clips[0].path)
    return found, styles.files if styles else ()


def _count_new(found: Found, existing: Sequence[Sample]) -> int:
    """How many of the files no path starts from yet."""
    return len({file.sha256 for file in found.files} - {sample.sha256 for sample in existing})


def _fitting(cost_of: Callable[[int], Cost], count: int, max_bytes: str, console: Console) -> int:
    """How many of `count` paths stay below a size."""
    limit = read_bytes(max_bytes)
    fitting = bisect_right(range(1, count + 1), limit, key=lambda number: cost_of(number).total_bytes)
    if not fitting:
        raise ConfigError("no path fits", [("max_bytes", f"one path takes {cost_of(1).total_bytes} bytes")])
    if fitting < count:
        console.note(f"{fitting} of {count} paths fit into {max_bytes}")
    return fitting


def make_teacher(manifest: Manifest, config: BankConfig, bundle: Bundle) -> Teacher:
    """The teacher that walks the paths of a manifest."""
    return Teacher(
        bundle=bundle,
        path=teacher_path(config, bundle),
        kept=frozenset(manifest.level_ids),
        transform=manifest.start["transform"],
        store_dtype=getattr(torch, manifest.store_dtype),
        seed=manifest.seed,
        side_px=manifest.resolution_px,
        guided=(manifest.guidance["min"], manifest.guidance["max"]) != (1, 1),
        pooled=config.pooled,
    )


def probe_conditions(teacher: Teacher, samples: Sequence[Sample], pictures: Pictures) -> list[dict[str, Any]]:
    """Conditions of two samples that differ in prompt and style, if there are such."""
    readable = [sample for sample in samples if not pictures.missing([sample])] or samples
    first = readable[0]
    others = (s for s in readable if s.prompt != first.prompt or s.style_sha256 != first.style_sha256)
    other = next(others, readable[-1] if first.style == SELF else None)
    chosen = [first] if other is None or other is first else [first, other]
    return [teacher.conditions(sample, pictures) for sample in chosen]


def _report_plan(console: Console, manifest: Manifest, cost: Cost) -> None:
    start, end = manifest.levels[0], manifest.levels[-1]
    console.note(
        f"{manifest.num_paths} paths in {manifest.num_shards} shards · {len(manifest.levels)} levels, t "
        f"{start['t']} to {end['t']} · {cost.path_bytes / 1e6:.2f} MB per path, "
        f"{cost.total_bytes / 1e9:.3f} GB in all · {cost.forwards} forwards per path, "
        f"{manifest.num_paths * cost.forwards} in all"
    )
