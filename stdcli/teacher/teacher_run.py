"""Whether a folder holds this very run: what decides the outcome must be the same, pictures going by name.

Settings that cannot change the outcome (device, cadence of reports) may differ from one start to the next.
The number of steps may change as long as the learning rate has not begun to fall: the run is then the same as
if the new number had been given from the beginning. A finished run may be made longer at any rate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stdcli.config.teacher import TeacherConfig, TrainSection
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.errors import ConfigError
from stdcli.models.diffusers_api import DDIMScheduler
from stdcli.models.locate import locate_model
from stdcli.models.painter_unet import make_wide_scheduler
from stdcli.runtime.devices import choose
from stdcli.teacher.data import TrainingData, count_pictures, find_folders
from stdcli.teacher.networks import check_start, make_scheduler
from stdcli.teacher.paintings import read_index
from stdcli.teacher.teacher_sheet import plan_samples
from stdcli.training import resume
from stdcli.training.resume import RunKind
from stdcli.training.run_files import check_strays
from stdcli.training.run_folder import RunFolder

TASK = "teacher"
CODEC = "codec.safetensors"
MODEL = "model"
MUTABLE_SETTINGS = {
    "data",  # the names of the pictures are compared, wherever they are
    "style_data",
    "paintings",  # their index is compared
    "device",
    "train.threads",
    "train.log_every",
    "train.sample_every",
    "train.checkpoint_every",
}
LENGTH = {"train.steps", "train.cooldown"}
OUTCOME = (
    rf"{MODEL}/(model_index|recipe)\.json",
    rf"{MODEL}/unet/(config\.json|diffusion_pytorch_model\.safetensors)",
    rf"{MODEL}/vae/(config\.json|diffusion_pytorch_model\.safetensors)",
    rf"{MODEL}/image_encoder/(config\.json|model\.safetensors)",
    rf"{MODEL}/feature_extractor/preprocessor_config\.json",
    rf"{MODEL}/scheduler/scheduler_config\.json",
    rf"{MODEL}/ip_adapter/ip_adapter\.safetensors",
)
RUN_FILES = (r"codec\.safetensors", *OUTCOME)


def open_run(run: RunFolder, config: TeacherConfig, *, overwrite: bool) -> dict[str, Any]:
    """`training.resume.open_run` for a run of these settings."""
    settings = config.model_dump(mode="json")
    return resume.open_run(run, _run_kind(run, config), settings, overwrite=overwrite)


def check_run(run: RunFolder, config: TeacherConfig, *, overwrite: bool) -> None:
    """`training.resume.check_run` for a run of these settings."""
    resume.check_run(run, _run_kind(run, config), config.model_dump(mode="json"), overwrite=overwrite)


def is_finished(run: RunFolder, config: TeacherConfig) -> bool:
    """Whether nothing is left to do of a run that `check_run` has accepted.

    Raises:
        ConfigError: there is more to do, and no checkpoint to go on from.
    """
    if not run.exists() or not (run.root / MODEL).is_dir():
        return False
    steps = config.train.steps
    if run.checkpoints():
        return resume.taken(run) >= steps
    if run.read_metadata()["config"]["train"]["steps"] < steps:
        hint = "--overwrite begins anew, another --out leaves it alone"
        raise ConfigError("this run has no checkpoint left to go on from", where=run.root, hint=hint)
    return True


def note_of_length(run: RunFolder, config: TeacherConfig) -> str | None:
    """What to tell if a run goes on to another number of steps than its learning rates were planned for."""
    if not run.exists():
        return None
    metadata = run.read_metadata()
    if metadata["config"]["train"]["steps"] == config.train.steps or _may_change_length(
        run, metadata, config
    ):
        return None
    return resume.other_rates(resume.taken(run), config.train.steps)


def check_outcome(run: RunFolder) -> None:
    """Refuse to replace a model beside which somebody keeps files. Raises ConfigError."""
    check_strays(run.root, OUTCOME)


def plan_stages(config: TeacherConfig, *, out: Path, overwrite: bool) -> list[tuple[str, str, str]]:
    """(stage, work, "done" or "to do") of every stage; nothing is written.

    Raises:
        ConfigError: see `training.resume.open_run`.
            The recipe fits no path of noise levels.
        MediaError: no such folder of pictures, or too few pictures in it; no index of paintings.
        ModelError: `config.init` is no model to start from.
        ResourceError: no such device.
    """
    run = RunFolder(out)
    check_run(run, config, overwrite=overwrite)
    plan_samples(config.recipe, NoiseSchedule.from_config(scheduler_for(config).config))
    choose(config.device, config.train.dtype, float16_ok=False)
    if config.init is not None:
        check_start(locate_model(config.init, offline=True).path)
    photos, artworks = count_pictures(*find_folders(config.data, config.style_data))
    work = f"{photos} photos x {artworks} artworks"
    if config.paintings is not None:
        work = f"{len(read_index(Path(config.paintings)))} paintings, {artworks} artworks"
    steps = 0 if overwrite else resume.taken(run)
    left = config.train.steps - steps
    stages = (
        (CODEC, f"{config.codec.latent_channels} components, {config.codec.steps} steps"),
        ("checkpoints", f"{left} of {config.train.steps} steps, {work}"),
        (MODEL, "averaged weights in float16"),
    )
    done = {name for name, _ in stages if (out / name).exists() and not overwrite}
    if left > 0:
        done -= {"checkpoints", MODEL}
    return [(name, work, "done" if name in done else "to do") for name, work in stages]


def scheduler_for(config: TeacherConfig) -> DDIMScheduler:
    """Little noise for a network that sees nothing but the state, more for one that sees the photo."""
    return make_scheduler() if config.paintings is None else make_wide_scheduler()


def check_pictures(metadata: dict[str, Any], data: TrainingData, index_sha256: str | None = None) -> None:
    """Whether the run began with these pictures, and this index of paintings.

    Raises:
        ConfigError: it did not.
    """
    before = metadata.get("pictures")
    if before is None:
        return
    if before.get("paintings_sha256") != index_sha256:
        problem = "the run's index of paintings is another one, or one of the two has none"
        raise ConfigError(
            "the paintings are not those of this run",
            [("paintings", problem)],
            hint="--overwrite begins anew",
        )
    if before["names_sha256"] == data.digest:
        return
    after = data.metadata()
    problems = [
        (key, f"the run has {before[kind]['train']} {kind} to train on, this folder {after[kind]['train']}")
        for key, kind in (("data", "photos"), ("style_data", "artworks"))
    ]
    raise ConfigError("the pictures are not those of this run", problems, hint="--overwrite begins anew")


def _run_kind(run: RunFolder, config: TeacherConfig) -> RunKind:
    """What a run of these settings may have before it in its folder."""

    def mutable(metadata: Mapping[str, Any]) -> Collection[str]:
        if _may_change_length(run, metadata, config):
            return MUTABLE_SETTINGS | LENGTH
        is_longer = resume.is_longer(run, metadata, config.model_dump(mode="json"))
        return MUTABLE_SETTINGS | ({"train.steps"} if is_longer else set())

    return RunKind(TASK, RUN_FILES, mutable, type(config)().model_dump(mode="json"))


def _may_change_length(run: RunFolder, metadata: Mapping[str, Any], config: TeacherConfig) -> bool:
    """Whether the last checkpoint lies before the learning rate falls, in the old plan and in the new one."""
    taken = resume.taken(run)
    try:
        before = TrainSection.model_validate(metadata["config"]["train"])
    except (KeyError, ValidationError):  # settings of another version of this program
        return False
    return all(taken <= train.steps - train.cooldown_steps for train in (before, config.train))
