"""Whether a folder holds this very run, and how a run begins in it or goes on.

What decides the outcome must be the same; settings that cannot change it may differ from start to start.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from stdcli.errors import ConfigError
from stdcli.training.run_files import LEFTOVERS, LOCK, RUN, check_strays, clear
from stdcli.training.run_folder import RunFolder, changes


@dataclass(frozen=True)
class RunKind:
    """What tells runs of one task from others.

    Attributes:
        task: in run.json.
        files: patterns of names below the folder that belong to such a run beside `RUN`.
        mutable: what run.json says -> dotted settings that may differ.
        defaults: values of settings, nested as they are; what a run of before says nothing of had them.
    """

    task: str
    files: tuple[str, ...]
    mutable: Callable[[Mapping[str, Any]], Collection[str]]
    defaults: Mapping[str, Any] = field(default_factory=dict)


def open_run(
    run: RunFolder, kind: RunKind, settings: Mapping[str, Any], *, overwrite: bool
) -> dict[str, Any]:
    """Begin a run in its folder or take it up again.

    Args:
        run: the folder.
        kind: of the run.
        settings: of this start, as JSON holds them.
        overwrite: delete what an earlier run left, and begin anew.

    Returns:
        What run.json says, the settings being those of this start.

    Raises:
        ConfigError: the folder holds another run, or other files where the run's own are to be deleted;
            nothing is changed then.
        ResourceError: the disk is full or refuses.
    """
    check_run(run, kind, settings, overwrite=overwrite)
    clear(run.root, (*RUN, *LEFTOVERS, *kind.files) if overwrite else LEFTOVERS)
    metadata = run.read_metadata() if run.exists() else {"task": kind.task, "state": "running"}
    metadata["config"] = dict(settings)
    run.write_metadata(metadata)
    return metadata


def check_run(run: RunFolder, kind: RunKind, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Whether `open_run` would accept the folder.

    Raises:
        ConfigError: see `open_run`.
    """
    if run.root.exists() and not run.root.is_dir():
        raise ConfigError("the run needs a folder", where=run.root, got="a file")
    if not run.exists():
        if run.root.is_dir() and any(path.name != LOCK for path in run.root.iterdir()):
            raise ConfigError(
                "the folder is not empty and holds no run", where=run.root, hint="another --out"
            )
        return
    metadata = run.read_metadata()
    if not isinstance(metadata.get("config", {}), dict):
        raise ConfigError(
            "the run's settings are no JSON object", where=run.metadata_path, got=metadata["config"]
        )
    if metadata.get("task") != kind.task:
        raise ConfigError(
            "the folder holds a run of another task",
            where=run.root,
            got=metadata.get("task"),
            expected=kind.task,
        )
    if overwrite:
        check_strays(run.root, (*RUN, *LEFTOVERS, *kind.files))
    else:
        _check_settings(run, kind, metadata, settings)


def taken(run: RunFolder) -> int:
    """Steps up to the last checkpoint."""
    return max((step for step, _ in run.checkpoints()), default=0)


def is_longer(run: RunFolder, metadata: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether the run has taken all its steps, and these settings ask for more of them.

    Args:
        run: the folder.
        metadata: what run.json says.
        settings: of this start.
    """
    try:
        before, after = int(metadata["config"]["train"]["steps"]), int(settings["train"]["steps"])
    except (KeyError, TypeError, ValueError):  # settings of another version of this program
        return False
    return before <= taken(run) and before < after


def other_rates(taken: int, steps: int) -> str:
    """What to tell of a run that goes on to more steps than its learning rate was planned for."""
    return (
        f"the first {taken} steps had the learning rates of a shorter run: the outcome will not be that of "
        f"{steps} steps from the start"
    )


def _filled(stored: Any, defaults: Mapping[str, Any]) -> Any:
    """Settings with the defaults of those that are not among them, which came later."""
    if not isinstance(stored, Mapping):
        return stored
    known = {
        key: _filled(value, inner) if isinstance(inner := defaults.get(key), Mapping) else value
        for key, value in stored.items()
    }
    return {**{key: value for key, value in defaults.items() if key not in stored}, **known}


def _check_settings(
    run: RunFolder, kind: RunKind, metadata: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    mutable = kind.mutable(metadata)
    problems = [
        (key, f"{old!r} in the run that is there, {new!r} now")
        for key, old, new in changes(_filled(metadata.get("config", {}), kind.defaults), settings)
        if key not in mutable
    ]
    if problems:
        hint = "--overwrite begins anew, another --out leaves that run alone"
        raise ConfigError("the folder holds a run with other settings", problems, where=run.root, hint=hint)
