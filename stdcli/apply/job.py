"""An unfinished clip on disk: which segments are done, how they were made, who is working on it.

The folder `OUT.job` beside the output holds the segments, `job.json` and what the next segment needs to know
of the one before. A run that was killed is continued by the same command; whatever decides the pictures must
be the same, and a segment counts only once it is whole and on disk. Nothing here knows of models or codecs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from stdcli.disk.opening import own_path
from stdcli.disk.reading import read_object
from stdcli.disk.removing import remove_file, remove_folder
from stdcli.disk.writing import open_new, sync, sync_file, write_durably
from stdcli.errors import ConfigError, MediaError
from stdcli.media.output import write_errors
from stdcli.runtime.locks import hold_file

SEGMENT_FRAMES = 128
"""Frames that a killed run may lose; a multiple of every usual batch."""
FORMAT = 1
RECORD, LOCK, WHOLE = "job.json", "lock", "whole"
_OWN = re.compile(r"\d{5,}(\.npz)?|whole|lock|\.?job\.json(\.new|\.part)?")
"""Names of all files that a job has or, killed, leaves."""


def job_folder(output: Path) -> Path:
    """`clip.mp4` -> `clip.mp4.job`."""
    return output.with_name(output.name + ".job")


def facts_of(output: Path) -> dict[str, Any]:
    """The facts of an unfinished job beside `output`; empty if there is none."""
    try:
        path = own_path(output.parent, f"{job_folder(output).name}/{RECORD}", MediaError)
        return dict(read_object(path, MediaError, links=False)["facts"])
    except (MediaError, ValueError, KeyError, TypeError):
        return {}


class Job:
    """A clip in the making, as a context manager that holds its lock.

    Leaving it removes the folder if no segment is done, and keeps it otherwise. Facts of a job without a
    finished segment bind nobody.

    Args:
        output: the result.
        facts: whatever decides the pictures and their coding, JSON-ready, by name.
        discard: whether an unfinished job with other facts may be thrown away.

    Attributes:
        folder: where everything is.
        frames: number of frames in each finished segment.

    Raises:
        ConfigError: on entering: there is an unfinished job with other facts, and `discard` is off.
        MediaError: on entering: another run is working on it, the folder cannot be made, is a link, or holds
            something else than a job.
    """

    def __init__(self, output: Path, facts: Mapping[str, Any], *, discard: bool) -> None:
        self.output, self.folder = output, job_folder(output)
        self.frames: list[int] = []
        self._facts = json.loads(json.dumps(dict(facts)))
        self._discard = discard
        self._lock: FileLock | None = None

    def __enter__(self) -> Job:
        self._check_folder()
        with write_errors(self.folder):
            self.folder.mkdir(exist_ok=True)
            try:
                self._lock = hold_file(self.folder / LOCK)
            except Timeout as error:
                hint = "wait for it, or choose another -o"
                raise MediaError("another run is making this output", where=self.output, hint=hint) from error
        try:
            self._take_up()
        except BaseException:
            self._lock.release()
            raise
        if not self.frames:
            self._begin()
        return self

    def _check_folder(self) -> None:
        own_path(self.output.parent, self.folder.name, MediaError)
        if not self.folder.is_dir():
            return
        names = sorted(path.name for path in self.folder.iterdir())
        foreign = [name for name in names if not _OWN.fullmatch(name) or (self.folder / name).is_symlink()]
        if not (foreign or {RECORD, LOCK} & {*names} or not names):
            foreign = names
        if foreign:
            hint = "move it away, or choose another -o"
            what = "a folder of this name is there that is not stdcli's"
            raise MediaError(what, where=self.folder, got=", ".join(foreign[:4]), hint=hint)

    def _take_up(self) -> None:
        path = self.folder / RECORD
        if not path.exists():
            return
        try:
            stored = read_object(path, MediaError, links=False)
        except MediaError:
            stored = {}
        if not stored.get("segments", True):
            return
        differences = _differences(stored.get("facts", {}), self._facts)
        if stored.get("format") != FORMAT:
            differences = [("format", f"{stored.get('format')} there, {FORMAT} here")]
        if not differences:
            if all(self._size(k) == segment["bytes"] for k, segment in enumerate(stored["segments"])):
                self.frames = [segment["frames"] for segment in stored["segments"]]
            return
        if not self._discard:
            raise ConfigError(
                "an unfinished clip was being made otherwise",
                differences,
                where=self.folder,
                hint="repeat that command to continue it, or add --overwrite to start anew",
            )
        self._clear()

    @property
    def count(self) -> int:
        """Frames in finished segments."""
        return sum(self.frames)

    @property
    def segments(self) -> list[Path]:
        """Files of finished segments, in order."""
        return [self.segment(index) for index in range(len(self.frames))]

    def segment(self, index: int) -> Path:
        """Where segment `index` is written."""
        return self.folder / f"{index:05d}"

    def memory(self) -> dict[str, np.ndarray]:
        """What the last finished segment left for the next."""
        path = self._memory(len(self.frames) - 1)
        if not path.exists():
            return {}
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    def commit(self, frames: int, memory: Mapping[str, np.ndarray]) -> None:
        """Count the segment that has just been written as finished.

        Args:
            frames: in it.
            memory: what the next segment needs; kept exactly.

        Raises:
            ResourceError: the disk is full.
        """
        index = len(self.frames)
        with write_errors(self.folder):
            if self.segment(index).exists():
                sync_file(self.segment(index))
            if memory:
                with open_new(self._memory(index)) as file:
                    np.savez(file, **memory)
                    file.flush()
                    sync(file.fileno())
            self._store([*self.frames, frames])
        self.frames.append(frames)
        with write_errors(self.folder):
            remove_file(self._memory(index - 1))

    def _begin(self) -> None:
        try:
            self._store([])
        except BaseException:
            self.__exit__()
            raise

    def forget(self) -> None:
        """Let nothing count as done: the result is in its place, or what was done is gone."""
        self.frames = []

    def _store(self, counts: list[int]) -> None:
        segments = [{"frames": count, "bytes": self._size(k)} for k, count in enumerate(counts)]
        data = {"format": FORMAT, "facts": self._facts, "segments": segments}
        with write_errors(self.folder):
            write_durably(self.folder / RECORD, json.dumps(data, indent=1).encode())

    def _size(self, index: int) -> int | None:
        path = self.segment(index)
        return path.stat().st_size if path.exists() else None

    def _memory(self, index: int) -> Path:
        return self.folder / f"{index:05d}.npz"

    def _clear(self) -> None:
        with write_errors(self.folder):
            for path in self.folder.iterdir():
                if path.name != LOCK:
                    remove_file(path)

    def __exit__(self, *_: object) -> None:
        if not self.frames:
            with suppress(OSError):
                remove_folder(self.folder, own=lambda name: _OWN.fullmatch(name) is not None)
        self._lock.release()


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = sorted({*there, *here})
    return [
        (name, f"{_short(there.get(name))} there, {_short(here.get(name))} here")
        for name in names
        if there.get(name) != here.get(name)
    ]


def _short(value: object) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
