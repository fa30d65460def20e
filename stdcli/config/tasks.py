"""The tasks that take settings: the folder of their presets, and the schema of each."""

from __future__ import annotations

from stdcli.config.bank import BankConfig
from stdcli.config.schema import Section, StylizeConfig
from stdcli.config.teacher import TeacherConfig

TASKS: dict[str, type[Section]] = {"bank": BankConfig, "stylize": StylizeConfig, "teacher": TeacherConfig}
