"""Clips in, clips out: same rate, size, number of frames, sound; nothing half written when it fails."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stdcli.errors import MediaError, ResourceError
from stdcli.media.embedded_recipe import read_recipe
from stdcli.media.encode import PictureWriter
from stdcli.media.ffmpeg import ffmpeg_command, run_ffmpeg
from stdcli.media.video import VideoInfo, VideoWriter, iter_frames, probe

RECIPE = {"task": "stylize", "prompt": "Hügel; = # \\ \n 山", "seed": 3}
INFO = VideoInfo(width=64, height=48, fps=Fraction(25))


def ffmpeg(*arguments):
    command = ffmpeg_command("-loglevel", "error", "-y", *map(str, arguments))
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def clip(path, *options, size="64x48", rate="25", frames=15, audio=("aac",)):
    """A test pattern of so many frames with a tone per audio codec."""
    inputs = ["-f", "lavfi", "-i", f"testsrc=size={size}:rate={rate}"]
    maps = ["-map", "0"]
    for index, codec in enumerate(audio):
        inputs += ["-f", "lavfi", "-t", "0.6", "-i", f"sine=frequency={440 * (index + 1)}"]
        maps += ["-map", str(index + 1), f"-c:a:{index}", codec]
    ffmpeg(*inputs, *maps, "-frames:v", frames, *options, path)
    return path


def audio_hash(path):
    """MD5 of the coded packets of every audio stream."""
    return ffmpeg("-i", path, "-map", "0:a", "-c", "copy", "-f", "streamhash", "-hash", "md5", "-")


def copy_clip(source, target, **options):
    """Read and write again, changing nothing."""
    info = probe(source)
    with VideoWriter(target, info, audio_from=source, **options) as writer:
        for frame in iter_frames(source, info):
            writer.write(frame)
    return info, probe(target), writer


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("rate", ["30000/1001", "24000/1001", "25/2"])
def test_rate_size_count_sound_and_recipe_survive(tmp_path, rate, suffix):
    source = clip(tmp_path / f"in{suffix}", "-pix_fmt", "yuv420p", rate=rate)
    before, after, writer = copy_clip(source, tmp_path / f"out{suffix}", comment=json.dumps(RECIPE))
    assert after.fps == before.fps == Fraction(rate)
    assert after.frames == before.frames == writer.count == 15
    assert (after.width, after.height) == (before.width, before.height)
    assert (after.start_s, after.pixel_aspect) == (0, 1)
    assert audio_hash(writer.path) == audio_hash(source)
    assert read_recipe(writer.path) == RECIPE
    assert writer.notes == []
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"in{suffix}", f"out{suffix}"]


@pytest.mark.parametrize("size", ["63x48", "64x47", "17x31", "1x1", "2x2"])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_odd_sizes_are_kept(tmp_path, size, suffix):
    width, height = map(int, size.split("x"))
    info = replace(INFO, width=width, height=height)
    with VideoWriter(tmp_path / f"out{suffix}", info) as writer:
        for level in (0, 128, 255):
            writer.write(np.full((height, width, 3), level, np.uint8))
    frames = list(iter_frames(writer.path))
    assert probe(writer.path).frames == 3
    assert [frame.shape for frame in frames] == [(height, width, 3)] * 3
    assert np.abs(np.stack(frames).astype(int).mean((1, 2, 3)) - (0, 128, 255)).max() <= 4
    odd = width % 2 or height % 2
    assert bool(writer.notes) == bool(odd and suffix == ".mp4")


def test_colors_survive_and_are_tagged(tmp_path):
    colors = [(200, 30, 20), (20, 180, 60), (30, 40, 220), (255, 255, 255), (0, 0, 0), (250, 220, 10)]
    with VideoWriter(tmp_path / "out.mp4", INFO, crf=4) as writer:
        for color in colors:
            writer.write(np.full((48, 64, 3), color, np.uint8))
    for color, frame in zip(colors, iter_frames(writer.path), strict=True):
        assert np.abs(frame.astype(int) - color).max() <= 3
    assert "yuv420p(tv, bt709, progressive)" in run_ffmpeg("-i", str(writer.path)).log


def test_pictures_stay_close_at_the_default_quality(tmp_path):
    y, x = np.mgrid[:96, :128]
    frames = [np.stack([x + y + k, 255 - x - k, 2 * y + k], axis=2).astype(np.uint8) for k in range(0, 30, 3)]
    with VideoWriter(tmp_path / "out.mp4", replace(INFO, width=128, height=96)) as writer:
        for frame in frames:
            writer.write(frame)
    for before, after in zip(frames, iter_frames(writer.path), strict=True):
        assert np.abs(before.astype(int) - after).mean() < 1.5


def test_the_clip_starts_playing_before_it_is_loaded(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", INFO) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    data = writer.path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_all_streams_come_along_copied_or_said_to_be_reencoded(tmp_path):
    (tmp_path / "s.srt").write_text("1\n00:00:00,100 --> 00:00:00,400\nhello\n")
    source = clip(tmp_path / "in.mkv", "-pix_fmt", "yuv420p", audio=("aac", "wmav2"))
    both = tmp_path / "both.mkv"
    ffmpeg(
        "-i", source, "-i", tmp_path / "s.srt", "-map", "0", "-map", "1", "-c", "copy", "-c:s", "srt", both
    )
    for suffix, codecs, subtitle, notes in [
        (".mkv", ("aac", "wmav2"), "subrip", []),
        (".mp4", ("aac", "aac"), "mov_text", ["audio stream 2 (wmav2)", "subtitle stream 1 (subrip)"]),
        (".mov", ("aac", "aac"), "mov_text", ["audio stream 2 (wmav2)", "subtitle stream 1 (subrip)"]),
    ]:
        _, after, writer = copy_clip(both, tmp_path / f"out{suffix}")
        assert (after.audio, after.subtitles) == (codecs, (subtitle,))
        assert [note.partition(" was re-encoded")[0] for note in writer.notes] == notes
        assert audio_hash(writer.path).splitlines()[0] == audio_hash(source).splitlines()[0]
        assert (audio_hash(writer.path) == audio_hash(source)) == (suffix == ".mkv")


def test_webm_gets_opus(tmp_path):
    source = clip(tmp_path / "in.mp4", "-pix_fmt", "yuv420p")
    before, after, writer = copy_clip(source, tmp_path / "out.webm", comment=json.dumps(RECIPE))
    assert (after.fps, after.frames, after.audio) == (before.fps, before.frames, ("opus",))
    assert "libopus" in writer.notes[0]
    assert read_recipe(writer.path) == RECIPE
    again = copy_clip(writer.path, tmp_path / "again.webm")[2]
    assert audio_hash(again.path) == audio_hash(writer.path)
    assert again.notes == []


def test_a_late_picture_stays_late(tmp_path):
    """Sound at 0, pictures 0.3137 s later: the gap survives, to a hundredth of a frame."""
    source = clip(tmp_path / "in.mp4", "-pix_fmt", "yuv420p")
    late = tmp_path / "late.mp4"
    ffmpeg(
        "-i", source, "-itsoffset", "0.3137", "-i", source, "-map", "1:v", "-map", "0:a", "-c", "copy", late
    )
    before, after, _ = copy_clip(late, tmp_path / "out.mp4")
    assert float(before.start_s) == pytest.approx(0.3137, abs=1e-3)
    assert float(after.start_s) == pytest.approx(float(before.start_s), abs=4e-4)
    assert (after.fps, after.frames) == (25, 15)


def test_rotation_aspect_tags_and_chapters(tmp_path):
    plain = clip(
        tmp_path / "plain.mp4", "-pix_fmt", "yuv420p", "-vf", "setsar=4/3", "-metadata", "title=Hügel"
    )
    chapters = tmp_path / "chapters.txt"
    chapters.write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=100\nEND=400\ntitle=middle\n")
    source = tmp_path / "in.mp4"
    ffmpeg(
        "-i",
        plain,
        "-i",
        chapters,
        "-map",
        "0",
        "-map_metadata",
        "0",
        "-map_chapters",
        "1",
        "-c",
        "copy",
        source,
    )
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", source, "-c", "copy", turned)
    before, after, writer = copy_clip(turned, tmp_path / "out.mp4")
    assert (after.width, after.height, after.rotation) == (48, 64, 0)
    assert after.pixel_aspect == before.pixel_aspect == Fraction(3, 4)
    was, told = (ffmpeg("-i", path, "-f", "ffmetadata", "-") for path in (turned, writer.path))
    assert "title=Hügel" in told
    assert "title=middle" in told
    assert told.partition("[CHAPTER]")[2] == was.partition("[CHAPTER]")[2]


def test_a_clip_without_a_source_is_silent(tmp_path):
    with VideoWriter(tmp_path / "out.mkv", INFO) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8)[:, ::-1])
    assert probe(writer.path).audio == ()
    assert read_recipe(writer.path) is None


@pytest.mark.parametrize("written", [0, 14, 16])
def test_a_wrong_number_of_frames_is_no_result(tmp_path, written):
    with (
        pytest.raises(MediaError, match="number of frames") as caught,
        VideoWriter(tmp_path / "out.mp4", replace(INFO, frames=15)) as writer,
    ):
        for _ in range(written):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    assert caught.value.got == f"{written} frames"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupt_leaves_nothing(tmp_path, error):
    with pytest.raises(error), VideoWriter(tmp_path / "out.mp4", INFO) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
        raise error
    assert list(tmp_path.iterdir()) == []
    assert writer._pictures._process.poll() is not None


def test_a_dying_ffmpeg_is_an_error_and_leaves_nothing(tmp_path):
    info = replace(INFO, width=640, height=480)
    with (
        pytest.raises(MediaError, match="cannot be written"),
        VideoWriter(tmp_path / "out.mp4", info) as writer,
    ):
        writer.write(np.zeros((480, 640, 3), np.uint8))
        writer._pictures._process.kill()
        for _ in range(20):
            writer.write(np.zeros((480, 640, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_what_ffmpeg_says_reaches_the_user(tmp_path):
    with (
        pytest.raises(MediaError, match="cannot be written") as caught,
        VideoWriter(tmp_path / "out.mp4", replace(INFO, pixel_aspect=Fraction(-1))) as writer,
    ):
        for _ in range(200):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    assert "Invalid string '-1' for aspect ratio" in caught.value.got
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_full_disk_is_a_resource_error(tmp_path, monkeypatch):
    original = PictureWriter.__init__

    def to_a_full_disk(self, path, *arguments):
        path.symlink_to("/dev/full")
        original(self, path, *arguments)

    monkeypatch.setattr(PictureWriter, "__init__", to_a_full_disk)
    with (
        pytest.raises(ResourceError, match="cannot be written"),
        VideoWriter(tmp_path / "out.mp4", INFO) as writer,
    ):
        for _ in range(60):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_silently(tmp_path):
    source = clip(tmp_path / "in.mp4", "-pix_fmt", "yuv420p")
    data = source.read_bytes()
    (tmp_path / "out.mp4").write_bytes(b"precious")
    (tmp_path / "link.mp4").symlink_to(source)
    info = probe(source)
    with pytest.raises(MediaError, match="exists already") as caught:
        VideoWriter(tmp_path / "out.mp4", info)
    assert "--overwrite" in caught.value.hint
    for name in ("in.mp4", "link.mp4"):
        with pytest.raises(MediaError, match="input itself"):
            VideoWriter(tmp_path / name, info, overwrite=True)
        with pytest.raises(MediaError, match="input itself"):
            VideoWriter(tmp_path / name, INFO, audio_from=source, overwrite=True)
    assert source.read_bytes() == data
    assert (tmp_path / "out.mp4").read_bytes() == b"precious"
    copy_clip(source, tmp_path / "out.mp4", overwrite=True)
    assert probe(tmp_path / "out.mp4").frames == 15


@pytest.mark.parametrize(
    ("name", "message"), [("a.gif", "256 colours"), ("a.txt", "suffix"), ("no/a.mp4", "folder")]
)
def test_impossible_outputs_are_refused_at_once(tmp_path, name, message):
    with pytest.raises(MediaError, match=message):
        VideoWriter(tmp_path / name, INFO)


def test_unreadable_sound_is_refused_at_once(tmp_path):
    (tmp_path / "text.mp3").write_text("no sound")
    with pytest.raises(MediaError, match="cannot be read as sound"):
        VideoWriter(tmp_path / "a.mp4", INFO, audio_from=tmp_path / "text.mp3")


def test_frames_of_another_size_are_programming_errors(tmp_path):
    with (
        pytest.raises(ValueError, match="expected uint8 \\[48, 64, 3\\]"),
        VideoWriter(tmp_path / "a.mp4", INFO) as writer,
    ):
        writer.write(np.zeros((64, 48, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


WRITER_ONLY = """
import signal, sys, time
from fractions import Fraction
from pathlib import Path
import numpy as np
from stdcli.media.video import VideoInfo, VideoWriter
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started us may ignore it
with VideoWriter(Path(sys.argv[1]), VideoInfo(320, 240, Fraction(25)), overwrite=True) as writer:
    for count in range(100_000):
        writer.write(np.full((240, 320, 3), count % 256, np.uint8))
        if count == 30:
            print("writing", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_a_killed_process_leaves_no_half_result(tmp_path, number):
    """After Ctrl-C nothing is left at all; after SIGKILL at most the hidden part file, never the result."""
    target = tmp_path / "out.mp4"
    target.write_bytes(b"precious")
    command = [sys.executable, "-c", WRITER_ONLY, str(target)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    with process:
        assert process.stdout.readline() == b"writing\n"
        os.kill(process.pid, number)
        process.wait(timeout=60)
    assert process.returncode != 0
    time.sleep(0.3)  # ffmpeg, now without a master, would finish here
    assert target.read_bytes() == b"precious"
    rest = [path.name for path in tmp_path.iterdir() if path != target]
    assert all(name.startswith(".stdcli-") for name in rest)
    assert number == signal.SIGKILL or rest == []
