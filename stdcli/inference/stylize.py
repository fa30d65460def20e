"""`stdcli stylize`: pictures and clips restyled by a model, as planned (`targets.py`), to files on disk.

What the files alone tell is refused before this is even imported, what the model alone tells before any work;
everything that will happen is said before it happens.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stdcli.config.schema import StylizeConfig
from stdcli.console import Console
from stdcli.errors import MediaError, StdcliError
from stdcli.inference.clips import Restyle, sample_frames, stylize_clip
from stdcli.inference.job import Job
from stdcli.inference.open import open_session
from stdcli.inference.outputs import is_numbered, record, sidecar_path, write_sidecar
from stdcli.inference.repaint import Repaint
from stdcli.inference.session import StyleSession
from stdcli.inference.targets import JobPlan, Target
from stdcli.media.embedded_recipe import KEY
from stdcli.media.image import Picture, read_image, write_image
from stdcli.media.output import write_errors
from stdcli.media.sequence import sequence_files
from stdcli.media.sources import is_pattern


def stylize(
    config: StylizeConfig,
    work: JobPlan,
    *,
    overwrite: bool,
    metadata: bool,
    dry_run: bool,
    strict: bool,
    console: Console,
) -> None:
    """Do what was planned, and say so.

    Args:
        config: resolved settings.
        work: from `stdcli.inference.targets.plan`.
        overwrite: whether results may replace files.
        metadata: whether the recipe is stored inside and beside the results.
        dry_run: say what would be done; of the model only configs and the headers of its files are read.
        strict: refuse what the student was not trained for, where else a warning is given.
        console: where to say it.

    Raises:
        StdcliError: see `stdcli/errors.py`; nothing half written is left behind, and finished parts of clips
            are kept for the same command to go on from.
    """
    if work.left_out:
        console.warning(work.left_out)
    for path in work.finished:
        console.note(f"already made: {path}")
    if not work.targets and not work.refused:
        return
    masked = any(target.mask is not None for target in work.targets)
    session = open_session(config, work.styles, console, masked=masked, weights=not dry_run, strict=strict)
    console.note(session.settings.line())
    console.detail(session.bundle.network.dtype_reason)
    if dry_run:
        _foretell(session, work, console, masked=masked)
        return
    for made in restyle_files(session, work, overwrite=overwrite, metadata=metadata):
        console.result(made.line(), **made.data())


def _foretell(session: StyleSession, work: JobPlan, console: Console, *, masked: bool) -> None:
    """Say what would be written."""
    bundle = session.bundle
    if work.styles or not (masked and bundle.network.family.needs_style):
        session.check()
    console.note(bundle.network.need.line())
    for target in work.targets:
        sampling = {"weight_bytes": bundle.network.need.weight_bytes, **session.settings.metadata()}
        console.result(f"would write {target.path}", path=target.path, dry_run=True, **sampling)


@dataclass(frozen=True)
class Restyled:
    """A result on disk.

    Attributes:
        path: of the file, or the pattern of numbered pictures.
        frames: made by this run: 1 for a picture, fewer than all of a clip that was gone on with.
        seconds: that took.
        is_clip: whether it is a clip.
        sampling: settings in force, as `SamplingSettings.metadata` gives them.
    """

    path: Path
    frames: int
    seconds: float
    is_clip: bool
    sampling: Mapping[str, Any]

    def line(self) -> str:
        """One line for the user."""
        speed = f", {self.frames / self.seconds:.1f} frames per second" if self.is_clip else ""
        return f"{self.path}  ({self.seconds:.1f} s{speed})"

    def data(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "path": self.path,
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            **self.sampling,
        }


def restyle_files(
    session: StyleSession, work: JobPlan, *, overwrite: bool, metadata: bool
) -> Iterator[Restyled]:
    """Make what was planned, one result after the other.

    An input among several that cannot be read is reported and passed over.

    Args:
        session: of the settings that `work` was planned with.
        work: from `stdcli.inference.targets.plan`.
        overwrite: whether results may replace files.
        metadata: whether the recipe is stored inside and beside the results.

    Raises:
        StdcliError: as `stylize`; at the end MediaError where inputs were passed over.
    """
    failed = [_skip_input(session, source.path, error) for source, error in work.refused]
    alone = len(work.targets) + len(work.refused) == 1
    for target in work.targets:
        try:
            yield _run(session, target, overwrite=overwrite, metadata=metadata)
        except MediaError as error:
            if alone:
                raise
            failed.append(_skip_input(session, target.source.path, error))
    if failed:
        count = len(work.targets) + len(work.refused)
        raise MediaError(f"{len(failed)} of {count} inputs were passed over; the reasons are above")


def _skip_input(session: StyleSession, path: Path, error: MediaError) -> Path:
    session.reporter.warning(error)
    return path


def _run(session: StyleSession, target: Target, *, overwrite: bool, metadata: bool) -> Restyled:
    started_s, reporter = time.perf_counter(), session.reporter
    sampling = session.settings.metadata()
    with write_errors(target.path.parent):
        target.path.parent.mkdir(parents=True, exist_ok=True)
    data = None
    for note in () if target.mask is None else target.mask.notes:
        reporter.warning(note)
    if metadata or target.clip is not None:
        with reporter.stage(f"hashing {session.bundle.network.name}"):
            identity = session.bundle.network.identity
        data = record(session.config, sampling, identity, source=target.source.path)
    if target.clip is None:
        name, frames = target.source.path.name, 1
        with reporter.stage(name) as tell:
            telling = session.telling(lambda what: tell(f"{name}: {what}"))
            notes = _run_picture(telling, target, data, overwrite=overwrite)
    else:
        frames = _run_clip(session, target, data, metadata, overwrite=overwrite)
        notes = target.clip.notes
    for note in notes:
        reporter.warning(note)
    if metadata:
        write_sidecar(sidecar_path(target.path, numbered=is_numbered(target.source, target.path)), data)
    seconds = time.perf_counter() - started_s
    return Restyled(target.path, frames, seconds, target.clip is not None, sampling)


def _run_picture(
    session: StyleSession, target: Target, data: Mapping[str, Any] | None, *, overwrite: bool
) -> list[str]:
    """Returns what the user should know."""
    picture = read_image(target.source.path)
    rgb = _restyle(_styled(session, target, picture.rgb), target)(picture.rgb[None])[0]
    text = None if data is None else {KEY: json.dumps(data)}
    is_filled = target.mask is not None and target.mask.is_alpha
    result = Picture(rgb, None if is_filled else picture.alpha)
    notes = write_image(target.path, result, text=text, overwrite=overwrite, source=target.source.path)
    return [*picture.info["notes"], *notes]


def _run_clip(
    session: StyleSession, target: Target, data: Mapping[str, Any], metadata: bool, *, overwrite: bool
) -> int:
    """Returns the frames made by this run."""
    clip, info, reporter = target.clip, target.clip.info, session.reporter
    samples = sample_frames(info)
    session = _styled(session, target, samples[0]).for_clip(samples)
    batch_size = session.batch_for((info.height, info.width))
    output = target.path if clip.numbered is None else target.path.parent
    job_metadata = _job_metadata(target, data, batch_size)
    with Job(output, job_metadata, discard=overwrite, numbered=clip.numbered) as job:
        for note in job.notes:
            reporter.warning(note)
        done = job.count
        if done:
            reporter.note(f"continuing {target.path} at frame {done} of {info.frames}")
            if session.memory is not None:
                session.memory.restore(job.memory())
        sink = clip.open_sink(target.path, job, recipe=json.dumps(data) if metadata else None)
        try:
            with reporter.progress(target.source.path.name, info.frames) as progress:
                stylize_clip(
                    info,
                    _restyle(session, target, done=done),
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
    return info.frames - done


def _styled(session: StyleSession, target: Target, rgb: np.ndarray) -> StyleSession:
    """What is repainted in no style is painted as the picture itself."""
    repaints_itself = (
        target.mask is not None and session.bundle.network.family.needs_style and not session.styles
    )
    return session.in_style_of(rgb) if repaints_itself else session


def _restyle(session: StyleSession, target: Target, *, done: int = 0) -> Restyle:
    """What makes results of the next frames, `done` of which are made."""
    mask = target.mask
    if mask is None:
        return session.stylize
    return Repaint(session, mask.frames(skip=done), feather_px=session.config.feather, box=mask.box)


def _job_metadata(target: Target, data: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """Whatever decides the frames of a clip, flat and JSON-ready."""
    source = target.source.path
    info, encoding = target.clip.info, target.clip.encoding
    files = [source, *map(Path, data["config"].get("style", []))]
    if target.mask is not None:
        files.append(target.mask.source)
    numbered = target.clip.numbered
    return {
        **{f"config.{name}": value for name, value in data["config"].items()},
        **{f"model.{name}": value for name, value in data["model"].items()},
        **{f"versions.{name}": value for name, value in data["versions"].items()},
        "settings": data["settings"],
        "input": str(source.resolve()),
        "files": [_stamp(file) for file in files],
        "results": None if numbered is None else str(numbered),
        "frames": f"{info.first} + {info.frames} at {info.fps}",
        "encoding": None if encoding is None else [*encoding.arguments(), encoding.pixels],
        "batch": batch_size,
        "threads": torch.get_num_threads(),
    }


def _stamp(path: Path) -> list[int] | str | None:
    """By what a change of a file is noticed: size and time; of numbered pictures one hash of all of them."""
    if is_pattern(path):
        stats = [(file.name, file.stat()) for file in sequence_files(path)]
        stamps = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
        return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else None
