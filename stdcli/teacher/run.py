"""Whether a folder holds this very run: what decides the outcome must be the same, pictures going by name.

Settings that cannot change the outcome (device, cadence of reports) may differ from one start to the next.
The number of steps may change as long as the learning rate has not begun to fall: the run is then the same as
if the new number had been given from the beginning.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stdcli.config.teacher import TeacherConfig, TrainSection
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.errors import ConfigError
from stdcli.models.locate import locate_model
from stdcli.models.scratch import check_start, make_scheduler
from stdcli.runtime.devices import choose
from stdcli.teacher.data import TrainingData, count_pictures, find_folders
from stdcli.teacher.samples import plan_samples
from stdcli.training.run_folder import RunFolder, changes

TASK = "teacher"
CODEC = "codec.safetensors"
MODEL = "model"
FREE = {
    "data",  # the names of the pictures are compared, wherever they are
    "style_data",
    "device",
    "train.threads",
    "train.log_every",
    "train.sample_every",
    "train.checkpoint_every",
}
LENGTH = {"train.steps", "train.cooldown"}
OWN = (
    "run.json",
    "metrics.jsonl",
    CODEC,
    "checkpoints",
    "samples",
    MODEL,
    f".{MODEL}.tmp",
)


def open_run(run: RunFolder, config: TeacherConfig, *, overwrite: bool) -> dict[str, Any]:
    """Begin a run in its folder or take it up again.

    Args:
        run: the folder.
        config: settings of this start.
        overwrite: delete what an earlier run left, and begin anew.

    Returns:
        What run.json says, the settings being those of this start.

    Raises:
        ConfigError: the folder holds another run, or other files; nothing is changed then.
    """
    check_run(run, config, overwrite=overwrite)
    if overwrite:
        _clear(run.root)
    facts = run.read_facts() if run.exists() else {"task": TASK, "state": "running"}
    facts["config"] = config.model_dump(mode="json")
    run.write_facts(facts)
    return facts


def check_run(run: RunFolder, config: TeacherConfig, *, overwrite: bool) -> None:
    """Whether `open_run` would accept the folder.

    Raises:
        ConfigError: see `open_run`.
    """
    if run.root.exists() and not run.root.is_dir():
        raise ConfigError("the run needs a folder", where=run.root, got="a file")
    if not run.exists():
        if run.root.is_dir() and any(run.root.iterdir()):
            raise ConfigError(
                "the folder is not empty and holds no run", where=run.root, hint="another --out"
            )
        return
    facts = run.read_facts()
    if facts.get("task") != TASK:
        raise ConfigError(
            "the folder holds a run of another task", where=run.root, got=facts.get("task"), expected=TASK
        )
    if not overwrite:
        _check_settings(run, facts, config)


def plan_stages(config: TeacherConfig, *, out: Path, overwrite: bool) -> list[tuple[str, str, str]]:
    """(stage, work, "done" or "to do") of every stage; nothing is written.

    Raises:
        ConfigError: see `open_run`.
            The recipe fits no path of noise levels.
        MediaError: no such folder of pictures, or too few pictures in it.
        ModelError: `config.init` is no model to start from.
        ResourceError: no such device.
    """
    run = RunFolder(out)
    check_run(run, config, overwrite=overwrite)
    plan_samples(config.recipe, NoiseSchedule.from_config(make_scheduler().config))
    choose(config.device, config.train.dtype, float16_ok=False)
    if config.init is not None:
        check_start(locate_model(config.init, offline=True).path)
    photos, artworks = count_pictures(*find_folders(config.data, config.style_data))
    steps = 0 if overwrite else max((step for step, _ in run.checkpoints()), default=0)
    left = config.train.steps - steps
    stages = (
        (CODEC, f"{config.codec.latent_channels} components, {config.codec.steps} steps"),
        ("checkpoints", f"{left} of {config.train.steps} steps, {photos} photos x {artworks} artworks"),
        (MODEL, "averaged weights in float16"),
    )
    done = {name for name, _ in stages if (out / name).exists() and not overwrite}
    if left > 0:
        done.discard("checkpoints")
    return [(name, work, "done" if name in done else "to do") for name, work in stages]


def check_pictures(facts: dict[str, Any], data: TrainingData) -> None:
    """Whether the run began with these pictures.

    Raises:
        ConfigError: it did not.
    """
    before = facts.get("pictures")
    if before is None or before["names_sha256"] == data.digest:
        return
    after = data.facts()
    problems = [
        (key, f"the run has {before[kind]['train']} {kind} to train on, this folder {after[kind]['train']}")
        for key, kind in (("data", "photos"), ("style_data", "artworks"))
    ]
    raise ConfigError("the pictures are not those of this run", problems, hint="--overwrite begins anew")


def _check_settings(run: RunFolder, facts: dict[str, Any], config: TeacherConfig) -> None:
    differing = changes(facts.get("config", {}), config.model_dump(mode="json"))
    free = FREE | (LENGTH if _may_change_length(run, facts, config) else set())
    problems = [
        (key, f"{old!r} in the run that is there, {new!r} now")
        for key, old, new in differing
        if key not in free
    ]
    if problems:
        hint = "--overwrite begins anew, another --out leaves that run alone"
        raise ConfigError("the folder holds a run with other settings", problems, where=run.root, hint=hint)


def _may_change_length(run: RunFolder, facts: dict[str, Any], config: TeacherConfig) -> bool:
    """Whether the last checkpoint lies before the learning rate falls, in the old plan and in the new one."""
    taken = max((step for step, _ in run.checkpoints()), default=0)
    try:
        before = TrainSection.model_validate(facts["config"]["train"])
    except (KeyError, ValidationError):  # settings of another version of this program
        return False
    return all(taken <= train.steps - train.cooldown_steps for train in (before, config.train))


def _clear(root: Path) -> None:
    for name in OWN:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
