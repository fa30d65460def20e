"""`stdcli stylize`: pictures and clips restyled by a model, from resolved settings to files on disk.

Everything that can be refused is refused before the model is loaded; everything that will happen is said
before it happens.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stdcli.apply.clips import sample_frames, stylize_clip
from stdcli.apply.job import Job
from stdcli.apply.outputs import record, write_sidecar
from stdcli.apply.session import Session
from stdcli.apply.settings import settle
from stdcli.apply.targets import Target, plan_targets
from stdcli.config.schema import StylizeConfig
from stdcli.console import Console
from stdcli.errors import ConfigError, MediaError, StdcliError
from stdcli.media.flow import require_opencv
from stdcli.media.image import Picture, read_image, write_image
from stdcli.media.recipe import KEY
from stdcli.models.load import load_model

SAMPLES = 12
"""Frames by which the colours of a clip are known."""


def stylize(
    config: StylizeConfig,
    inputs: Sequence[str],
    *,
    output: Path | None,
    overwrite: bool,
    metadata: bool,
    dry_run: bool,
    console: Console,
) -> None:
    """Restyle everything that `inputs` names.

    An input among several that cannot be read is reported and passed over.

    Args:
        config: resolved settings.
        inputs: files, folders, globs and numbered pictures.
        output: file, folder or numbered pictures; None for beside each input.
        overwrite: whether results may replace files.
        metadata: whether the recipe is stored inside and beside the results.
        dry_run: say what would be done and stop before any denoising.
        console: where to say it.

    Raises:
        StdcliError: see `stdcli/errors.py`; nothing half written is left behind, and finished parts of clips
            are kept for the same command to go on from.
    """
    styles = [_read_style(Path(path)) for path in config.style]
    if not styles and not config.prompt:
        raise ConfigError(
            "no style to paint in", [("--style", "name a picture")], hint="stdcli stylize IN --style REF"
        )
    if config.temporal == "flow":
        require_opencv()
    targets = plan_targets(config, inputs, output=output, overwrite=overwrite)
    bundle = load_model(
        config.model,
        base=config.base,
        device=config.device,
        dtype=config.dtype,
        offline=config.offline,
        loras=config.lora,
        style_scale=config.style_scale,
    )
    settings = settle(config, bundle.recipe, bundle.schedule)
    console.note(settings.line())
    console.detail(bundle.dtype_reason)
    if dry_run:
        for target in targets:
            console.result(f"would write {target.path}", path=target.path, dry_run=True, **settings.facts())
        return
    session = Session(bundle, config, settings, styles)
    for note in bundle.notes:
        console.warning(note)
    failed = [
        target
        for target in targets
        if not _try(session, target, overwrite, metadata, console, alone=len(targets) == 1)
    ]
    if failed:
        raise MediaError(f"{len(failed)} of {len(targets)} inputs were passed over; the reasons are above")


def _read_style(path: Path) -> Picture:
    try:
        return read_image(path)
    except MediaError as error:
        error.where = f"--style {path}"
        raise


def _try(
    session: Session, target: Target, overwrite: bool, metadata: bool, console: Console, *, alone: bool
) -> bool:
    """Restyle one input; False if it cannot be read or written and others are to follow."""
    try:
        _run(session, target, overwrite=overwrite, metadata=metadata, console=console)
    except MediaError as error:
        if alone:
            raise
        console.warning(error.render().removeprefix("error: "))
        return False
    return True


def _run(session: Session, target: Target, *, overwrite: bool, metadata: bool, console: Console) -> None:
    started_s = time.perf_counter()
    facts = session.settings.facts()
    data = record(session.config, facts, session.bundle.identity, source=target.source.path)
    target.path.parent.mkdir(parents=True, exist_ok=True)
    if target.clip is None:
        frames, notes = 1, _run_picture(session, target, data if metadata else None, overwrite=overwrite)
    else:
        frames, notes = _run_clip(session, target, data, metadata, overwrite=overwrite, console=console)
    for note in (*session.notes, *notes):
        console.warning(note)
    session.notes.clear()
    if metadata:
        write_sidecar(target.path, data)
    seconds = time.perf_counter() - started_s
    speed = f", {frames / seconds:.1f} frames per second" if target.clip else ""
    console.result(
        f"{target.path}  ({seconds:.1f} s{speed})",
        path=target.path,
        frames=frames,
        seconds=round(seconds, 3),
        **facts,
    )


def _run_picture(
    session: Session, target: Target, data: Mapping[str, Any] | None, *, overwrite: bool
) -> list[str]:
    picture = read_image(target.source.path)
    rgb = session.stylize(picture.rgb[None])[0]
    text = None if data is None else {KEY: json.dumps(data)}
    result = Picture(rgb, picture.alpha)
    notes = write_image(target.path, result, text=text, overwrite=overwrite, source=target.source.path)
    return [*picture.info["notes"], *notes]


def _run_clip(
    session: Session,
    target: Target,
    data: Mapping[str, Any],
    metadata: bool,
    *,
    overwrite: bool,
    console: Console,
) -> tuple[int, list[str]]:
    """Returns the frames made by this run and what the user should know."""
    clip, info = target.clip, target.clip.info
    session = session.for_clip(sample_frames(info, SAMPLES))
    batch_size = session.batch_for((info.height, info.width))
    place = target.path if clip.numbered is None else target.path.parent
    with Job(place, _job_facts(target, data, batch_size), discard=overwrite) as job:
        done = job.count
        if done:
            console.note(f"continuing {target.path} at frame {done} of {info.frames}")
            if session.memory is not None:
                session.memory.restore(job.memory())
        sink = clip.open_sink(target.path, job, recipe=json.dumps(data) if metadata else None)
        try:
            with console.progress(target.source.path.name, info.frames) as progress:
                stylize_clip(
                    info,
                    session.stylize,
                    sink=sink,
                    job=job,
                    batch_size=batch_size,
                    memory=session.memory.state if session.memory else dict,
                    overwrite=overwrite,
                    progress=progress,
                )
        except StdcliError as error:
            if job.frames and error.hint is None:
                error.hint = (
                    f"{job.count} finished frames are kept in {job.folder}; the same command continues"
                )
            raise
    return info.frames - done, [*clip.notes]


def _job_facts(target: Target, data: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """Whatever decides the frames of a clip, flat and JSON-ready."""
    source = target.source.path
    info, encoding = target.clip.info, target.clip.encoding
    files = [source, *map(Path, data["config"].get("style", []))]
    return {
        **{f"config.{name}": value for name, value in data["config"].items()},
        **{f"model.{name}": value for name, value in data["model"].items()},
        **{f"versions.{name}": value for name, value in data["versions"].items()},
        "settings": data["settings"],
        "input": str(source.resolve()),
        "files": [[file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.exists()],
        "frames": f"{info.first} + {info.frames} at {info.fps}",
        "encoding": None if encoding is None else [*encoding.arguments(), encoding.pixels],
        "batch": batch_size,
        "threads": torch.get_num_threads(),
    }
