"""The files of a distillation run, and whether a folder holds this very one.

run.json  metrics.jsonl  checkpoints/  samples/      as in every run, see `training.run_folder`
tensorboard/                                         where asked for
student/                                             the outcome: weights and recipe.json
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stdcli.config.distill import DistillConfig, TrainSection
from stdcli.config.distill_methods import find_method
from stdcli.config.stages import StagedSection
from stdcli.errors import ConfigError
from stdcli.models.layout import EMBEDDER_FILE, LORA_FILE, NETWORKS, RECIPE_FILE
from stdcli.training import resume
from stdcli.training.resume import RunKind
from stdcli.training.run_files import check_strays
from stdcli.training.run_folder import RunFolder
from stdcli.training.trained_module import make_lr_schedule

TASK, STUDENT, TENSORBOARD = "distill", "student", "tensorboard"
_ANY = "|".join(NETWORKS)
OUTCOME = (
    rf"{STUDENT}/{re.escape(LORA_FILE)}",
    rf"{STUDENT}/{re.escape(EMBEDDER_FILE)}",
    rf"{STUDENT}/{re.escape(RECIPE_FILE)}",
    rf"{STUDENT}/({_ANY})/config\.json",
    rf"{STUDENT}/({_ANY})/diffusion_pytorch_model\.safetensors",
)
RUN_FILES = (*OUTCOME, rf"{TENSORBOARD}/events\.out\.tfevents\..+")
MUTABLE_SETTINGS = {
    "bank",  # what is in it is compared, wherever it is
    "model",
    "base",
    "offline",
    "device",
    "train.log_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.tensorboard",
}


def check_run(run: RunFolder, config: DistillConfig, *, overwrite: bool) -> None:
    """Whether a run of these settings may begin or go on in its folder.

    Raises:
        ConfigError: it holds another run, other files, or a run whose checkpoints are gone.
    """
    resume.check_run(run, _kind(run, config), config.model_dump(mode="json"), overwrite=overwrite)
    is_begun = run.exists() and not overwrite and run.metrics_path.exists()
    if is_begun and not run.checkpoints() and not is_finished(run, config):
        raise ConfigError(
            "this run has no checkpoint left to go on from",
            where=run.root,
            hint="--overwrite begins anew, another --out leaves it alone",
        )


def is_finished(run: RunFolder, config: DistillConfig) -> bool:
    """Whether nothing is left to do."""
    if not run.exists() or not (run.root / STUDENT).is_dir():
        return False
    metadata = run.read_metadata()
    return metadata.get("state") == "complete" and metadata.get("steps", 0) >= config.train.steps


def note_of_length(run: RunFolder, config: DistillConfig) -> str | None:
    """What to tell if a run goes on to another number of steps than its learning rates were planned for."""
    if not run.exists():
        return None
    before = run.read_metadata()["config"]["train"]
    count = resume.taken(run)
    if before["steps"] == config.train.steps:
        return None
    plans = (TrainSection.model_validate(before), config.train)
    old, new = (make_lr_schedule(1, steps=p.steps, warmup_steps=p.rise, schedule=p.schedule) for p in plans)
    if all(old(step) == new(step) for step in range(count)):
        return None
    return resume.other_rates(count, config.train.steps)


def check_outcome(run: RunFolder) -> None:
    """Refuse to replace a student beside which somebody keeps files. Raises ConfigError."""
    check_strays(run.root, OUTCOME)


def open_run(
    run: RunFolder, config: DistillConfig, learned: Mapping[str, Any], *, overwrite: bool
) -> dict[str, Any]:
    """Begin a run in its folder or take it up again.

    Args:
        run: the folder.
        config: settings of this start.
        learned: what else decides the outcome: paths, number of processes.
        overwrite: delete what an earlier run left, and begin anew.

    Returns:
        What run.json says.

    Raises:
        ConfigError: as `check_run`, or the rest is not as in the run that is there.
        ResourceError: the disk is full or refuses.
    """
    check_run(run, config, overwrite=overwrite)
    stored = run.read_metadata().get("learned") if run.exists() and not overwrite else None
    if stored is not None:
        problems = [
            (name, f"{stored.get(name)} in the run that is there, {value} now")
            for name, value in learned.items()
            if stored.get(name) != value
        ]
        if problems:
            hint = "--overwrite begins anew, another --out leaves that run alone"
            raise ConfigError("this run began otherwise", problems, where=run.root, hint=hint)
    metadata = resume.open_run(run, _kind(run, config), config.model_dump(mode="json"), overwrite=overwrite)
    return metadata | {"learned": dict(learned)}


def _kind(run: RunFolder, config: DistillConfig) -> RunKind:
    settings = config.model_dump(mode="json")

    def mutable(metadata: Mapping[str, Any]) -> set[str]:
        fixed = MUTABLE_SETTINGS | ({"style_data"} if config.adversary.real != "style" else set())
        if _is_staged(config):  # where stages end depends on how many steps there are
            return fixed
        is_mutable = config.train.schedule == "constant" or resume.is_longer(run, metadata, settings)
        return fixed | ({"train.steps"} if is_mutable else set())

    return RunKind(TASK, RUN_FILES, mutable, type(config)().model_dump(mode="json"))


def _is_staged(config: DistillConfig) -> bool:
    section = find_method(config.method).section
    return section is not None and issubclass(section, StagedSection)
