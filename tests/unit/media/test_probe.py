"""Measuring clips that ffmpeg generates, and reading their frames."""

import dataclasses
import subprocess
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from stdcli.errors import MediaError
from stdcli.media.embedded_recipe import read_recipe
from stdcli.media.ffmpeg import ffmpeg_command
from stdcli.media.video import VideoInfo, VideoWriter, iter_frames, probe

RATES = ["30000/1001", "24000/1001", "25", "25/2", "60"]


def ffmpeg(*arguments):
    command = ffmpeg_command("-loglevel", "error", "-y", *map(str, arguments))
    return subprocess.run(command, check=True, capture_output=True).stdout


def clip(path, *options, source="testsrc=size=64x48", rate="25", frames=15, audio=()):
    """A clip drawn by ffmpeg itself, of so many frames; `audio` is a further input."""
    pictures = ["-f", "lavfi", "-i", f"{source}:rate={rate}"]
    ffmpeg(*pictures, *audio, "-frames:v", frames, "-pix_fmt", "yuv420p", *options, path)
    return path


def decoded(path, *options):
    """Frames as ffmpeg alone decodes them, with its default conversion replaced by `options`."""
    info = probe(path)
    data = ffmpeg("-i", path, "-map", "0:v:0", *options, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(data, np.uint8).reshape(-1, info.height, info.width, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def plain(folder):
    """25 frames per second, 15 frames, B-frames, one sound."""
    return clip(folder / "plain.mp4", "-c:a", "aac", audio=("-f", "lavfi", "-t", "0.6", "-i", "sine"))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("rate", RATES)
def test_rate_and_count_are_exact(folder, rate, suffix):
    info = probe(clip(folder / f"{rate.replace('/', '-')}{suffix}", rate=rate, frames=20))
    assert info.fps == Fraction(rate)
    assert info.frames == 20
    assert info.duration_s == pytest.approx(info.frames / info.fps)
    assert (info.width, info.height) == (64, 48)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".avi", ["-c:v", "mpeg4", "-bf", "2"]),
        (".webm", ["-c:v", "libvpx", "-auto-alt-ref", "1"]),
        (".ts", []),
        (".flv", []),
    ],
)
def test_containers_whose_packets_are_not_frames(folder, suffix, codec):
    """VP8 has packets without a frame; AVI has no presentation times."""
    path = clip(folder / f"other{suffix}", *codec, rate="30000/1001", frames=30)
    info = probe(path)
    assert (info.fps, info.frames) == (Fraction(30000, 1001), 30)
    assert sum(1 for _ in iter_frames(path, info)) == 30


def test_a_clip_cut_inside_a_group_of_pictures(folder, plain):
    """Without re-encoding, the frames before the cut stay in the file, marked not to be shown."""
    cut = folder / "cut.mp4"
    ffmpeg("-ss", "0.3", "-i", plain, "-c", "copy", cut)
    info = probe(cut)
    assert info.fps == 25
    assert (
        info.frames
        == sum(1 for _ in iter_frames(cut, info))
        == len(decoded(cut, "-fps_mode", "passthrough"))
        < 15
    )


def test_streams_are_told(folder, plain):
    info = probe(plain)
    assert info.audio == ("aac",)
    assert info.has_audio
    assert info.subtitles == ()
    assert info.path == plain
    assert not probe(clip(folder / "silent.mp4")).has_audio


def test_every_frame_is_what_ffmpeg_decodes(plain):
    frames = list(iter_frames(plain))
    assert len(frames) == 15
    assert all(frame.dtype == np.uint8 and frame.shape == (48, 64, 3) for frame in frames)
    truth = decoded(plain, "-sws_flags", "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp")
    assert np.array_equal(np.stack(frames), truth)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(folder, plain, degrees):
    path = folder / f"turned{degrees}.mp4"
    ffmpeg("-display_rotation", degrees, "-i", plain, "-c", "copy", path)
    info = probe(path)
    upright = np.rot90(next(iter_frames(plain)), degrees // 90)
    assert (info.height, info.width, 3) == upright.shape
    assert info.rotation % 360 == degrees
    assert np.abs(next(iter_frames(path, info)).astype(int) - upright).mean() < 1.5


def test_pixel_aspect_is_told(folder):
    assert probe(clip(folder / "wide.mp4", "-vf", "setsar=4/3")).pixel_aspect == Fraction(4, 3)


@pytest.mark.parametrize(
    ("size", "tagged", "matrix"),
    [
        ("64x48", None, "bt601"),
        ("1280x720", None, "bt709"),
        ("64x48", "bt709", "bt709"),
        ("64x48", "smpte170m", "bt601"),
    ],
)
def test_colors_come_back_whatever_the_matrix(folder, size, tagged, matrix):
    """A clip without a matrix is read as players do: BT.709 from HD on."""
    path = folder / f"colour{size}{tagged}.mp4"
    filters = f"scale=out_color_matrix={matrix}:out_range=tv,format=yuv444p"
    filters += f",setparams=colorspace={tagged or 'unknown'}"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        f"color=c=0xC04010:size={size}:rate=5",
        "-t",
        "0.2",
        "-vf",
        filters,
        "-qp",
        "0",
        path,
    )
    info = probe(path)
    assert info.assumed_matrix == (None if tagged else matrix)
    assert np.abs(next(iter_frames(path, info)).astype(int) - (0xC0, 0x40, 0x10)).max() <= 2


@pytest.fixture(scope="module")
def variable(folder):
    """30 frames per second of which every seventh is missing."""
    drop = "select=not(eq(mod(n\\,7)\\,3))"
    return clip(folder / "variable.mp4", "-vf", drop, "-fps_mode", "vfr", rate="30", frames=51)


def test_a_variable_frame_rate_is_refused_and_names_the_way_out(variable):
    with pytest.raises(MediaError, match="variable frame rate") as caught:
        probe(variable)
    assert "--fps 30" in caught.value.hint
    assert caught.value.got == "gaps from 33.33 to 66.67 ms"


@pytest.mark.parametrize("fps", [Fraction(30), Fraction(24000, 1001)], ids=str)
def test_a_variable_frame_rate_is_resampled_on_demand(variable, fps):
    info = probe(variable, fps=fps)
    count = sum(1 for _ in iter_frames(variable, fps=fps))
    assert (info.fps, info.frames, info.resample) == (fps, count, True)
    assert abs(count / fps - Fraction(59, 30)) < 1 / fps  # frames 0 to 58 of 60 remain


def test_asking_for_the_own_rate_changes_nothing(plain):
    info = probe(plain, fps=Fraction(25))
    assert (info.frames, info.resample) == (15, False)
    assert info == probe(plain)


def test_memory_does_not_grow_with_the_clip(folder):
    path = clip(folder / "long.mp4", source="color=size=320x240", frames=120)
    info, frame_bytes = probe(path), 320 * 240 * 3
    tracemalloc.start()
    count = sum(1 for _ in iter_frames(path, info))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 120
    assert peak < 4 * frame_bytes


def test_closing_early_ends_ffmpeg(folder, monkeypatch):
    started = []
    popen = subprocess.Popen
    path = clip(folder / "endless.mp4", source="color=size=320x240", frames=120)
    info = probe(path)
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    frames = iter_frames(path, info)
    next(frames)
    assert started[0].poll() is None
    frames.close()
    assert started[0].poll() is not None


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_truncated_clip_is_refused_before_any_work(folder, suffix):
    whole = clip(folder / f"whole{suffix}", "-movflags", "+faststart", frames=60)
    cut = folder / f"half{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    with pytest.raises(MediaError, match="damaged or truncated") as caught:
        probe(cut)
    assert "ffmpeg -i" in caught.value.hint


def test_frames_that_do_not_come_are_an_error(plain):
    info = dataclasses.replace(probe(plain), frames=16)
    with pytest.raises(MediaError, match="damaged") as caught:
        list(iter_frames(plain, info))
    assert caught.value.got.startswith("15 frames")
    assert caught.value.expected == "16 frames"


def test_what_is_no_video(folder, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    ffmpeg("-f", "lavfi", "-i", "sine", "-t", "0.2", tmp_path / "sound.mp4")
    cases = {
        "none.mp4": "no such video",
        ".": "a folder",
        "text.mp4": "not a video",
        "sound.mp4": "no video in this",
    }
    for name, message in cases.items():
        with pytest.raises(MediaError, match=message):
            probe(tmp_path / name)
    with pytest.raises(MediaError, match="must be positive"):
        probe(tmp_path / "text.mp4", fps=Fraction(0))


def test_a_clip_of_somebody_else_has_no_recipe(plain, tmp_path):
    assert read_recipe(plain) is None
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(MediaError, match="not a video"):
        read_recipe(tmp_path / "text.mp4")


def test_odd_names_are_names(tmp_path, plain):
    for name in ("-y.mp4", "a:b %03d.mp4", "https:x.mp4", "ä 'q'.mp4"):
        path = tmp_path / name
        path.write_bytes(plain.read_bytes())
        assert probe(path).frames == 15


def test_colors_hidden_in_a_clip_are_not_read(folder):
    """Green or magenta where alpha is 0, in a lossless clip: the same frames, the visible half as written."""
    y, x = np.mgrid[:16, :32]
    seen = np.stack([x * 7, y * 15, x + y, np.full_like(x, 255)], axis=2).astype(np.uint8)
    read = []
    for hidden in ([0, 255, 0, 0], [255, 0, 255, 0]):
        seen[:, 16:] = hidden
        path = folder / f"hidden{hidden[0]}.mkv"
        with VideoWriter(path, VideoInfo(32, 16, Fraction(25), alpha=True)) as writer:
            writer.write(seen)
        read += iter_frames(path)
    assert np.array_equal(read[0], read[1]) and np.array_equal(read[0][:, :16], seen[:, :16])
    assert np.abs(read[0][:, 16:, :3] - seen[:, :16, :3].mean((0, 1))).max() <= 0.5
