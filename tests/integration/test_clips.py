"""Clips through `stdcli stylize`: what is kept, what is cut, what outlives an interruption.

Where frames must come out exactly as they went in, the stylizer is replaced by one that changes nothing and
the pictures are stored without loss: what is tested then is the way of a frame, not its paint.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stdcli.cli.main import main
from stdcli.config.recipe import Recipe
from stdcli.inference import clips, image_to_image
from stdcli.inference.image_to_image import ImageToImage
from stdcli.inference.job import Job
from stdcli.inference.session import StyleSession
from stdcli.inference.sinks import VideoSink
from stdcli.media.embedded_recipe import read_recipe
from stdcli.media.ffmpeg import run_ffmpeg
from stdcli.media.image import Picture, read_image, write_image
from stdcli.media.probe import VideoInfo, probe
from stdcli.media.video import VideoWriter, iter_frames
from tests.tiny_models import add_style_adapter, save_tiny_embedded, save_tiny_sdxl

pytestmark = pytest.mark.usefixtures("one_load")

FPS = Fraction(30000, 1001)
SIZE = (34, 50)
LOUD_FROM_S = 0.5


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """Of two unguided steps: what is tested is the way of a frame."""
    recipe = Recipe(steps=2, strength=0.6)
    return str(save_tiny_embedded(tmp_path_factory.mktemp("model"), recipe=recipe))


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(clips, "SEGMENT_FRAMES", 4)


@pytest.fixture
def untouched(monkeypatch):
    """A stylizer that changes nothing."""
    monkeypatch.setattr(StyleSession, "stylize", lambda self, frames: frames)


def make_frames(count: int, *, alpha: bool = False) -> list[np.ndarray]:
    """A camera gliding over smooth colours; every frame differs from every other."""
    rng = np.random.default_rng(5)
    wide = Image.fromarray(rng.integers(0, 256, (6, 12, 4 if alpha else 3), dtype=np.uint8))
    scene = np.asarray(wide.resize((120, 60), Image.Resampling.BICUBIC))
    height, width = SIZE
    return [
        np.ascontiguousarray(scene[k % 20 : k % 20 + height, 2 * k : 2 * k + width]) for k in range(count)
    ]


def write_clip(path: Path, count: int = 11, *, alpha: bool = False, with_sound: bool = True) -> Path:
    path.write_bytes(_clip_bytes(path.suffix, count, alpha, with_sound))
    return path


@functools.cache
def _clip_bytes(suffix: str, count: int, alpha: bool, with_sound: bool) -> bytes:
    """One clip of each kind is coded, in a folder of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        return _code_clip(Path(scratch) / f"clip{suffix}", count, alpha, with_sound).read_bytes()


def _code_clip(path: Path, count: int, alpha: bool, with_sound: bool) -> Path:
    tone = path.with_suffix(".m4a")
    sound = f"aevalsrc=0.5*sin(2*PI*440*t)*gte(t\\,{LOUD_FROM_S}):duration={float(count / FPS)}"
    options = ["-f", "lavfi", "-i", sound, "-c:a", "aac"]
    run_ffmpeg(*options, str(tone))
    info = VideoInfo(SIZE[1], SIZE[0], FPS, count, alpha=alpha)
    crf = None if alpha or path.suffix == ".mov" else 0
    with VideoWriter(path, info, audio_from=tone if with_sound else None, crf=crf) as writer:
        for frame in make_frames(count, alpha=alpha):
            writer.write(frame)
    return path


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_clip(tmp_path / "clip.mp4")


@pytest.fixture
def style(tmp_path) -> Path:
    rng = np.random.default_rng(2)
    path = tmp_path / "style.png"
    Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((60, 50)).save(path)
    return path


def run(*arguments: object, code: int = 0) -> None:
    assert main(["stylize", *map(str, arguments)]) == code


def sound_of(path: Path) -> tuple[float, float]:
    """Seconds of decoded sound, and at which of them it becomes loud."""
    log = run_ffmpeg(
        "-i", str(path), "-map", "0:a", "-c:a", "pcm_s16le", "-f", "s16le", "-ac", "1", "-y", f"{path}.raw"
    )
    assert log.code == 0
    rate = int(re.search(r"Audio: .*?, (\d+) Hz", log.log)[1])
    samples = np.fromfile(f"{path}.raw", "<i2").astype(int)
    return len(samples) / rate, float(np.argmax(np.abs(samples) > 2000) / rate)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_part_is_the_same_part_of_pictures_and_sound(tmp_path, model, style, untouched):
    source = write_clip(tmp_path / "clip.mp4", 30)
    out = tmp_path / "part.mkv"
    common = [source, "--style", style, "--model", model, "--codec", "ffv1", "-o", out]
    run(*common, "--start", "0:00.2", "--duration", 0.4)
    whole, part, info = list(iter_frames(source)), list(iter_frames(out)), probe(out)
    assert (info.fps, info.frames) == (FPS, 12)
    assert np.array_equal(np.stack(part), np.stack(whole[6:18]))
    length_s, loud_s = sound_of(out)
    assert length_s == pytest.approx(12 / FPS, abs=0.05)
    assert loud_s == pytest.approx(LOUD_FROM_S - 6 / FPS, abs=0.04)
    run(*common, "--start", 0.5, "--no-audio", "--overwrite")
    assert np.array_equal(np.stack(list(iter_frames(out))), np.stack(whole[15:]))
    assert not probe(out).has_audio
    run(*common, "--start", 7, "--overwrite", code=5)


def test_numbered_frames_in_and_out(tmp_path, model, style, untouched, capsys):
    clip = write_clip(tmp_path / "clip.mkv")
    run(clip, "--style", style, "--model", model, "-o", tmp_path / "frames/%04d.png")
    whole = np.stack(list(iter_frames(clip)))
    files = [tmp_path / f"frames/{k + 1:04d}.png" for k in range(11)]
    assert names(tmp_path / "frames") == [file.name for file in files]
    assert np.array_equal(np.stack([read_image(file).rgb for file in files]), whole)
    assert "no sound" in capsys.readouterr().err
    assert json.loads((tmp_path / "frames.json").read_text())["task"] == "stylize"

    options = ["--style", style, "--model", model, "--fps", "30000/1001", "--codec", "ffv1"]
    run(tmp_path / "frames/%04d.png", *options, "-o", tmp_path / "again.mkv")
    assert probe(tmp_path / "again.mkv").fps == FPS
    assert np.array_equal(np.stack(list(iter_frames(tmp_path / "again.mkv"))), whole)

    run(tmp_path / "frames/%04d.png", "--style", style, "--model", model, "--start", 0.2, "--duration", 0.12)
    assert names(tmp_path / "frames.std") == ["0006.png", "0007.png", "0008.png"]
    assert np.array_equal(read_image(tmp_path / "frames.std/0006.png").rgb, whole[5])


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda folder: (folder / "0003.png").unlink(), "a number is missing"),
        (lambda folder: Image.new("RGB", (9, 9)).save(folder / "0003.png"), "expected 50x34"),
        (lambda folder: [file.unlink() for file in folder.iterdir()], "no such frames"),
    ],
)
def test_broken_sequences_are_refused(tmp_path, model, style, untouched, capsys, break_it, told):
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, frame in enumerate(make_frames(5)):
        write_image(folder / f"{index:04d}.png", Picture(frame))
    break_it(folder)
    run(folder / "%04d.png", "--style", style, "--model", model, "-o", tmp_path / "out.mp4", code=5)
    assert told in capsys.readouterr().err
    assert names(tmp_path) == ["frames", "style.png"]


@pytest.mark.parametrize("suffix", [".mov", ".webm", ".mkv"])
def test_transparency_is_kept_where_it_can_be(tmp_path, model, style, untouched, suffix):
    source = write_clip(tmp_path / f"clip{suffix}", 5, alpha=True, with_sound=False)
    assert probe(source).alpha
    run(source, "--style", style, "--model", model)
    before, after = (
        np.stack(list(iter_frames(p))).astype(int) for p in (source, tmp_path / f"clip.std{suffix}")
    )
    assert before.shape == after.shape == (5, *SIZE, 4)
    assert np.abs(before[..., 3] - after[..., 3]).mean() < 2
    assert np.ptp(after[..., 3]) > 100


def test_transparency_that_is_lost_is_told(tmp_path, model, style, untouched, capsys):
    source = write_clip(tmp_path / "clip.mov", 5, alpha=True, with_sound=False)
    run(source, "--style", style, "--model", model, "-o", tmp_path / "out.mp4")
    assert "transparency is lost" in capsys.readouterr().err
    assert not probe(tmp_path / "out.mp4").alpha


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--codec", "ffv1"], ".mp4 holds h264, hevc, av1, vp9; got ffv1"),
        (["--codec", "prores", "--crf", "3", "-o", "out.mov"], "prores has no crf"),
        (["--crf", "60"], "got 60, expected 0 to 51"),
        (["--pix-fmt", "nonsense"], "got nonsense, expected one of"),
        (["--codec", "mpeg9"], "codec"),
        (["--start", "soon"], "start"),
        (["--duration", "0"], "duration"),
        (["--temporal", "always"], "temporal"),
        (["--codec", "h264", "-o", "out/%03d.png"], "belongs to video files"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused_before_work(
    tmp_path, clip, model, style, capsys, monkeypatch, arguments, told
):
    monkeypatch.chdir(tmp_path)
    before = names(tmp_path)
    run(clip, "--style", style, "--model", "no/such/model", *arguments, code=2)
    assert told in capsys.readouterr().err
    assert names(tmp_path) == before


def test_quality_and_pixels_are_those_asked_for(tmp_path, clip, model, style, untouched):
    sizes = []
    for crf in (10, 40):
        out = tmp_path / f"{crf}.mp4"
        run(
            clip,
            "--style",
            style,
            "--model",
            model,
            "--crf",
            crf,
            "--pix-fmt",
            "yuv444p",
            "--no-audio",
            "-o",
            out,
        )
        assert "yuv444p(tv, bt709" in run_ffmpeg("-i", str(out)).log
        sizes.append(out.stat().st_size)
    assert sizes[0] > 1.3 * sizes[1]


def uninterrupted(clip, style, model, out, *options):
    run(clip, "--style", style, "--model", model, "-o", out, *options)
    data = out.read_bytes()
    out.unlink()
    out.with_name(out.name + ".json").unlink()
    return data


@pytest.fixture
def run_and_die(power_cut):
    """A run that breaks down as soon as `after` segments are kept."""

    def start(*arguments, after: int) -> None:
        with power_cut(after):
            run(*arguments, code=70)

    return start


@pytest.mark.parametrize(
    ("suffix", "temporal"), [(".mp4", "off"), (".mkv", "blend"), (".webm", "off"), (".mov", "flow")]
)
def test_a_stopped_run_goes_on_to_the_same_bytes(
    tmp_path, clip, model, style, suffix, temporal, run_and_die, monkeypatch, capsys
):
    out = tmp_path / f"out{suffix}"
    options = ["--temporal", temporal, "--batch", 3] if temporal == "off" else ["--temporal", temporal]
    expected = uninterrupted(clip, style, model, out, *options)
    before = names(tmp_path)
    run_and_die(clip, "--style", style, "--model", model, "-o", out, *options, after=2)
    assert not out.exists()
    frames = []
    original_stylize = StyleSession.stylize
    monkeypatch.setattr(
        StyleSession, "stylize", lambda s, f: (frames.append(len(f)), original_stylize(s, f))[1]
    )
    capsys.readouterr()
    run(clip, "--style", style, "--model", model, "-o", out, *options)
    assert "at frame 8 of 11" in capsys.readouterr().err
    assert sum(frames) == 3
    assert out.read_bytes() == expected
    assert names(tmp_path) == sorted([*before, out.name, f"{out.name}.json"])


@pytest.mark.parametrize(
    "name", ["00001.npz", *(pytest.param(n, marks=pytest.mark.slow) for n in ("00001", "job.json"))]
)
def test_damage_to_what_was_done_is_made_good(tmp_path, clip, model, style, name, run_and_die, capsys):
    out = tmp_path / "out.mkv"
    options = ["--temporal", "blend" if name.endswith(".npz") else "off"]
    expected = uninterrupted(clip, style, model, out, *options)
    run_and_die(clip, "--style", style, "--model", model, "-o", out, *options, after=2)
    damaged = tmp_path / "out.mkv.job" / name
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 4
    damaged.write_bytes(data)
    capsys.readouterr()
    run(clip, "--style", style, "--model", model, "-o", out, *options)
    assert "is damaged: the clip is made from" in capsys.readouterr().err
    assert out.read_bytes() == expected
    assert not (tmp_path / "out.mkv.job").exists()


KILLED = """
import os, signal, sys
from stdcli.inference import clips
from stdcli.inference.job import Job
from stdcli.cli.main import main
clips.SEGMENT_FRAMES = 4
commit = Job.commit
def commit_and_die(self, frames, memory):
    commit(self, frames, memory)
    if len(self.frames) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
Job.commit = commit_and_die
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_process_is_continued(tmp_path, clip, model, style):
    out = tmp_path / "out.mp4"
    expected = uninterrupted(clip, style, model, out)
    arguments = ["stylize", clip, "--style", style, "--model", model, "-o", out]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILLED, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not out.exists()
    assert (tmp_path / "out.mp4.job/job.json").exists()
    run(*arguments[1:])
    assert out.read_bytes() == expected


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_ctrl_c_leaves_a_playable_part_and_the_same_command_goes_on(
    tmp_path, clip, model, style, monkeypatch, capsys, number
):
    out = tmp_path / "out.mp4"
    expected = uninterrupted(clip, style, model, out, "--batch", 1)
    before = names(tmp_path)
    original, seen = StyleSession.stylize, []

    def interrupted(self, frames):
        seen.append(len(frames))
        if len(seen) == 6:
            signal.raise_signal(number)
        return original(self, frames)

    with monkeypatch.context() as patch:
        patch.setattr(StyleSession, "stylize", interrupted)
        run(clip, "--style", style, "--model", model, "-o", out, "--batch", 1, code=130)
    told = capsys.readouterr().err
    partial = tmp_path / "out.partial.mp4"
    assert str(partial) in told
    assert "6 of 11 frames" in told
    assert "the same command continues" in told
    info = probe(partial)
    assert (info.fps, info.frames, info.has_audio) == (FPS, 6, True)
    assert len(list(iter_frames(partial))) == 6
    assert names(tmp_path) == sorted([*before, "out.mp4.job", "out.partial.mp4"])
    run(clip, "--style", style, "--model", model, "-o", out, "--batch", 1)
    assert out.read_bytes() == expected
    assert names(tmp_path) == sorted([*before, "out.mp4", f"{out.name}.json"])


def test_a_run_killed_before_the_last_act_only_joins(tmp_path, clip, model, style, monkeypatch):
    out = tmp_path / "out.mp4"
    expected = uninterrupted(clip, style, model, out)

    def die(self, *, overwrite):
        raise SystemError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(VideoSink, "finish", die)
        run(clip, "--style", style, "--model", model, "-o", out, code=70)
    monkeypatch.setattr(StyleSession, "stylize", None)  # nothing is left to restyle
    run(clip, "--style", style, "--model", model, "-o", out)
    assert out.read_bytes() == expected


def test_numbered_results_go_on_too(tmp_path, clip, model, style, run_and_die):
    out = tmp_path / "frames/%03d.png"
    arguments = [clip, "--style", style, "--model", model, "-o", out]
    run(*arguments)
    expected = {file.name: file.read_bytes() for file in out.parent.iterdir()}
    for file in out.parent.iterdir():
        file.unlink()
    run_and_die(*arguments, after=1)
    assert len(expected) == 11
    run(*arguments)
    assert {file.name: file.read_bytes() for file in out.parent.iterdir()} == expected
    run(*arguments, code=5)


def test_a_clip_behind_another_input_is_continued_by_a_model_with_its_style_adapter_apart(
    tmp_path, style, run_and_die, capsys
):
    """SDXL, whose style adapter lies apart: what is kept of the clip names the model as any run does."""
    folder = add_style_adapter(save_tiny_sdxl(tmp_path / "sdxl"))
    Image.open(style).resize((24, 24)).save(tmp_path / "a.png")
    clip = write_clip(tmp_path / "b.mp4", 6, with_sound=False)
    common = ["--style", style, "--model", folder, "--max-size", 64, "--steps", 1, "--guidance", 1]
    arguments = [tmp_path / "a.png", clip, *common, "-o", tmp_path / "out"]
    (tmp_path / "out").mkdir()
    run_and_die(*arguments, after=1)
    capsys.readouterr()
    run(*arguments)
    assert "at frame 4 of 6" in capsys.readouterr().err
    first, second = sorted((tmp_path / "out").glob("*.json"))
    named = json.loads(first.read_text())["model"]
    adapter = (folder / "ip_adapter" / "ip_adapter.safetensors").read_bytes()
    assert named["style_sha256"] == hashlib.sha256(adapter).hexdigest()
    assert named == json.loads(second.read_text())["model"]


def test_another_request_does_not_throw_away_what_was_done(tmp_path, clip, model, style, run_and_die, capsys):
    out = tmp_path / "out.mp4"
    arguments = [clip, "--style", style, "--model", model, "-o", out]
    run_and_die(*arguments, after=1)
    run(*arguments, "--seed", 7, code=2)
    assert "config.seed: not set there, 7 here" in capsys.readouterr().err
    assert (tmp_path / "out.mp4.job/00000").exists()
    run(*arguments, "--seed", 7, "--overwrite")
    assert read_recipe(out)["config"]["seed"] == 7
    assert not (tmp_path / "out.mp4.job").exists()


def test_a_run_beside_a_running_one_is_refused(tmp_path, clip, model, style, capsys):
    out = tmp_path / "out.mp4"
    with Job(out, {}, discard=False):
        run(clip, "--style", style, "--model", model, "-o", out, code=5)
    assert "another run is making this output" in capsys.readouterr().err
    assert not out.exists()


def test_one_color_map_for_the_whole_clip(tmp_path, style, model, monkeypatch):
    """What comes into view does not recolour what was there: the same pixels start from the same latents."""
    own = save_tiny_embedded(tmp_path / "model")
    recipe = json.loads((own / "recipe.json").read_text()) | {"start": {"transform": "colours"}}
    (own / "recipe.json").write_text(json.dumps(recipe))
    seen = []
    original = image_to_image.encode_towards
    spied = lambda *args, **kwargs: (seen.append(original(*args, **kwargs)), seen[-1])[1]  # noqa: E731
    monkeypatch.setattr(image_to_image, "encode_towards", spied)
    left = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    frames = [np.concatenate([left, np.full_like(left, level)], 1) for level in (0, 90, 250)]
    info = VideoInfo(64, 32, FPS, 3)
    with VideoWriter(tmp_path / "c.mkv", info, crf=0) as writer:
        for frame in frames:
            writer.write(frame)
    stored = np.stack(list(iter_frames(tmp_path / "c.mkv"))).astype(int)
    assert np.abs(stored[0] - stored[2])[:, :24].max() <= 2
    run(tmp_path / "c.mkv", "--style", style, "--model", own, "--batch", 3)
    latents = seen[-1]
    cells = latents.shape[-1] * 20 // 64
    assert (latents[0, ..., :cells] - latents[2, ..., :cells]).abs().max() < 0.1
    assert (latents[0, ..., -2:] - latents[2, ..., -2:]).abs().max() > 0.2


def test_a_batch_that_does_not_fit_is_halved(tmp_path, clip, model, style, monkeypatch, capsys):
    run(clip, "--style", style, "--model", model, "--batch", 4, "-o", tmp_path / "a.mp4")
    original, seen = ImageToImage.__call__, []

    def small_device(self, pixels, *rest):
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("no")
        seen.append(len(pixels))
        return original(self, pixels, *rest)

    monkeypatch.setattr(ImageToImage, "__call__", small_device)
    run(clip, "--style", style, "--model", model, "--batch", 4, "-o", tmp_path / "b.mp4")
    assert len(seen) == 11
    told = capsys.readouterr().err
    assert told.count("do not fit into memory") == 2
    a, b = (np.stack(list(iter_frames(tmp_path / f"{name}.mp4"))).astype(int) for name in "ab")
    assert np.abs(a - b).max() <= 4

    def no_device(self, pixels, *rest):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(ImageToImage, "__call__", no_device)
    run(clip, "--style", style, "--model", model, "-o", tmp_path / "c.mp4", code=7)
    assert "--max-size" in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_told_before_work(tmp_path, clip, style, capsys, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    run(clip, "--style", style, "--model", "no/such/model", "-o", tmp_path / "out.mp4", code=7)
    told = capsys.readouterr().err
    assert "the disk is too small" in told and "0.00 GB free" in told
