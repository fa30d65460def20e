"""The state of an unfinished clip: what counts as done, whose it is, when it may be thrown away."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from stdcli.apply.job import Job, job_folder
from stdcli.errors import ConfigError, MediaError, StdcliError

FACTS = {"seed": 3, "settings": {"timesteps": [399, 199]}}


def write_segment(job: Job, frames: int, **memory) -> None:
    job.segment(len(job.frames)).write_bytes(bytes(frames))
    job.commit(frames, memory)


def test_finished_segments_are_found_again(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        write_segment(job, 128, result=picture * 0)
        write_segment(job, 128, result=picture)
        job.segment(2).write_bytes(b"half")
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        assert (job.frames, job.count) == ([128, 128], 256)
        assert [path.name for path in job.segments] == ["00000", "00001"]
        assert np.array_equal(job.memory()["result"], picture)


def test_nothing_done_leaves_nothing(tmp_path):
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        job.segment(0).write_bytes(b"half")
    with pytest.raises(KeyboardInterrupt), Job(tmp_path / "out.mp4", FACTS, discard=False):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_finished_job_leaves_nothing(tmp_path):
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        write_segment(job, 7)
        job.forget()
    assert list(tmp_path.iterdir()) == []


def test_other_facts_are_named_and_nothing_is_lost(tmp_path):
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        write_segment(job, 128)
    other = {"seed": 4, "settings": FACTS["settings"], "crf": 20}
    with pytest.raises(ConfigError) as caught, Job(tmp_path / "out.mp4", other, discard=False):
        pass
    assert caught.value.problems == [("crf", "not set there, 20 here"), ("seed", "3 there, 4 here")]
    assert "--overwrite" in caught.value.hint
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        assert job.count == 128
    with Job(tmp_path / "out.mp4", other, discard=True) as job:
        assert (job.count, job.segment(0).exists()) == (0, False)


def test_a_segment_that_changed_on_disk_counts_for_nothing(tmp_path):
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        write_segment(job, 128)
        write_segment(job, 128)
        job.segment(0).write_bytes(b"cut short")
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        assert job.count == 0


def test_a_run_killed_before_its_first_segment_binds_nobody(tmp_path):
    folder = job_folder(tmp_path / "out.mp4")
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps({"format": 1, "facts": {"seed": 4}, "segments": []}))
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        assert job.count == 0
        assert json.loads((folder / "job.json").read_text())["facts"] == FACTS


def test_a_job_that_cannot_begin_leaves_nothing(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StdcliError), Job(tmp_path / "out.mp4", FACTS, discard=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_are_refused(tmp_path):
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        write_segment(job, 128)
        with pytest.raises(MediaError, match="another run"), Job(tmp_path / "out.mp4", FACTS, discard=True):
            pass
        assert job.segment(0).exists()
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        assert job.count == 128


def test_the_file_on_disk_does_not_change_its_form(tmp_path):
    """Unfinished jobs outlive an upgrade or are refused by name."""
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        write_segment(job, 128)
    path = job_folder(tmp_path / "out.mp4") / "job.json"
    data = json.loads(path.read_text())
    assert data == {"format": 1, "facts": FACTS, "segments": [{"frames": 128, "bytes": 128}]}
    path.write_text(json.dumps(data | {"format": 2}))
    with pytest.raises(ConfigError) as caught, Job(tmp_path / "out.mp4", FACTS, discard=False):
        pass
    assert caught.value.problems == [("format", "2 there, 1 here")]


def test_a_folder_that_is_no_job_is_refused_and_kept(tmp_path):
    out, mine = tmp_path / "out.mp4", tmp_path / "mine"
    folder = job_folder(out)
    mine.mkdir()
    (mine / "00000").write_text("mine")
    folder.symlink_to(mine)
    with pytest.raises(MediaError, match="a link"), Job(out, FACTS, discard=True):
        pass
    folder.unlink()
    folder.mkdir()
    for name in ("notes.txt", "00000"):
        (folder / name).write_text("mine")
        with (
            pytest.raises(MediaError, match="not stdcli's") as told,
            Job(tmp_path / "out.mp4", FACTS, discard=True),
        ):
            pass
        assert told.value.got == name and [path.name for path in folder.iterdir()] == [name]
        (folder / name).unlink()
    (folder / "job.json").symlink_to(mine / "00000")
    with pytest.raises(MediaError, match="not stdcli's"), Job(out, FACTS, discard=True):
        pass
    assert (mine / "00000").read_text() == "mine"


def test_files_that_come_into_a_job_meanwhile_stay(tmp_path):
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        write_segment(job, 128)
        (job.folder / "notes.txt").write_text("mine")
        job.forget()
    assert [path.name for path in job.folder.iterdir()] == ["notes.txt"]
