"""Which pictures the sample sheets show."""

from __future__ import annotations

import pytest
import torch

from stdcli.config.teacher import TeacherConfig
from stdcli.console import Console
from stdcli.diffusion.levels import make_sampling_path
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.teacher.data import TrainingData
from stdcli.teacher.networks import build_codec, make_scheduler
from stdcli.teacher.teacher_sheet import TeacherSheet
from stdcli.teacher.train import SHEET_PHOTOS, SHEET_STYLES, _make_sheet
from tests.tiny_pictures import flat_set

SCHEDULE = NoiseSchedule.from_config(make_scheduler().config)


def flat(level: int, count: int):
    return flat_set(torch.full((count, 3), level, dtype=torch.uint8))


def make_sheet(*, held: int) -> TeacherSheet:
    data = TrainingData(flat(0, 9), flat(0, 9), flat(255, held), flat(255, held))
    codec = build_codec(latent_channels=4, hidden_channels=4)
    plan = make_sampling_path(SCHEDULE, steps=2, strength=0.6)
    return _make_sheet(data, codec, SCHEDULE, path=plan, config=TeacherConfig(), console=Console("quiet"))


def test_held_out_pictures_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    sheet = make_sheet(held=9)
    assert sheet.photos.shape == (SHEET_PHOTOS, 3, 256, 256)
    assert sheet.styles.shape == (SHEET_STYLES, 3, 256, 256)
    assert (sheet.photos == 1).all() and (sheet.styles == 1).all()
    assert capsys.readouterr().err == ""
    assert make_sheet(held=1).photos.shape[0] == 1


def test_without_held_out_pictures_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    sheet = make_sheet(held=0)
    assert (sheet.photos == -1).all()
    assert "the samples show pictures that are trained on" in capsys.readouterr().err
