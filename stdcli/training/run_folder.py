"""The folder of one training run, and how a stopped run finds its way back.

    run.json                          settings, versions and metadata of the run
    metrics.jsonl                     one object per report, keys with namespace and unit
    checkpoints/step-000500.safetensors
    samples/step-000500.png

Every file but metrics.jsonl is written under a temporary name and renamed. It knows nothing of what is
trained.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import stdcli
from stdcli.console import to_plain
from stdcli.disk.opening import own_path
from stdcli.disk.reading import decode, iter_lines, parse_object, read_object
from stdcli.disk.removing import remove_file
from stdcli.disk.writing import open_append, write_durably
from stdcli.errors import ResourceError, StdcliError
from stdcli.training.checkpoint import DamagedError, load_checkpoint, save_checkpoint

PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "numpy", "pillow")
KEPT_CHECKPOINTS = 2
STEP = "progress/step"
_CHECKPOINT = re.compile(r"step-(\d+)\.safetensors")


class RunFolder:
    """Reads and writes the files of a run.

    Args:
        root: the folder; created by the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.metadata_path = root / "run.json"
        self.metrics_path = root / "metrics.jsonl"

    def exists(self) -> bool:
        """Whether a run has begun here."""
        return self.metadata_path.is_file()

    def read_metadata(self) -> dict[str, Any]:
        """What run.json says.

        Raises:
            StdcliError: not a JSON object, or a link.
        """
        return read_object(self._own("run.json"), StdcliError, links=False)

    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace run.json, making the folder if there is none.

        Raises:
            ResourceError: the disk is full or refuses.
        """
        _replace(self._own("run.json"), (json.dumps(to_plain(dict(metadata)), indent=2) + "\n").encode())

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Append one object to metrics.jsonl.

        Raises:
            ResourceError: the disk is full or refuses.
        """
        with _writing(self.metrics_path), open_append(self.metrics_path) as file:
            file.write((json.dumps(to_plain(dict(metrics))) + "\n").encode())

    def rewind_reports(self, step: int) -> None:
        """Drop the reports of steps after `step`, which a resumed run takes again, and torn lines.

        Raises:
            StdcliError: the file is a link, or no plain file.
            ResourceError: the disk is full or refuses.
        """
        path = self._own("metrics.jsonl")
        if not path.exists():
            return
        lines = iter_lines(path, StdcliError, links=False)
        kept = [line for number, line in lines if _step_of(line, f"{path}:{number}") <= step]
        _replace(path, b"".join(line + b"\n" for line in kept))

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, file) of every checkpoint, oldest first."""
        folder = self._own("checkpoints")
        found = ((_CHECKPOINT.fullmatch(path.name), path) for path in folder.glob("step-*"))
        return sorted((int(match[1]), path) for match, path in found if match)

    def save(
        self, step: int, tensors: dict[str, torch.Tensor], *, metadata: Mapping[str, str] | None = None
    ) -> Path:
        """Write the checkpoint of a step, with further metadata, and delete all but the last two."""
        path = self._own("checkpoints") / f"{step_name(step)}.safetensors"
        save_checkpoint(path, tensors, metadata={"step": str(step), **(metadata or {})})
        for _, old in self.checkpoints()[:-KEPT_CHECKPOINTS]:
            with _writing(old):
                remove_file(old)
        return path

    def newest(
        self, *, warn: Callable[[str], None]
    ) -> tuple[Path, dict[str, torch.Tensor], dict[str, str]] | None:
        """File, tensors and metadata of the last checkpoint that is whole; None where there never was one.

        Args:
            warn: told of those that are damaged.

        Raises:
            DamagedError: none is whole.
            StdcliError: one is a link, or another thing that is no plain file.
        """
        damaged = None
        for _, path in reversed(self.checkpoints()):
            try:
                tensors, metadata = load_checkpoint(path)
            except DamagedError as error:
                damaged = damaged or error
                warn(f"{path} is damaged ({error.got}); the one before it is taken")
                continue
            return path, tensors, metadata
        if damaged is not None:
            damaged.hint = "no whole checkpoint is left to go on from; --overwrite begins anew"
            raise damaged
        return None

    def last_good(self) -> Path | None:
        """The last checkpoint that is whole and holds neither NaN nor infinity; None where there is none."""
        for _, path in reversed(self.checkpoints()):
            with suppress(StdcliError):
                values = load_checkpoint(path)[0].values()
                if all(bool(value.isfinite().all()) for value in values):
                    return path
        return None

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints of later steps, which are damaged and taken again.

        Raises:
            ResourceError: the disk refuses.
        """
        for later, path in self.checkpoints():
            if later > step:
                with _writing(path):
                    remove_file(path)

    def _own(self, name: str) -> Path:
        return own_path(self.root, name, StdcliError)


def step_name(step: int) -> str:
    """`step-000500`."""
    return f"step-{step:06d}"


def versions() -> dict[str, str]:
    """What a run was made with."""
    interpreter = {"stdcli": stdcli.__version__, "python": platform.python_version()}
    return interpreter | {name: version(name) for name in PACKAGES}


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted key, before, after) of every value that differs between two nested mappings of plain data."""
    found: list[tuple[str, Any, Any]] = []
    for key in (*before, *(key for key in after if key not in before)):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += [(f"{key}.{inner}", *values) for inner, *values in changes(old, new)]
        elif old != new:
            found.append((key, old, new))
    return found


def mean_of(reports: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every key over the reports in which it is finite; NaN where it never is."""
    keys = dict.fromkeys(key for report in reports for key in report)
    table = {key: torch.tensor([report[key] for report in reports if key in report]) for key in keys}
    return {key: values[values.isfinite()].mean().item() for key, values in table.items()}


def _step_of(line: bytes, where: str) -> float:
    try:
        step = parse_object(decode(line, where, StdcliError), where, StdcliError).get(STEP, 0)
    except StdcliError:
        return float("inf")
    return step if isinstance(step, int | float) else float("inf")


def _replace(path: Path, data: bytes) -> None:
    with _writing(path):
        write_durably(path, data)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError("the run cannot write its files", where=path, got=error) from error
