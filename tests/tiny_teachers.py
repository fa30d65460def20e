"""Trainings of small teachers, without files."""

from __future__ import annotations

from typing import Any

import torch

from stdcli.config.teacher import TrainSection
from stdcli.runtime.devices import choose
from stdcli.teacher.networks import StylizerNetworks
from stdcli.teacher.teacher_training import TeacherTask, TeacherTraining, make_training
from stdcli.training.train_step import make_accelerator
from tests.tiny_accelerator import forget_accelerator

TRAIN = {"steps": 10, "cooldown": 0.4, "warmup_steps": 2, "learning_rate": 1e-3, "ema_decay": 0.9}


def training_of(task: TeacherTask, **changes: Any) -> TeacherTraining:
    """A training of ten steps, which draws nothing."""
    forget_accelerator()
    accelerator = make_accelerator(choose("cpu", "float32"))
    return make_training(task, TrainSection(**(TRAIN | changes)), accelerator, lambda networks: None)


def tensors_of(networks: StylizerNetworks) -> dict[str, torch.Tensor]:
    """Every state tensor under `unet.` or `style_encoder.`, sharing storage with the networks."""
    return torch.nn.ModuleDict(networks.modules()).state_dict()
