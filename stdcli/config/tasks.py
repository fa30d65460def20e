"""The tasks that take settings: the folder of their presets, and the schema of each."""

from __future__ import annotations

from stdcli.config import distill_methods
from stdcli.config.bank import BankConfig
from stdcli.config.distill import DistillConfig, distill_config
from stdcli.config.evaluate import EvalConfig
from stdcli.config.inpaint import InpaintConfig
from stdcli.config.schema import Section, StylizeConfig
from stdcli.config.teacher import TeacherConfig

TASKS: dict[str, type[Section]] = {
    "bank": BankConfig,
    "distill": DistillConfig,
    "eval": EvalConfig,
    "inpaint": InpaintConfig,
    "stylize": StylizeConfig,
    "teacher": TeacherConfig,
}


def task_of(config: Section) -> str:
    """The task whose settings these are."""
    return next(task for task, schema in TASKS.items() if schema is type(config))


def register_method(method: distill_methods.MethodSettings) -> None:
    """Add a method of distillation from outside this package; it may then be named wherever its own may.

    Args:
        method: replaces one of the same name.
    """
    distill_methods.add(method)
    TASKS["distill"] = distill_config()
