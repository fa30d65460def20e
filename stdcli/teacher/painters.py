"""What a run's settings ask the networks to learn: the closed-form painting, or definite paintings.

The second foretells the artworks' features where the package with VGG-16 is installed; without it, a warning
says so and the style encoder learns from the loss of v alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F

from stdcli.config.teacher import TeacherConfig
from stdcli.console import Console
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.errors import MissingWeights
from stdcli.runtime.devices import DeviceChoice
from stdcli.teacher.data import TrainingData
from stdcli.teacher.denoiser_task import DenoiserTask
from stdcli.teacher.imitation import ImitationTask, measure_variances, principal_statistics
from stdcli.teacher.lessons import Lessons
from stdcli.teacher.networks import SmallCodec, StylizerNetworks
from stdcli.teacher.paintings import INDEX, SIDE_PX, Paintings, load_paintings, read_index
from stdcli.teacher.pairs import PairSampler, prefetched
from stdcli.teacher.pictures import SHORT_SIDES_PX, PictureSet
from stdcli.teacher.style_losses import STYLE_LAYERS, style_statistics
from stdcli.teacher.teacher_training import TeacherTask
from stdcli.teacher.vgg import load_vgg

FORETOLD = 64  # principal components of artworks' features
MEASURED = 16  # batches that the paintings' difference to the photos is measured on
BATCH = 8  # artworks that are looked at together


@contextmanager
def open_task(
    config: TeacherConfig,
    data: TrainingData,
    paintings: Paintings | None,
    networks: StylizerNetworks,
    *,
    codec: SmallCodec,
    schedule: NoiseSchedule,
    choice: DeviceChoice,
    console: Console,
) -> Iterator[TeacherTask]:
    """What a run learns; its threads end with the block.

    Args:
        config: of the run.
        data: photos and artworks.
        paintings: definite paintings; None trains on the closed-form one.
        networks: to train, on the device; they see the photo if there are paintings.
        codec: fitted, on the device.
        schedule: of the denoiser.
        choice: of the device.
        console: told what goes on before the first step.
    """
    train = config.train
    settings = {
        "networks": networks,
        "codec": codec,
        "schedule": schedule,
        "batch_size": train.batch_size,
        "seed": config.seed,
        "device": choice.device,
        "autocast": None if choice.dtype == torch.float32 else choice.dtype,
    }
    if paintings is None:
        sampler = PairSampler(data.content, data.art, seed=config.seed, **config.pairs.model_dump())
        with prefetched(sampler, threads=train.threads) as source:
            yield DenoiserTask(pairs=source, texture_weight=train.texture_weight, **settings)
        return
    statistics = look_at(data.art, choice.device, console)
    lessons = Lessons(
        paintings,
        data.art,
        art_share=config.pairs.art_share,
        crop_px=config.pairs.photo_px,
        style_px=config.pairs.style_px,
        rows={name: row for row, name in enumerate(data.art.names)} if len(statistics) else {},
        seed=config.seed,
    )
    variances = measure_variances(codec, lessons, batches=MEASURED, batch_size=train.batch_size)
    networks.unet.variances.copy_(variances)
    with prefetched(lessons, threads=train.threads) as source:
        yield ImitationTask(lessons=source, statistics=statistics, **settings)


def find_paintings(config: TeacherConfig, console: Console) -> Paintings | None:
    """The paintings that are trained on; None if the settings name none.

    Raises:
        MediaError: no index of them, a row that cannot be read, or none to train on.
    """
    if config.paintings is None:
        return None
    folder = Path(config.paintings)
    with console.progress("paintings", len(read_index(folder))) as progress:
        return load_paintings(folder, held_out=False, progress=progress)


def index_digest(config: TeacherConfig) -> str | None:
    """SHA-256 of the index of paintings; None without paintings.

    Raises:
        MediaError: no index of them.
    """
    if config.paintings is None:
        return None
    read_index(Path(config.paintings))
    return hashlib.sha256((Path(config.paintings) / INDEX).read_bytes()).hexdigest()


@torch.no_grad()
def look_at(art: PictureSet, device: torch.device, console: Console) -> torch.Tensor:
    """What the style encoder should foretell of artworks: float32 [N, FORETOLD], N 0 without VGG-16."""
    try:
        network = load_vgg(last=STYLE_LAYERS[-1]).to(device)
    except MissingWeights as missing:
        console.warning(f"{missing.what}: the style encoder is taught by paintings alone; {missing.fetch}")
        return torch.zeros(0, FORETOLD)
    moments, size_idx = [], SHORT_SIDES_PX.index(SIDE_PX)
    with console.progress("artworks", len(art)) as progress:
        for first in range(0, len(art), BATCH):
            indices = range(first, min(first + BATCH, len(art)))
            squares = torch.stack([art.square(index, size_idx=size_idx) for index in indices])
            moments.append(style_statistics(network, squares.to(device)).moments().cpu())
            for _ in indices:
                progress.advance()
    found = principal_statistics(torch.cat(moments), kept=FORETOLD)
    return F.pad(found, (0, FORETOLD - found.shape[1]))
