"""`stdcli distill`: begin a run or take it up, take its steps, save the student.

The same command resumes a stopped run and leaves a finished one alone. Micro-batch n, its draws and its noise
depend on the seed and n alone. This module knows the order of things; the others know the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from stdcli.config.distill import DistillConfig
from stdcli.config.recipe import Recipe
from stdcli.console import Console
from stdcli.distill import distill_run as files
from stdcli.distill.adversary_setup import GetCodec
from stdcli.distill.distillation import Distillation
from stdcli.distill.estimate import Estimate, measure
from stdcli.distill.real_latents import find_styles
from stdcli.distill.requirements import check_disk, check_full
from stdcli.distill.setup import Training, build
from stdcli.distill.student import save_student
from stdcli.distill.student_recipe import make_recipe
from stdcli.distill.student_sheet import StudentSheet, make_sheet
from stdcli.distill.teacher_paths import TeacherPaths
from stdcli.errors import ResourceError
from stdcli.models.bundle import Network
from stdcli.models.load import load_codec, load_denoiser
from stdcli.models.spec import ModelSpec
from stdcli.models.student_files import StudentFiles, find_student
from stdcli.runtime.devices import choose
from stdcli.training.boards import check_board, open_board
from stdcli.training.run_files import hold_run
from stdcli.training.run_folder import RunFolder, versions
from stdcli.training.train_step import TrainStep, make_accelerator
from stdcli.training.trainer import Cadence, Stage, Trainer


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
        distillation, recipe = _prepare(config, paths, folder, start, console=console, dry_run=dry_run)
        if dry_run:
            with console.stage("two steps to measure"):
                estimate = measure(config, distillation)
            return Distilled(student, was_finished=False, metadata={}, estimate=estimate)
    training, accelerator = distillation.training, distillation.step.accelerator
    is_main = accelerator.is_main_process
    if is_main:
        check_disk(folder, training)
        distillation.sheet = _make_sheet(config, training, recipe)
    note = None if overwrite else files.note_of_length(folder, config)
    if is_main and note:
        console.note(note)
    metadata = _open(config, folder, training, accelerator, overwrite=overwrite)
    trainer = _make_trainer(config, folder, distillation, console)
    try:
        trainer.board = open_board(
            folder.root / files.TENSORBOARD, wanted=config.train.tensorboard and is_main
        )
        if not trainer.resume():
            trainer.save()
        with _memory_told(config.device):
            trainer.run()
        if is_main:
            save_student(
                student,
                training.roles.module,
                recipe=recipe,
                weights=training.exported(),
                check=lambda: files.check_outcome(folder),
            )
            metadata |= {"state": "complete", "steps": trainer.step}
            folder.write_metadata(metadata)
    except KeyboardInterrupt:
        console.note(f"stopped at step {trainer.step}; the same command goes on with {folder.root}")
        raise
    finally:
        training.task.source.close()
        trainer.board.close()
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
) -> tuple[Distillation, Recipe]:
    """What is trained, in memory, and how its student is sampled; nothing is written."""

    def before(values: int, device: torch.device) -> None:
        if config.student.kind == "full":
            console.note(check_full(config, None if dry_run else folder, values=values, device=device))

    with console.stage("loading the base"):
        network = paths.rollout.bundle.network if paths.rollout else _load(config, paths, before)
    float16_ok = network.family.float16_ok
    accelerator = make_accelerator(choose(config.device, config.dtype, float16_ok=float16_ok))
    get_codec = _codec_getter(config, network, paths)
    training = build(
        config, paths=paths, network=network, accelerator=accelerator, get_codec=get_codec, start=start
    )
    task = training.task
    step = TrainStep(
        accelerator,
        training.trained_modules,
        task.losses,
        config.train.accumulation,
        lambda: f"{_name_of(network.dtype)}, {task.describe()}",
    )
    recipe = make_recipe(config, paths=paths, network=network, method=task.method)
    if accelerator.is_main_process:
        for note in (f"{network.name}: {network.dtype_reason}", *training.notes):
            console.note(note)
        if start is not None:
            console.note(f"starting as the student {start.name}")
    return Distillation(training, step, get_codec), recipe


def _load(config: DistillConfig, paths: TeacherPaths, before: Callable[[int, torch.device], None]) -> Network:
    """The base alone: no codec, no encoders."""
    return load_denoiser(
        ModelSpec.of(
            config,
            name=config.model or str(paths.manifest.model["name"]),
            dtype="float32" if config.student.kind == "full" else config.dtype,
        ),
        styles=paths.is_styled,
        half=paths.manifest.compute_dtype != "float32",  # the very files that the paths were walked with
        before=before,
    )


def _codec_getter(config: DistillConfig, network: Network, paths: TeacherPaths) -> GetCodec:
    if paths.rollout is not None:
        return lambda: paths.rollout.bundle.codec
    return lambda: load_codec(ModelSpec.of(config, name=network.name))


def _open(
    config: DistillConfig, folder: RunFolder, training: Training, accelerator: Accelerator, *, overwrite: bool
) -> dict[str, Any]:
    """run.json, written by the main process before the others go on."""
    metadata: dict[str, Any] = {}
    if accelerator.is_main_process:
        learned = {  # what decides the outcome beside the settings
            "fingerprint": training.paths.manifest.fingerprint(),
            "shards": training.paths.digest(),
            "processes": accelerator.num_processes,
            "precision": accelerator.mixed_precision,
            "dtype": _name_of(training.network.dtype),
            "choices": training.notes,
        }
        metadata = files.open_run(folder, config, learned, overwrite=overwrite)
        metadata |= {"versions": versions(), "state": "running"}
        folder.write_metadata(metadata)
    accelerator.wait_for_everyone()
    return metadata


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _make_sheet(config: DistillConfig, training: Training, recipe: Recipe) -> StudentSheet | None:
    paths = training.paths
    if paths.bank is None or not config.train.sample_every:
        return None
    has_styles = config.style_data is not None and paths.is_styled
    return make_sheet(
        paths,
        recipe,
        schedule=training.network.schedule,
        styles=find_styles(Path(config.style_data)) if has_styles else {},
        device=training.roles.device,
    )


def _make_stages(distillation: Distillation, steps: int) -> list[Stage]:
    training = distillation.training
    stages = training.task.method.stages
    if stages is None:
        return [Stage(distillation, steps)]
    made = []
    for number in range(len(stages)):
        first, end = stages.bounds(number)
        begin = training.begin_stage if number else None
        made.append(Stage(replace(distillation, first_step=first), end - first, begin))
    return made


def _make_trainer(
    config: DistillConfig, folder: RunFolder, distillation: Distillation, console: Console
) -> Trainer:
    train, accelerator = config.train, distillation.step.accelerator
    sample_every = 0 if distillation.sheet is None else train.sample_every
    return Trainer(
        _make_stages(distillation, train.steps),
        folder,
        accelerator,
        console,
        label="distill",
        cadence=Cadence(train.log_every, sample_every, train.checkpoint_every),
        items_per_step=train.batch_size * train.accumulation * accelerator.num_processes,
        remedy="a lower --learning-rate or --dtype float32",
    )
