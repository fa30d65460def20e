"""An unfinished clip on disk: which segments are done, how they were made, who is working on it.

The folder `OUT.job` beside the output holds the segments, `job.json` and what the next segment needs to know
of the one before. A run that was killed is continued by the same command; whatever decides the pictures must
be the same, and a segment counts only while it is, byte by byte, what was made. Nothing here knows of models
or codecs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from stdcli.disk.litter import is_litter
from stdcli.disk.opening import open_file, own_path
from stdcli.disk.reading import read_object
from stdcli.disk.removing import remove_file, remove_folder
from stdcli.disk.writing import open_new, sync, sync_file, write_durably
from stdcli.errors import ConfigError, MediaError
from stdcli.media.output import write_errors
from stdcli.media.sequence import Numbered
from stdcli.runtime.locks import hold_file

SEGMENT_FRAMES = 128
"""Frames that a killed run may lose; a multiple of every usual batch."""
FORMAT = 2
RECORD, LOCK, WHOLE = "job.json", "lock", "whole"
SUM = "sha256"
_OWN = re.compile(r"\d{5,}(\.npz)?|whole|lock|segments\.txt|\.?job\.json(\.new|\.part)?")
"""Names of all files that a job has or, killed, leaves."""


def job_folder(output: Path) -> Path:
    """`clip.mp4` -> `clip.mp4.job`."""
    return output.with_name(output.name + ".job")


def read_metadata(output: Path) -> dict[str, Any]:
    """The metadata of an unfinished job beside `output`; empty if there is none, or a damaged one."""
    try:
        path = own_path(output.parent, f"{job_folder(output).name}/{RECORD}", MediaError)
    except MediaError:
        return {}
    stored = _read_record(path)
    return {} if stored is None else stored["facts"]


class Job:
    """A clip in the making, as a context manager that holds its lock.

    Leaving it removes the folder if no segment is done, and keeps it otherwise. Facts of a job without a
    finished segment bind nobody.

    Args:
        output: the result.
        metadata: whatever decides the pictures and their coding, JSON-ready, by name.
        discard: whether an unfinished job with other metadata may be thrown away.
        numbered: names of the results where they are numbered pictures; None where segments are files here.

    Attributes:
        folder: where everything is.
        notes: what the user should know about damage that was found on entering.

    Raises:
        ConfigError: on entering: there is an unfinished job with other metadata, and `discard` is off.
        MediaError: on entering: another run is working on it, the folder cannot be made, is a link, or holds
            something else than a job.
    """

    def __init__(
        self, output: Path, metadata: Mapping[str, Any], *, discard: bool, numbered: Numbered | None = None
    ) -> None:
        self.output, self.folder = output, job_folder(output)
        self.notes: list[str] = []
        self._segments: list[dict[str, Any]] = []
        self._metadata = json.loads(json.dumps(dict(metadata)))
        self._discard, self._numbered = discard, numbered
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
        if not self._segments:
            self._begin()
        return self

    def _check_folder(self) -> None:
        own_path(self.output.parent, self.folder.name, MediaError)
        if not self.folder.is_dir():
            return
        names = sorted(path.name for path in self.folder.iterdir() if not is_litter(path.name))
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
        stored = _read_record(path)
        if stored is None and _is_older(path):
            stored = {"format": 1, "facts": {}, "segments": [None]}
        if stored is None:
            self.notes.append(f"{path} is damaged: the clip is made from its first frame again")
            self._clear()
            return
        if not stored["segments"]:
            return
        differences = _differences(stored["facts"], self._metadata)
        if stored["format"] != FORMAT:
            differences = [("format", f"{stored['format']} there, {FORMAT} here")]
        if not differences:
            self._take_whole(stored["segments"])
            return
        if not self._discard:
            raise ConfigError(
                "an unfinished clip was being made otherwise",
                differences,
                where=self.folder,
                hint="repeat that command to continue it, or add --overwrite to start anew",
            )
        self._clear()

    def _take_whole(self, segments: Sequence[dict[str, Any]]) -> None:
        """Count the segments before the first that is damaged, if what the last one left is whole too."""
        for segment in segments:
            self._segments.append(segment)
            if _hash(self._files(len(self._segments) - 1)) != segment["sha256"]:
                self._segments.pop()
                break
        if self._segments and self._segments[-1]["memory"] not in (None, _hash([self._memory_file()])):
            self._segments = []
        if len(self._segments) < len(segments):
            at = f"frame {self.count} on" if self._segments else "its first frame"
            self.notes.append(f"{self.folder} is damaged: the clip is made from {at} again")

    @property
    def frames(self) -> list[int]:
        """Number of frames in each finished segment."""
        return [segment["frames"] for segment in self._segments]

    @property
    def count(self) -> int:
        """Frames in finished segments."""
        return sum(self.frames)

    @property
    def segments(self) -> list[Path]:
        """Files of finished segments, in order."""
        return [self.segment(index) for index in range(len(self._segments))]

    def segment(self, index: int) -> Path:
        """Where segment `index` is written."""
        return self.folder / f"{index:05d}"

    def memory(self) -> dict[str, np.ndarray]:
        """What the last finished segment left for the next."""
        if not self._segments or self._segments[-1]["memory"] is None:
            return {}
        with np.load(self._memory_file(), allow_pickle=False) as arrays:
            return dict(arrays)

    def commit(self, frames: int, memory: Mapping[str, np.ndarray]) -> None:
        """Count the segment that has just been written as finished.

        Args:
            frames: in it.
            memory: what the next segment needs; kept exactly.

        Raises:
            ResourceError: the disk is full.
        """
        before = self._memory_file()
        self._segments.append({"frames": frames, "sha256": None, "memory": None})
        try:
            with write_errors(self.folder):
                self._fill(self._segments[-1], memory)
                self._store()
        except BaseException:
            self._segments.pop()
            raise
        with write_errors(self.folder):
            remove_file(before)

    def _fill(self, segment: dict[str, Any], memory: Mapping[str, np.ndarray]) -> None:
        files = self._files(len(self._segments) - 1)
        if self._numbered is None:
            sync_file(files[0])
        segment["sha256"] = _hash(files)
        if memory:
            path = self._memory_file()
            with open_new(path) as file:
                np.savez(file, **memory)
                file.flush()
                sync(file.fileno())
            segment["memory"] = _hash([path])

    def _begin(self) -> None:
        try:
            self._store()
        except BaseException:
            self.__exit__()
            raise

    def forget(self) -> None:
        """Let nothing count as done: the result is in its place."""
        self._segments = []

    def _store(self) -> None:
        data = {"format": FORMAT, "facts": self._metadata, "segments": self._segments}
        with write_errors(self.folder):
            write_durably(self.folder / RECORD, json.dumps(data | {SUM: _sum(data)}, indent=1).encode())

    def _files(self, index: int) -> list[Path]:
        """What segment `index` consists of."""
        if self._numbered is None:
            return [self.segment(index)]
        first = sum(self.frames[:index])
        return [self._numbered.file(first + k) for k in range(self.frames[index])]

    def _memory_file(self) -> Path:
        """Where it is kept what the last segment left."""
        return self.folder / f"{len(self._segments) - 1:05d}.npz"

    def _clear(self) -> None:
        with write_errors(self.folder):
            for path in self.folder.iterdir():
                if path.name != LOCK and _OWN.fullmatch(path.name):
                    remove_file(path)

    def __exit__(self, *_: object) -> None:
        if not self._segments:
            with suppress(OSError):
                remove_folder(self.folder, is_ours=lambda name: _OWN.fullmatch(name) is not None)
        self._lock.release()


def _read_record(path: Path) -> dict[str, Any] | None:
    """What `job.json` says; None where it is not, byte by byte, what a run wrote."""
    try:
        data = read_object(path, MediaError, links=False)
    except MediaError:
        return None
    return data if data.pop(SUM, None) == _sum(data) else None


def _is_older(path: Path) -> bool:
    """Whether this is the whole record of an earlier version, which kept no hashes."""
    try:
        data = read_object(path, MediaError, links=False)
    except MediaError:
        return False
    return SUM not in data and data.get("format") == 1 and bool(data.get("segments"))


def _sum(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _hash(files: Iterable[Path]) -> str | None:
    """SHA-256 of the hashes of files; None where one cannot be read."""
    total = hashlib.sha256()
    try:
        for path in files:
            with open_file(path, MediaError, links=False) as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    except (MediaError, OSError):
        return None
    return total.hexdigest()


def _differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = sorted({*stored, *current})
    return [
        (name, f"{_short(stored.get(name))} there, {_short(current.get(name))} here")
        for name in names
        if stored.get(name) != current.get(name)
    ]


def _short(value: object) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
