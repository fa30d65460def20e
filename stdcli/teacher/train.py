"""`stdcli teacher train`: from folders of pictures to a model, in three stages that can each be resumed.

    codec      OUT/codec.safetensors   components of patches, then the decoder's correction
    denoiser   OUT/checkpoints/        the network; and the decoder, unless on definite paintings
    model      OUT/model/              a diffusers folder with the averaged weights

A stage whose result is there is not done again, so the same command resumes a stopped run, and a finished one
is left alone. Picture n, batch n and noise n depend on the seed and n alone. This module knows the order of
things and their files; the stages' own modules know the rest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stdcli.config.teacher import TeacherConfig
from stdcli.console import Console
from stdcli.diffusion.levels import SamplingPath
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.models.lapped_autoencoder import LappedAutoencoder
from stdcli.models.locate import locate_model
from stdcli.runtime.devices import DeviceChoice, choose
from stdcli.runtime.durable import new_folder
from stdcli.runtime.seeding import fold
from stdcli.teacher.codec_fitting import SIGNAL, crops, fit_components, psnr_db, refine_decoder
from stdcli.teacher.data import TrainingData, find_folders, load_data
from stdcli.teacher.lapped import fit_lapped
from stdcli.teacher.networks import (
    SmallCodec,
    StylizerNetworks,
    build_codec,
    build_lapped_codec,
    build_networks,
    load_weights,
    save_folder,
)
from stdcli.teacher.painters import find_paintings, index_digest, open_task
from stdcli.teacher.paintings import Paintings
from stdcli.teacher.pictures import PictureSet
from stdcli.teacher.teacher_run import (
    CODEC,
    MODEL,
    check_outcome,
    check_pictures,
    check_run,
    is_finished,
    note_of_length,
    open_run,
    scheduler_for,
)
from stdcli.teacher.teacher_sheet import TeacherSheet, plan_samples
from stdcli.teacher.teacher_training import make_training
from stdcli.training.checkpoint import DamagedError, load_checkpoint, save_checkpoint
from stdcli.training.ema import Ema
from stdcli.training.run_files import hold_run
from stdcli.training.run_folder import RunFolder, versions
from stdcli.training.train_step import make_accelerator
from stdcli.training.trainer import Cadence, Stage, Trainer

MEASURED_CROPS = 64
MEASURED_CROP_PX = 128
SHEET_PHOTOS, SHEET_STYLES = 4, 3
SHEET_SIZE_IDX = 1  # of SHORT_SIDES_PX: 256, what the style encoder is made for


@dataclass(frozen=True)
class TrainedTeacher:
    """The outcome of `train_teacher`.

    Attributes:
        model: the diffusers folder.
        was_finished: True if nothing was left to do.
        metadata: what run.json says.
    """

    model: Path
    was_finished: bool
    metadata: dict[str, Any]


def train_teacher(
    config: TeacherConfig, *, out: Path, console: Console, overwrite: bool = False
) -> TrainedTeacher:
    """Train a small stylizer, or go on with it.

    Args:
        config: everything that may be set; `config.data` must be given.
        out: folder of the run; holds the model in `model/` afterwards.
        console: told of progress and of what could not be read.
        overwrite: begin anew, deleting what an earlier run left in `out`.

    Returns:
        Where the model is.

    Raises:
        ConfigError: the settings differ from those of the run in `out`, or fit no path of noise levels.
        MediaError: too few pictures, or no such folder.
        ModelError: `config.init` is no model to start from.
        NumericsError: the training diverged; names the step.
        ResourceError: no such device, or the disk is full.
        KeyboardInterrupt: the user stopped the run; the state is saved.
    """
    run, model = RunFolder(out), out / MODEL
    check_run(run, config, overwrite=overwrite)
    if not overwrite and is_finished(run, config):
        return TrainedTeacher(model, was_finished=True, metadata=run.read_metadata())
    with hold_run(run):
        return _train(config, run, console, overwrite=overwrite)


def _train(config: TeacherConfig, run: RunFolder, console: Console, *, overwrite: bool) -> TrainedTeacher:
    """`train_teacher` of a run that is not finished."""
    model = run.root / MODEL
    if not overwrite:
        check_outcome(run)
        if note := note_of_length(run, config):
            console.note(note)
    scheduler = scheduler_for(config)
    schedule = NoiseSchedule.from_config(scheduler.config)
    path = plan_samples(config.recipe, schedule)
    choice = choose(config.device, config.train.dtype, float16_ok=False)
    networks, codec = _build(config)
    data = load_data(*find_folders(config.data, config.style_data), console=console)
    if run.exists() and not overwrite:
        check_pictures(run.read_metadata(), data, index_digest(config))
    paintings = find_paintings(config, console)
    metadata = open_run(run, config, overwrite=overwrite)  # from here on the folder holds this run
    console.note(f"training on {choice.reason}")
    try:
        metadata |= {
            "state": "running",
            "versions": versions(),
            "device": choice.reason,
            "pictures": data.metadata() | {"paintings_sha256": index_digest(config)},
        }
        run.write_metadata(metadata)
        codec.to(choice.device)
        _codec_stage(config, data, codec, run=run, console=console)
        metadata["codec"] = {"psnr_db": _measure_codec(codec, data, config.seed)}
        console.note(f"codec: {metadata['codec']['psnr_db']:.1f} dB")
        run.write_metadata(metadata)
        sheet = _make_sheet(data, codec, schedule, path=path, config=config, console=console)
        ema = _denoiser_stage(
            config, data, paintings, networks, sheet=sheet, choice=choice, run=run, console=console
        )
        with ema.applied(), new_folder(model, check=lambda: check_outcome(run)) as fresh:
            save_folder(fresh, networks=networks, codec=codec, scheduler=scheduler, recipe=config.recipe)
    except KeyboardInterrupt:
        console.note(f"stopped; the same command goes on with {run.root}")
        raise
    metadata["state"] = "complete"
    run.write_metadata(metadata)
    return TrainedTeacher(model, was_finished=False, metadata=metadata)


def _build(config: TeacherConfig) -> tuple[StylizerNetworks, SmallCodec]:
    """Networks and codec as a run begins with them."""
    section = config.codec
    if section.kind == "lapped":
        codec = build_lapped_codec(
            latent_channels=section.latent_channels, widths=section.widths, seed=config.seed
        )
    else:
        codec = build_codec(
            latent_channels=section.latent_channels,
            hidden_channels=section.hidden_channels,
            hidden_layers=section.hidden_layers,
            seed=config.seed,
        )
    networks = build_networks(
        latent_channels=section.latent_channels,
        sees_photo=config.paintings is not None,
        seed=config.seed,
        **config.network.model_dump(),
    )
    if config.init is not None:
        load_weights(locate_model(config.init, offline=True).path, networks=networks, codec=codec)
    return networks, codec


def _codec_stage(
    config: TeacherConfig, data: TrainingData, codec: SmallCodec, *, run: RunFolder, console: Console
) -> None:
    """Load the codec or fit it; one that came with `config.init` is kept: the network knows its latents."""
    section, path = config.codec, run.root / CODEC
    if os.path.lexists(path):
        try:
            codec.load_state_dict(load_checkpoint(path)[0])
            return
        except DamagedError as error:
            console.warning(f"{path} is damaged ({error.got}); it is made again")
    if config.init is None:
        sets = (data.content, data.art)
        fitted = crops(
            sets,
            count=section.fit_crops,
            crop_px=section.fit_crop_px,
            generator=fold(config.seed, "codec", "fit"),
        )
        if isinstance(codec, LappedAutoencoder):
            generator = fold(config.seed, "codec", "lapped")
            fit_lapped(codec, fitted, signal=SIGNAL, steps=section.fit_steps, generator=generator)
        else:
            fit_components(codec, fitted, temper=section.temper)
        with console.progress("codec", section.steps) as progress:

            def on_step(step: int, loss: float, psnr: float) -> None:
                progress.advance()
                if (step + 1) % config.train.log_every == 0:
                    run.report({"codec/step": step + 1, "codec/loss": loss, "codec/psnr_db": psnr})

            refine_decoder(
                codec,
                sets,
                steps=section.steps,
                batch_size=section.batch_size,
                crop_px=section.crop_px,
                generator=fold(config.seed, "codec", "refine"),
                learning_rate=section.learning_rate,
                on_step=on_step,
            )
    save_checkpoint(path, codec.state_dict(), metadata={"steps": str(section.steps)})


@torch.no_grad()
def _measure_codec(codec: SmallCodec, data: TrainingData, seed: int) -> float:
    """PSNR in dB on crops of pictures that were not trained on, if there are any."""
    held = tuple(side for side in (data.held_content, data.held_art) if len(side))
    sets = held or (data.content, data.art)
    generator = fold(seed, "codec", "measure")
    x = crops(sets, count=MEASURED_CROPS, crop_px=MEASURED_CROP_PX, generator=generator)
    x = x.to(codec.project.weight.device)
    return psnr_db((codec(x).sample - x).square().mean().item())


def _denoiser_stage(
    config: TeacherConfig,
    data: TrainingData,
    paintings: Paintings | None,
    networks: StylizerNetworks,
    *,
    sheet: TeacherSheet,
    choice: DeviceChoice,
    run: RunFolder,
    console: Console,
) -> Ema:
    """Train to the last step, on from where the run was; the averaged weights."""
    networks.unet.to(choice.device, memory_format=torch.channels_last)
    networks.style_encoder.to(choice.device)
    # mixed precision is the tasks' own concern
    accelerator = make_accelerator(replace(choice, dtype=torch.float32))
    train = config.train
    parts = {"codec": sheet.codec, "schedule": sheet.schedule, "choice": choice, "console": console}
    with open_task(config, data, paintings, networks, **parts) as task:
        training = make_training(task, train, accelerator, sheet.render)
        trainer = Trainer(
            [Stage(training, train.steps)],
            run,
            accelerator,
            console,
            label="denoiser",
            cadence=Cadence(train.log_every, train.sample_every, train.checkpoint_every),
            items_per_step=train.batch_size,
            remedy="a lower --set train.learning_rate=..., with --overwrite to begin anew",
        )
        trainer.resume()
        trainer.run()
    return training.ema


def _make_sheet(
    data: TrainingData,
    codec: SmallCodec,
    schedule: NoiseSchedule,
    *,
    path: SamplingPath,
    config: TeacherConfig,
    console: Console,
) -> TeacherSheet:
    """Choose the photos and styles of the sample sheets, held-out ones if there are any."""
    photos, styles = data.held_content, data.held_art
    if not (len(photos) and len(styles)):
        console.warning("too few pictures to hold some back: the samples show pictures that are trained on")
        photos, styles = data.content, data.art
    return TeacherSheet(
        photos=_squares(photos, SHEET_PHOTOS),
        styles=_squares(styles, SHEET_STYLES),
        codec=codec,
        schedule=schedule,
        recipe=config.recipe,
        path=path,
        seed=config.seed,
    )


def _squares(pictures: PictureSet, count: int) -> torch.Tensor:
    chosen = range(min(count, len(pictures)))
    return torch.stack([pictures.square(i, size_idx=SHEET_SIZE_IDX) for i in chosen]) * 2 - 1
