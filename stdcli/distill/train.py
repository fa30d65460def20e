"""`stdcli distill`: begin a run or take it up, take its steps, save the student.

The same command resumes a stopped run and leaves a finished one alone. Micro-batch n, its draws and its noise
depend on the seed and n alone. This module knows the order of things; the others know the rest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from stdcli.config.distill import DistillConfig
from stdcli.config.recipe import Recipe
from stdcli.console import Console
from stdcli.distill import distill_run as files
from stdcli.distill.adversary_setup import GetCodec
from stdcli.distill.estimate import Estimate, measure
from stdcli.distill.real_latents import find_styles
from stdcli.distill.requirements import check_disk, check_full
from stdcli.distill.setup import Training, build
from stdcli.distill.student_recipe import make_recipe
from stdcli.distill.student_sheet import StudentSheet, make_sheet
from stdcli.distill.teacher_paths import TeacherPaths
from stdcli.errors import NumericsError, ResourceError
from stdcli.media.image import Picture, write_image
from stdcli.models.bundle import Network
from stdcli.models.load import load_codec, load_denoiser
from stdcli.models.locate import EMBEDDED
from stdcli.models.student import save_student
from stdcli.models.student_files import StudentFiles, find_student
from stdcli.runtime.devices import choose
from stdcli.runtime.interrupt import StopRequest, deferred_interrupt
from stdcli.runtime.peak_memory import peak_bytes
from stdcli.training.boards import Board, NoBoard, check_board, open_board
from stdcli.training.loop import Loop, make_accelerator
from stdcli.training.run_files import hold_run
from stdcli.training.run_folder import STEP, RunFolder, mean_of, step_name, versions


@dataclass(frozen=True)
class Distilled:
    """The outcome of `distill`.

    Attributes:
        student: its folder.
        was_finished: whether nothing was left to do.
        metadata: what run.json says.
        estimate: of a dry run; None otherwise.
    """

    student: Path
    was_finished: bool
    metadata: dict[str, Any]
    estimate: Estimate | None = None


@dataclass
class _Run:
    """A run under way, in one process."""

    config: DistillConfig
    training: Training
    accelerator: Accelerator
    loop: Loop
    folder: RunFolder
    recipe: Recipe
    get_codec: GetCodec
    console: Console
    board: Board = field(default_factory=NoBoard)
    sheet: StudentSheet | None = None
    step: int = 0


def distill(
    config: DistillConfig,
    *,
    out: Path,
    console: Console,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Distilled:
    """Train a student, or go on with it.

    Args:
        config: all settings.
        out: folder of the run; holds the student in `student/` afterwards.
        console: told of progress.
        overwrite: begin anew, deleting what an earlier run left in `out`.
        dry_run: take two steps in memory to say what the run will take; write nothing.

    Raises:
        ConfigError: settings that fit neither the paths nor the run in `out`.
        BankError: no finished bank, a damaged one, or one of another teacher.
        ModelError, HubError: the base, DINOv2 or the student to start from cannot be loaded.
        NumericsError: the training diverged; names step, samples, dtype and the last good checkpoint.
        ResourceError: no such device, not enough memory, or the disk is full.
        KeyboardInterrupt: the user stopped the run; the state is saved.
    """
    folder, student = RunFolder(out), out / files.STUDENT
    files.check_run(folder, config, overwrite=overwrite)
    if not overwrite and not dry_run and files.is_finished(folder, config):
        return Distilled(student, was_finished=True, metadata=folder.read_metadata())
    if dry_run or os.environ.get("RANK", "0") != "0":  # the first of several processes holds it for all
        return _distill(config, folder, console, overwrite=overwrite, dry_run=dry_run)
    with hold_run(folder):
        return _distill(config, folder, console, overwrite=overwrite)


def _distill(
    config: DistillConfig, folder: RunFolder, console: Console, *, overwrite: bool, dry_run: bool = False
) -> Distilled:
    """`distill` of a run that is not finished."""
    student = folder.root / files.STUDENT
    if not overwrite:
        files.check_outcome(folder)
    check_board(wanted=config.train.tensorboard)
    is_new = overwrite or not folder.checkpoints()
    start = find_student(config.init, offline=config.offline) if config.init and is_new else None
    if config.bank:
        paths = TeacherPaths.stored(Path(config.bank))
    else:
        paths = TeacherPaths.online(config.rollout_config(), console)
    with _memory_told(config.device):
        run = _prepare(config, paths, folder, start, console=console, dry_run=dry_run)
        if dry_run:
            with console.stage("two steps to measure"):
                estimate = measure(config, run.training, run.loop)
            return Distilled(student, was_finished=False, metadata={}, estimate=estimate)
    is_main = run.accelerator.is_main_process
    if is_main:
        check_disk(folder, run.training)
    run.sheet = _make_sheet(run)
    note = None if overwrite else files.note_of_length(folder, config)
    if is_main and note:
        console.note(note)
    metadata = _open(run, overwrite=overwrite)
    try:
        run.board = open_board(folder.root / files.TENSORBOARD, wanted=config.train.tensorboard and is_main)
        _resume(run)
        with _memory_told(config.device):
            _take_steps(run)
        if is_main:
            trained = run.training
            save_student(
                student,
                trained.roles.module,
                recipe=run.recipe,
                weights=trained.exported(),
                check=lambda: files.check_outcome(folder),
            )
            metadata |= {"state": "complete", "steps": run.step}
            folder.write_metadata(metadata)
    except KeyboardInterrupt:
        console.note(f"stopped at step {run.step}; the same command goes on with {folder.root}")
        raise
    finally:
        run.training.task.source.close()
        run.board.close()
    return Distilled(student, was_finished=False, metadata=metadata)


@contextmanager
def _memory_told(device: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        hint = "fewer --batch-size with more --accumulation, or --set train.checkpointing=true"
        raise ResourceError("not enough memory to train", where=device, hint=hint) from error


def _prepare(
    config: DistillConfig,
    paths: TeacherPaths,
    folder: RunFolder,
    start: StudentFiles | None,
    *,
    console: Console,
    dry_run: bool,
) -> _Run:
    """Everything of a run in memory; nothing is written."""

    def before(values: int, device: torch.device) -> None:
        if config.student.kind == "full":
            console.note(check_full(config, None if dry_run else folder, values=values, device=device))

    with console.stage("loading the base"):
        network = paths.rollout.bundle if paths.rollout else _load(config, paths, before)
    float16_ok = network.family != EMBEDDED
    accelerator = make_accelerator(choose(config.device, config.dtype, float16_ok=float16_ok))
    get_codec = _codec_getter(config, network, paths)
    training = build(
        config, paths=paths, network=network, accelerator=accelerator, get_codec=get_codec, start=start
    )
    task = training.task
    loop = Loop(accelerator, training.trained_modules, task.losses, config.train.accumulation, task.describe)
    recipe = make_recipe(config, paths=paths, network=network, method=task.method)
    if accelerator.is_main_process:
        for note in (f"{network.name}: {network.dtype_reason}", *training.notes):
            console.note(note)
        if start is not None:
            console.note(f"starting as the student {start.name}")
    return _Run(config, training, accelerator, loop, folder, recipe, get_codec, console)


def _load(config: DistillConfig, paths: TeacherPaths, before: Callable[[int, torch.device], None]) -> Network:
    """The base alone: no codec, no encoders."""
    return load_denoiser(
        config.model or str(paths.manifest.model["name"]),
        base=config.base,
        device=config.device,
        dtype="float32" if config.student.kind == "full" else config.dtype,
        offline=config.offline,
        styles=paths.is_styled,
        half=paths.manifest.compute_dtype != "float32",  # the very files that the paths were walked with
        before=before,
    )


def _codec_getter(config: DistillConfig, network: Network, paths: TeacherPaths) -> GetCodec:
    if paths.rollout is not None:
        return lambda: paths.rollout.bundle.codec
    return lambda: load_codec(
        network.name,
        base=config.base,
        device=config.device,
        dtype=config.dtype,
        offline=config.offline,
    )


def _open(run: _Run, *, overwrite: bool) -> dict[str, Any]:
    """run.json, written by the main process before the others go on."""
    metadata: dict[str, Any] = {}
    if run.accelerator.is_main_process:
        metadata = files.open_run(run.folder, run.config, _learned(run), overwrite=overwrite)
        metadata |= {"versions": versions(), "state": "running"}
        run.folder.write_metadata(metadata)
    run.accelerator.wait_for_everyone()
    return metadata


def _learned(run: _Run) -> dict[str, Any]:
    """What decides the outcome beside the settings."""
    paths = run.training.paths
    return {
        "fingerprint": paths.manifest.fingerprint(),
        "shards": paths.digest(),
        "processes": run.accelerator.num_processes,
        "precision": run.accelerator.mixed_precision,
        "dtype": str(run.training.network.dtype).removeprefix("torch."),
        "choices": run.training.notes,
    }


def _make_sheet(run: _Run) -> StudentSheet | None:
    config, paths = run.config, run.training.paths
    if paths.bank is None or not config.train.sample_every or not run.accelerator.is_main_process:
        return None
    has_styles = config.style_data is not None and paths.is_styled
    styles = find_styles(Path(config.style_data)) if has_styles else {}
    return make_sheet(
        paths,
        run.recipe,
        schedule=run.training.network.schedule,
        styles=styles,
        device=run.training.roles.device,
    )


def _resume(run: _Run) -> None:
    """Take up the last checkpoint, or write that of step 0."""
    is_main = run.accelerator.is_main_process
    newest = run.folder.newest(warn=run.console.warning if is_main else lambda message: None)
    run.accelerator.wait_for_everyone()
    if newest is None:
        _save(run)
        return
    path, state, metadata = newest
    run.step = files.restore(run.training, state, metadata, path=path, rank=run.accelerator.process_index)
    if is_main:
        run.console.note(f"going on from step {run.step}")
        run.folder.forget_after(run.step)
        run.folder.rewind_reports(run.step)


def _take_steps(run: _Run) -> None:
    every, total = run.config.train, run.config.train.steps
    window: list[dict[str, float]] = []
    is_main = run.accelerator.is_main_process
    shown = run.console.progress("distill", total) if is_main else nullcontext()
    with shown as progress, deferred_interrupt() as stop:
        if is_main:
            progress.advance(run.step)
        while run.step < total:
            window.append(_step(run))
            if is_main:
                progress.advance()
            is_due = _is_due(run.step, total)
            if is_due(every.log_every):
                if is_main:
                    _report(run, window)
                window = []
            is_stopped = _agree(run, stop)
            if is_due(every.checkpoint_every) or is_stopped:
                _save(run)
            if is_stopped:
                raise KeyboardInterrupt
            if run.sheet is not None and is_due(every.sample_every):
                _draw(run)


def _step(run: _Run) -> dict[str, float]:
    began_s = time.perf_counter()
    try:
        metrics = run.loop.step(run.step)
    except NumericsError as error:
        dtype = str(run.training.network.dtype).removeprefix("torch.")
        error.where = f"step {run.step}, {dtype}, {error.where}"
        error.hint = (
            f"last good checkpoint: {run.folder.last_good()}; a lower --learning-rate or --dtype float32"
        )
        raise
    run.step += 1
    return metrics | {"time/step_ms": (time.perf_counter() - began_s) * 1e3}


def _report(run: _Run, window: list[dict[str, float]]) -> None:
    metrics = _counters(run) | mean_of(window)
    run.folder.report(metrics)
    run.board.write(metrics, step=run.step)


def _is_due(step: int, total: int) -> Callable[[int], bool]:
    return lambda every: step % every == 0 or step == total


def _counters(run: _Run) -> dict[str, float]:
    train = run.config.train
    per_step = train.batch_size * train.accumulation * run.accelerator.num_processes
    counters = {STEP: run.step, "progress/samples": run.step * per_step}
    device = run.training.roles.device
    if device.type == "cuda":
        counters["mem/peak_mib"] = peak_bytes(device) / 2**20
    return counters


def _agree(run: _Run, stop: StopRequest) -> bool:
    """Whether any process was asked to stop."""
    if run.accelerator.num_processes == 1:
        return stop.requested
    asked = torch.tensor(float(stop.requested), device=run.training.roles.device)
    return bool(run.accelerator.reduce(asked, reduction="sum") > 0)


def _save(run: _Run) -> None:
    source_state = {
        f"source.{run.accelerator.process_index}.{name}": value
        for name, value in run.training.task.source.state().items()
    }
    every = gather_object([source_state])
    if run.accelerator.is_main_process:
        sources = {name: value for state in every for name, value in state.items()}
        state = files.state_of(run.training, sources)
        run.folder.save(run.step, state, metadata=files.metadata_of(run.training))
    run.accelerator.wait_for_everyone()


def _draw(run: _Run) -> None:
    codec = run.get_codec()
    picture = run.sheet.render(run.training.roles, codec, weights=run.training.exported())
    path = run.folder.root / "samples" / f"{step_name(run.step)}.png"
    path.parent.mkdir(exist_ok=True)
    write_image(path, Picture(picture), overwrite=True)
