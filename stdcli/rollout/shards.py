"""Building the shards of a planned bank, one after the other; the same command goes on.

A shard is built by one worker, in batches that never reach into the next, and counts once its sidecar is in
place; so a killed build loses at most one shard per worker, and the bytes of a shard depend neither on how
many workers there are nor on how often they were stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.build_locks import hold_plan
from stdcli.bank.format import (
    RUN,
    SAMPLES,
    Manifest,
    check_kind,
    finished,
    read_manifest,
    read_samples,
    sidecar_name,
    write_manifest,
)
from stdcli.bank.shard import StoredPaths, join_paths, read_shard, shard_problem, write_shard
from stdcli.config.bank import BankConfig
from stdcli.console import Console
from stdcli.disk.sealing import sealed
from stdcli.errors import BankCorruptError, BankError, ConfigError, Interrupted
from stdcli.rollout.pace import Pace, length
from stdcli.rollout.path_inputs import Pictures, Sample
from stdcli.rollout.path_teacher import Teacher
from stdcli.rollout.plan import Cost, check_space
from stdcli.runtime.devices import machine_of

TOLD_AGAIN = 0.15  # a share by which a time must turn out otherwise to be told anew


def recall_pace(files: BankFiles, teacher: Teacher) -> Pace:
    """What earlier builds of a bank learnt on a machine like this, if anything."""
    pace = Pace(teacher.path.evaluations)
    pace.recall(_paces(files).get(machine_of(teacher.bundle.network.device)))
    return pace


def _paces(files: BankFiles) -> dict[str, Any]:
    """By machine."""
    try:
        paces = files.read_json(RUN).get("pace") if files.exists(RUN) else {}
    except BankCorruptError:  # it will be written anew
        return {}
    return paces if isinstance(paces, dict) else {}


@dataclass(frozen=True)
class Work:
    """A planned bank and what it takes to build it.

    Attributes:
        files: of the bank.
        manifest: as planned.
        samples: of all paths.
        teacher: walks them.
        pictures: what they start from.
        config: the user's values, for the record and the batch size.
        worker: (i, n): the shards k with k mod n = i are this run's.
        console: told the progress.
        pace: how long batches take, see `recall_pace`.
    """

    files: BankFiles
    manifest: Manifest
    samples: Sequence[Sample]
    teacher: Teacher
    pictures: Pictures
    config: BankConfig = field(kw_only=True)
    worker: tuple[int, int] = field(kw_only=True)
    console: Console = field(kw_only=True)
    pace: Pace = field(kw_only=True)

    def tell_length(self) -> None:
        """Say how long the whole bank takes; where no build has learnt it, a batch is begun for that."""
        manifest, batch_size = self.manifest, self.config.batch_size
        shards = [len(manifest.paths_of(index)) for index in range(manifest.num_shards)]
        if not self.pace.seconds:
            readable = [sample for sample in self.samples if not self.pictures.missing([sample])]
            with self.console.stage("timing the teacher"):
                self.teacher.try_batch(readable[: min(batch_size, max(shards))], self.pictures, self.pace)
        total_s = self.pace.total_s(shards, batch_size=batch_size)
        self.console.note(f"about {length(total_s)} for {manifest.num_paths} paths on one such machine")

    def run(self, cost: Cost) -> dict[str, Any]:
        """Build what is missing.

        Args:
            cost: of the whole bank.

        Returns:
            `manifest` as it is now, `built` paths, `seconds` for them, and how many shards are `missing`.

        Raises:
            ConfigError: a file that is needed was not given.
            BankError, ResourceError: the disk refuses, or is full.
            NumericsError: a state is NaN or infinite.
            Interrupted: Ctrl-C.
        """
        files, manifest = self.files, self.manifest
        wanted = self._unfinished()
        kept = {index: self._shorter(index) for index in wanted}
        paths = [path for index in wanted for path in manifest.paths_of(index)[len(kept[index] or ()) :]]
        if missing := self.pictures.missing([self.samples[path] for path in paths]):
            raise ConfigError("files of this bank are gone", [("data", ", ".join(missing[:10]))])
        check_space(files.root, cost.total_bytes * len(paths) // manifest.num_paths)
        self._publish()
        self._follow([len(self.manifest.paths_of(index)) - len(kept[index] or ()) for index in wanted])
        began_s, built = time.perf_counter(), 0
        try:
            with self.console.progress("paths", len(paths)) as progress:
                for index in wanted:
                    built += self._build(index, kept.pop(index), progress.advance)
        except KeyboardInterrupt as error:
            context = {"got": f"{built} paths built", "hint": "the same command goes on"}
            raise Interrupted("interrupted", where=files.root, **context) from error
        seconds = time.perf_counter() - began_s
        manifest, missing = self._finish()
        return {"manifest": manifest, "built": built, "seconds": seconds, "missing": missing}

    def _publish(self) -> None:
        """Write the plan that all workers share, unless one has planned other paths since it was read."""
        files, rows = self.files, [sample.to_json() for sample in self.samples]
        with hold_plan(files):
            check_kind(files, self.manifest)
            stored = read_samples(files) if files.exists(SAMPLES) else []
            if stored != rows[: len(stored)]:
                hint = "the same command again, with the same data for every worker"
                raise BankError("another worker has planned other paths", where=files.root, hint=hint)
            self._write_run()
            files.write_lines(SAMPLES, rows)
            write_manifest(files, self.manifest)

    def _write_run(self) -> None:
        """Settings and what is known of times, other machines' too; the plan's lock must be held."""
        paces = _paces(self.files)
        if self.pace.seconds:
            paces[machine_of(self.teacher.bundle.network.device)] = self.pace.to_json()
        run = {"task": "bank", "config": self.config.model_dump(mode="json"), "pace": paces}
        self.files.write_json(RUN, sealed(run))

    def _follow(self, shards: Sequence[int]) -> None:
        """Say how long shards of so many paths take, once that is known and when it turns out otherwise."""
        told_s: float | None = None

        def report_length() -> None:
            nonlocal told_s
            total_s = self.pace.total_s(shards, batch_size=self.config.batch_size)
            if not total_s or (told_s and abs(total_s / told_s - 1) <= TOLD_AGAIN):
                return
            now = " now" if told_s else ""
            self.console.note(f"about {length(total_s)}{now} for {sum(shards)} paths on this machine")
            told_s = total_s

        def learn() -> None:
            report_length()
            with hold_plan(self.files):
                self._write_run()

        report_length()
        self.pace.on_news = learn

    def _finish(self) -> tuple[Manifest, int]:
        """The manifest as it is now, complete if it can be, and how many shards it lacks."""
        with hold_plan(self.files):
            manifest = read_manifest(self.files)
            every = range(manifest.num_shards)
            missing = sum(shard_problem(self.files, manifest, k, deep=False) is not None for k in every)
            if not missing:
                manifest = finished(manifest)
                write_manifest(self.files, manifest)
        return manifest, missing

    def _unfinished(self) -> list[int]:
        """This worker's shards that are not there, not whole, or of other samples."""
        index, count = self.worker
        own_shards = range(index, self.manifest.num_shards, count)
        wanted = []
        with self.console.progress("checking shards", len(own_shards)) as progress:
            for k in own_shards:
                problem = shard_problem(self.files, self.manifest, k, deep=True)
                if problem is None and self._ids_there(k) != self._ids(k):
                    problem = "holds other samples"
                if problem:
                    wanted.append(k)
                    if self.files.exists(sidecar_name(k)):
                        self.console.note(f"shard {k} is built again: {problem}")
                progress.advance()
        return wanted

    def _ids(self, index: int) -> list[int]:
        return [self.samples[path].sample_id for path in self.manifest.paths_of(index)]

    def _ids_there(self, index: int) -> list[int]:
        return [source["sample_id"] for source in self.files.read_json(sidecar_name(index))["sources"]]

    def _build(self, index: int, kept: StoredPaths | None, advance: Callable[[int], object]) -> int:
        """Write one shard; what an earlier, shorter plan left of it is kept. Returns the paths walked."""
        wanted = [self.samples[path] for path in self.manifest.paths_of(index)]
        rest = wanted[len(kept) if kept else 0 :]
        options = {"batch_size": self.config.batch_size, "pace": self.pace, "advance": advance}
        sampled = self.teacher.rollout(rest, self.pictures, **options)
        paths = join_paths([kept, sampled]) if kept else sampled
        began_s = time.perf_counter()
        write_shard(self.files, self.manifest, index, paths)
        self.pace.wrote(time.perf_counter() - began_s, len(paths))
        return len(sampled)

    def _shorter(self, index: int) -> StoredPaths | None:
        """The paths of a whole shard that holds the first of the samples wanted, if there is one."""
        if not self.files.exists(sidecar_name(index)):
            return None
        ids = self._ids(index)
        try:
            count = self.files.read_json(sidecar_name(index))["count"]
            before = replace(self.manifest, num_paths=index * self.manifest.shard_size + count)
            if not 0 < count < len(ids) or shard_problem(self.files, before, index, deep=True):
                return None
            paths = read_shard(self.files, index)
        except (BankCorruptError, KeyError, TypeError):
            return None
        return paths if paths.sample_id.tolist() == ids[:count] else None
