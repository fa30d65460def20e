"""The state of an unfinished clip: what counts as done, whose it is, when it may be thrown away."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from stdcli.errors import ConfigError, MediaError, ResourceError
from stdcli.inference.job import Job, job_folder, read_metadata
from stdcli.media.sequence import Numbered

FACTS = {"seed": 3, "settings": {"timesteps": [399, 199]}}


def digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def write_segment(job: Job, frames: int, **memory) -> None:
    job.segment(len(job.frames)).write_bytes(bytes(frames))
    job.commit(frames, memory)


def test_finished_segments_are_found_again(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        write_segment(job, 128, result=picture * 0)
        write_segment(job, 128, result=picture)
        job.segment(2).write_bytes(b"half")
        for name in ("whole", "segments.txt", ".job.json.part"):  # of a run that was killed as it joined them
            (job.folder / name).write_bytes(b"half")
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


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def keep_three(folder: Path, *, remembering: bool) -> None:
    """An unfinished job of three segments."""
    with Job(folder / "out.mp4", FACTS, discard=False) as job:
        for level in range(3):
            write_segment(job, 128, **({"result": np.full((4, 5), level)} if remembering else {}))


@pytest.mark.parametrize(
    ("name", "remembering", "left"),
    [
        ("00000", False, 0),
        ("00001", False, 128),
        ("00002", False, 256),
        ("00002", True, 0),
        ("00002.npz", True, 0),
    ],
)
def test_segments_before_a_flipped_bit_count(tmp_path, name, remembering, left):
    """What the last whole segment leaves for the next is part of it; that of earlier ones is not kept."""
    keep_three(tmp_path, remembering=remembering)
    flip(job_folder(tmp_path / "out.mp4") / name)
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        assert job.count == left
        assert [f"frame {left} on" in note or (not left and "first frame" in note) for note in job.notes] == [
            True
        ]
        write_segment(job, 128)
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        assert (job.count, job.notes) == (left + 128, [])


@pytest.mark.parametrize("name", ["00001", "00002.npz"])
def test_what_is_gone_does_not_count(tmp_path, name):
    keep_three(tmp_path, remembering=True)
    (job_folder(tmp_path / "out.mp4") / name).unlink()
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        assert job.count == 0


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": 2, "facts": {}, "segments": 3}',
        (b'"frames": 128', b'"frames": 127'),
        (b'"seed": 3', b'"seed": 2'),
        (b'"format": 2', b'"format": 3'),
        (b'"segments"', b'"segmentt"'),
        (b'"sha256"', b'"sha255"'),
    ],
)
def test_a_damaged_state_counts_for_nothing_and_binds_nobody(tmp_path, damage):
    keep_three(tmp_path, remembering=False)
    state = job_folder(tmp_path / "out.mp4") / "job.json"
    state.write_bytes(damage if isinstance(damage, bytes) else state.read_bytes().replace(*damage))
    assert read_metadata(tmp_path / "out.mp4") == {}
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        assert (job.count, len(job.notes)) == (0, 1)
        write_segment(job, 128)
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        assert (job.count, job.notes) == (128, [])


@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_numbered_results_that_changed_are_made_again(tmp_path, damage):
    files = Numbered(tmp_path / "%02d.png", first=5)
    with Job(tmp_path, FACTS, discard=False, numbered=files) as job:
        for _ in range(2):
            for k in range(3):
                files.file(job.count + k).write_bytes(bytes([job.count, k]))
            job.commit(3, {})
    with Job(tmp_path, FACTS, discard=False, numbered=files) as job:
        assert job.count == 6
    damage(tmp_path / "08.png")
    with Job(tmp_path, FACTS, discard=False, numbered=files) as job:
        assert job.count == 3


def test_a_run_killed_before_its_first_segment_binds_nobody(tmp_path):
    folder = job_folder(tmp_path / "out.mp4")
    folder.mkdir()
    body = {"format": 2, "facts": {"seed": 4}, "segments": []}
    (folder / "job.json").write_text(json.dumps(body | {"sha256": digest(body)}))
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        assert job.count == 0
        assert json.loads((folder / "job.json").read_text())["facts"] == FACTS


def test_a_job_that_cannot_begin_leaves_nothing(tmp_path, monkeypatch):
    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(ResourceError), Job(tmp_path / "out.mp4", FACTS, discard=False):
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
    inner = hashlib.sha256(bytes(128)).digest()
    segment = {"frames": 128, "sha256": hashlib.sha256(inner).hexdigest(), "memory": None}
    body = {"format": 2, "facts": FACTS, "segments": [segment]}
    assert data == body | {"sha256": digest(body)}
    other = body | {"format": 3}
    path.write_text(json.dumps(other | {"sha256": digest(other)}))
    with pytest.raises(ConfigError) as caught, Job(tmp_path / "out.mp4", FACTS, discard=False):
        pass
    assert caught.value.problems == [("format", "3 there, 2 here")]


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


@pytest.mark.parametrize("name", [".DS_Store", "._00000", "Thumbs.db", ".nfs0000000000a1"])
def test_what_desktops_and_shares_leave_in_a_job_stops_nothing(tmp_path, name):
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        write_segment(job, 128)
    (job.folder / name).write_bytes(b"x")
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        assert job.count == 128
        job.forget()
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        assert job.count == 0
    assert [path.name for path in job.folder.iterdir()] == [name]


def test_the_work_of_an_earlier_version_is_not_thrown_away_unasked(tmp_path):
    with Job(tmp_path / "out.mp4", FACTS, discard=False) as job:
        write_segment(job, 128)
    record = {"format": 1, "facts": FACTS, "segments": [{"frames": 128, "bytes": 128}]}
    (job.folder / "job.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="made otherwise"), Job(tmp_path / "out.mp4", FACTS, discard=False):
        pass
    assert job.segment(0).stat().st_size == 128
    with Job(tmp_path / "out.mp4", FACTS, discard=True) as job:
        assert job.count == 0 and not job.segment(0).exists()
