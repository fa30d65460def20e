"""The adversary of a run, put together from settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from stdcli.bank.reader import Bank
from stdcli.config.distill import AdversarySection
from stdcli.distill.adversary import Adversary
from stdcli.distill.batch_sources import RealLatents
from stdcli.distill.discriminator import Discriminator, condition_vector
from stdcli.distill.features import DinoFeatures, Features, TeacherFeatures
from stdcli.distill.real_latents import PathEnds, make_online_styles, make_styles, samples
from stdcli.distill.student import Student
from stdcli.distill.teacher_paths import TeacherPaths
from stdcli.errors import ConfigError, StdcliError
from stdcli.models.codec import Codec
from stdcli.models.condition import split_conditions
from stdcli.models.perceptual.dino import load_dino

GetCodec = Callable[[], Codec]


def make_adversary(
    section: AdversarySection,
    *,
    paths: TeacherPaths,
    student: Student,
    get_codec: GetCodec,
    device: torch.device,
    seed: int,
    offline: bool,
    sees_given: bool = False,
) -> tuple[Adversary, str]:
    """Features, discriminator and losses.

    Args:
        section: settings.
        paths: whose conditions the discriminator is told.
        student: whose teacher gives features.
        get_codec: loads the codec, for DINOv2.
        device: of everything.
        seed: of the discriminator's weights.
        offline: never reach the network.
        sees_given: whether it is shown what a state came from too.

    Returns:
        The adversary, and one line about what it sees.

    Raises:
        ConfigError: the teacher's features are asked for, and it sees the photo.
        ModelError, HubError: DINOv2 was asked for and cannot be loaded.
    """
    cond, uncond = split_conditions({k: v[None] for k, v in paths.conditions.items()}, device)
    features, note = _features(section, get_codec, device=device, offline=offline)
    if features is None and student.denoiser.sees_photo:
        problem = "dino is needed for a model that sees the photo beside the noise"
        raise ConfigError("the adversary has no photo to show the teacher", [("adversary.features", problem)])
    if features is None:
        features = TeacherFeatures(student, uncond)
    width = condition_vector(cond).shape[1]
    channels = [(2 if sees_given else 1) * count for count in features.channels]
    discriminator = Discriminator(channels, width, norm=section.norm, seed=seed).to(device)
    adversary = Adversary(
        features,
        discriminator,
        loss=section.loss,
        gradient_penalty=section.gradient_penalty,
        r1=section.r1,
        sees_given=sees_given,
    )
    return adversary, note


def make_real_latents(
    section: AdversarySection,
    *,
    paths: TeacherPaths,
    style_data: str | None,
    get_codec: GetCodec,
    device: torch.device,
) -> tuple[RealLatents, str]:
    """Where real latents come from, and its name.

    Args:
        section: settings.
        paths: stored, or sampled meanwhile.
        style_data: folder of a bank's style pictures; those of sampled paths are the rollout's.
        get_codec: loads the codec, for style pictures.
        device: of the codec.

    Raises:
        ConfigError: style pictures are asked for and not there.
    """
    kind = section.real
    if kind == "auto":
        kind = _usual_real(paths)
    if kind == "path-end":
        return PathEnds(Bank(paths.bank.files.root)), kind  # one of its own: the other is read by a thread
    if kind == "style" and paths.bank is None:
        return make_online_styles(paths.rollout, codec=get_codec(), device=device), kind
    if kind == "style":
        return make_styles(paths.bank, Path(style_data), codec=get_codec(), device=device), kind
    return samples, kind


def _usual_real(paths: TeacherPaths) -> str:
    """What "auto" takes: something in the style wherever there is one."""
    if paths.bank is None:
        return "style" if paths.rollout.styles else "x0"
    return "path-end" if paths.is_styled else "x0"


def _features(
    section: AdversarySection, get_codec: GetCodec, *, device: torch.device, offline: bool
) -> tuple[Features | None, str]:
    """DINOv2's features where they are wanted and there, else None for the teacher's."""
    if section.features == "teacher":
        return None, "the adversary sees the teacher's features"
    is_wanted = section.features == "dino"
    try:
        dino = load_dino(section.dino, device=device, offline=offline or not is_wanted)
    except StdcliError:
        if is_wanted:
            raise
        return None, f"the adversary sees the teacher's features: {section.dino} is not on this disk"
    return DinoFeatures(dino, get_codec()), f"the adversary sees the features of {section.dino}"
