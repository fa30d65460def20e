"""`stdcli stylize` end to end: real files through a small random model of the embedded kind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stdcli.cli.main import main
from stdcli.diffusion.colors import color_statistics, match_colors, mix_colors
from stdcli.diffusion.levels import make_sampling_path
from stdcli.diffusion.noise import make_noise
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.media.arrays import resize
from stdcli.media.embedded_recipe import read_recipe
from stdcli.media.ffmpeg import run_ffmpeg
from stdcli.media.image import read_image
from stdcli.media.probe import VideoInfo, probe
from stdcli.media.tensors import to_tensor
from stdcli.media.video import VideoWriter, iter_frames
from stdcli.models.denoiser import Denoiser
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from tests.tiny_models import save_tiny_embedded

pytestmark = pytest.mark.usefixtures("one_load")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_tiny_embedded(tmp_path_factory.mktemp("model")))


def picture(path: Path, *, width: int, height: int, seed: int, alpha: bool = False) -> Path:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 4 if alpha else 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    image.save(path)
    return path


@pytest.fixture
def files(tmp_path) -> tuple[str, str, Path]:
    photo = picture(tmp_path / "photo.png", width=75, height=61, seed=1)
    style = picture(tmp_path / "style.png", width=80, height=64, seed=2)
    return str(photo), str(style), tmp_path


@pytest.fixture
def calls(monkeypatch) -> list[tuple[torch.Tensor, float]]:
    """Every forward of the network: (states, time)."""
    seen = []
    original = Denoiser.__call__

    def counted(self, x, t, condition):
        seen.append((x.clone(), float(torch.as_tensor(t).flatten()[0])))
        return original(self, x, t, condition)

    monkeypatch.setattr(Denoiser, "__call__", counted)
    return seen


def run(*arguments: str, code: int = 0) -> None:
    assert main(["stylize", *map(str, arguments)]) == code


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize(("steps", "strength"), [(1, 0.35), (2, 0.5), (4, 0.75), (8, 0.95)])
def test_announced_evaluations_are_what_runs(files, model, calls, capsys, steps, strength, guidance):
    photo, style, _ = files
    options = ["--steps", steps, "--strength", strength, "--guidance", guidance, "--json"]
    run(photo, "--style", style, "--model", model, *options)
    told = json.loads(capsys.readouterr().out)
    samples_per_call = 2 if guidance != 1 else 1
    assert told["evaluations"] == len(calls) == steps
    assert told["forwards"] == sum(len(x) for x, _ in calls) == steps * samples_per_call
    assert told["timesteps"] == [t for _, t in calls]


def test_three_quarters_in_four_steps_starts_where_students_are_trained(files, model, calls):
    photo, style, _ = files
    run(photo, "--style", style, "--model", model, "--steps", 4, "--strength", 0.75)
    assert [t for _, t in calls] == [739, 559, 379, 199]


def test_start_state_has_the_styles_statistics(tmp_path, model, calls):
    """x = alpha z + sigma noise, the noise known: the z of the first call has the style's mean and std."""
    photo = picture(tmp_path / "photo.png", width=96, height=64, seed=1)
    style = picture(tmp_path / "style.png", width=96, height=64, seed=2)
    common = [photo, "--style", style, "--model", model, "--steps", 1, "--strength", 0.6, "--overwrite"]
    run(*common, "--guidance", 1, "--match-style-statistics")
    run(*common, "--guidance", 1, "--no-match-style-statistics")
    run(style, *common[1:-1], "--guidance", 1, "--no-match-style-statistics", "-o", tmp_path / "s.png")
    schedule = NoiseSchedule.scaled_linear(0.0000255, 0.00036, 1000)
    alpha, sigma = schedule.alphas[599].item(), schedule.sigmas[599].item()
    matched, plain, of_style = ((x - sigma * make_noise(x.shape, 0, 0)) / alpha for x, _ in calls)
    stats = [torch.cat([z.mean((2, 3)), z.std((2, 3), correction=0)]) for z in (matched, plain, of_style)]
    assert torch.allclose(stats[0], stats[2], atol=1e-4)
    assert (stats[1] - stats[2]).abs().max() > 0.05


@pytest.fixture
def matched_colors(tmp_path, model, calls):
    """(wanted pixels, arguments) -> how far the first z is from the latent of the wanted pixels."""
    own = shutil.copytree(model, tmp_path / "model")
    recipe = json.loads((own / "recipe.json").read_text()) | {"start": {"transform": "colours"}}
    (own / "recipe.json").write_text(json.dumps(recipe))
    bundle = load_model(ModelSpec(str(own)))
    level = make_sampling_path(bundle.network.schedule, steps=1, strength=0.6).levels[0]

    def error_of(wanted: torch.Tensor, *arguments: object) -> float:
        calls.clear()
        common = ["--model", own, "--steps", 1, "--strength", 0.6, "--guidance", 1, "--overwrite"]
        run(*common, *arguments)
        x, _ = calls[0]
        z = (x - level.sigma * make_noise(x.shape, 0, 0)) / level.alpha
        return (z - bundle.codec.encode(wanted * 2 - 1)).abs().max().item()

    return error_of


def unit(rgb: np.ndarray) -> torch.Tensor:
    return to_tensor(rgb) / 2 + 0.5


def test_start_state_has_the_styles_colors_where_the_recipe_says_so(tmp_path, matched_colors):
    """The z of the first call decodes, linearly, to the colours of the style: mean and covariance of RGB."""
    photo = picture(tmp_path / "photo.png", width=96, height=64, seed=1)
    style = picture(tmp_path / "style.png", width=64, height=96, seed=2)
    rgb, theirs = unit(read_image(photo).rgb), unit(read_image(style).rgb)
    assert matched_colors(match_colors(rgb, theirs), photo, "--style", style) < 1e-3
    assert matched_colors(rgb, photo, "--style", style) > 0.1


def test_colors_of_two_styles_are_weighted(tmp_path, matched_colors):
    photo = picture(tmp_path / "photo.png", width=96, height=64, seed=1)
    styles = [picture(tmp_path / f"{seed}.png", width=64, height=96, seed=seed) for seed in (2, 8)]
    rgb, theirs = unit(read_image(photo).rgb), [color_statistics(unit(read_image(s).rgb)) for s in styles]
    options = [photo, "--style", styles[0], "--style", styles[1], "--style-weights", "3,1"]
    assert matched_colors(match_colors(rgb, mix_colors(theirs, (3.0, 1.0))), *options) < 1e-3
    assert matched_colors(match_colors(rgb, mix_colors(theirs, (1.0, 1.0))), *options) > 0.01


def test_colors_of_a_style_are_taken_at_the_area_of_the_picture(tmp_path, matched_colors):
    """Grain finer than a pixel of the result is no colour of the style."""
    photo = picture(tmp_path / "photo.png", width=96, height=64, seed=1)
    coarse = np.asarray(Image.open(picture(tmp_path / "s.png", width=256, height=384, seed=2)))
    grain = np.indices(coarse.shape[:2]).sum(0) % 2
    grainy = np.clip(coarse.astype(int) // 2 + 120 * grain[..., None], 0, 255).astype(np.uint8)
    Image.fromarray(grainy).save(tmp_path / "style.png")
    rgb = unit(read_image(photo).rgb)
    options = [photo, "--style", tmp_path / "style.png"]
    assert matched_colors(match_colors(rgb, unit(resize(grainy, 96, 64))), *options) < 1e-3
    assert matched_colors(match_colors(rgb, unit(grainy)), *options) > 0.1


def test_size_alpha_and_orientation_are_kept(tmp_path, files, model):
    _, style, _ = files
    source = picture(tmp_path / "odd.png", width=75, height=61, seed=3, alpha=True)
    run(source, "--style", style, "--model", model, "--max-size", 64)
    before, after = read_image(source), read_image(tmp_path / "odd.std.png")
    assert after.rgb.shape == (61, 75, 3)
    assert np.array_equal(after.alpha, before.alpha)

    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(before.rgb).save(turned, exif=exif)
    run(turned, "--style", style, "--model", model)
    with Image.open(tmp_path / "turned.std.jpg") as result:
        assert result.size == (61, 75)
        assert result.getexif().get(0x0112, 1) == 1


def test_seed_decides_and_nothing_else_does(files, model):
    photo, style, folder = files
    common = [photo, "--style", style, "--model", model]
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(*common, "--seed", seed, "-o", folder / f"{name}.png")
    a, b, c = (read_image(folder / f"{name}.png").rgb for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_record_replays_the_run(files, model):
    photo, style, folder = files
    run(photo, "--style", style, "--model", model, "--steps", 3, "--strength", 0.5, "--seed", 9)
    sidecar = folder / "photo.std.png.json"
    data = json.loads(sidecar.read_text())
    assert data["settings"]["evaluations"] == 3
    assert read_recipe(folder / "photo.std.png") == data
    run(photo, "--config", sidecar, "-o", folder / "again.png")
    assert np.array_equal(read_image(folder / "again.png").rgb, read_image(folder / "photo.std.png").rgb)


def test_no_metadata_leaves_none(files, model):
    photo, style, folder = files
    run(photo, "--style", style, "--model", model, "--no-metadata")
    assert not (folder / "photo.std.png.json").exists()
    assert read_recipe(folder / "photo.std.png") is None


def test_two_styles_are_weighted(files, model):
    photo, style, folder = files
    other = picture(folder / "other.png", width=64, height=64, seed=8)
    common = [photo, "--model", model, "--strength", 1]
    run(*common, "--style", style, "-o", folder / "one.png")
    run(*common, "--style", style, "--style", other, "--style-weights", "1,0", "-o", folder / "all.png")
    run(*common, "--style", style, "--style", other, "-o", folder / "half.png")
    one, all_, half = (read_image(folder / f"{name}.png").rgb.astype(int) for name in ("one", "all", "half"))
    assert np.abs(one - all_).max() <= 1
    assert np.abs(one - half).max() > 1


def test_dry_run_writes_nothing(files, model, calls, capsys):
    photo, style, folder = files
    before = sorted(folder.iterdir())
    run(photo, "--style", style, "--model", model, "--steps", 2, "--dry-run", "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["evaluations"], told["dry_run"]) == (2, True)
    assert len(told["timesteps"]) == 2
    assert (sorted(folder.iterdir()), calls) == (before, [])


def test_results_are_not_replaced_unless_told_to(files, model, calls, capsys):
    photo, style, folder = files
    existing = folder / "photo.std.png"
    existing.write_bytes(b"precious")
    common = [photo, "--style", style, "--model", model]
    run(*common, code=5)
    assert "--overwrite" in capsys.readouterr().err
    assert (existing.read_bytes(), calls) == (b"precious", [])
    before = Path(photo).read_bytes()
    run(*common, "-o", photo, "--overwrite", code=5)
    assert Path(photo).read_bytes() == before
    run(*common, "--overwrite")
    assert read_image(existing).rgb.shape == (61, 75, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([], 2, "no style to paint in"),
        (["--style", "STYLE", "--steps", "0"], 2, "steps"),
        (["--style", "STYLE", "--strength", "1.5"], 2, "strength"),
        (["--style", "STYLE", "--strength", "nan"], 2, "strength"),
        (["--style", "STYLE", "--timesteps", "200,400"], 2, "timesteps"),
        (["--style", "missing.png"], 5, "--style missing.png"),
        (["--style", "STYLE", "-o", "absent/out.png"], 5, "mkdir -p absent"),
        (["--style", "STYLE", "--style-weights", "1,2"], 2, "style_weights"),
    ],
)
def test_bad_requests_end_before_any_work(files, model, calls, capsys, arguments, code, told):
    photo, style, folder = files
    before = sorted(folder.iterdir())
    arguments = [style if value == "STYLE" else value for value in arguments]
    run(photo, "--model", model, *arguments, code=code)
    assert told in capsys.readouterr().err
    assert (sorted(folder.iterdir()), calls) == (before, [])


def test_folder_of_pictures(files, model, capsys):
    _, style, folder = files
    inputs = folder / "in"
    inputs.mkdir()
    for index in range(3):
        picture(inputs / f"p{index}.png", width=40 + index, height=40, seed=index)
    run(inputs, "--style", style, "--model", model, "-o", f"{folder}/out/", "--quiet")
    assert capsys.readouterr().out.split() == [f"{folder}/out/p{index}.std.png" for index in range(3)]
    run(inputs, "--style", style, "--model", model)
    run(inputs, "--style", style, "--model", model, "--overwrite")
    assert len(list(inputs.glob("*.png"))) == 6, "results of an earlier run were taken for inputs"
    sizes = [read_image(folder / f"out/p{index}.std.png").rgb.shape[1] for index in range(3)]
    assert sizes == [40, 41, 42]


@pytest.fixture
def clip(coded_clip, tmp_path) -> Path:
    return Path(shutil.copy(coded_clip, tmp_path / "clip.mp4"))


@pytest.fixture(scope="module")
def coded_clip(tmp_path_factory) -> Path:
    """Seven frames at 30000/1001, frames 2 and 5 equal, with a tone."""
    folder = tmp_path_factory.mktemp("clip")
    path, tone = folder / "clip.mp4", folder / "tone.m4a"
    run_ffmpeg("-f", "lavfi", "-i", "sine=frequency=440:duration=0.3", "-c:a", "aac", str(tone))
    rng = np.random.default_rng(5)
    frames = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((70, 50)))
        for _ in range(7)
    ]
    frames[5] = frames[2]
    info = VideoInfo(70, 50, Fraction(30000, 1001), len(frames))
    with VideoWriter(path, info, audio_from=tone, crf=0) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def audio_hash(path: Path) -> str:
    return run_ffmpeg("-i", str(path), "-map", "0:a", "-c", "copy", "-f", "md5", "-").output.strip()


def test_clip_keeps_rate_length_size_and_sound(clip, files, model, capsys):
    _, style, folder = files
    run(clip, "--style", style, "--model", model, "--batch", 3, "--json")
    told = json.loads(capsys.readouterr().out)
    result = folder / "clip.std.mp4"
    info = probe(result)
    assert (info.fps, info.frames, info.width, info.height) == (Fraction(30000, 1001), 7, 70, 50)
    assert told["frames"] == 7
    assert audio_hash(result) == audio_hash(clip) != ""
    assert read_recipe(result)["settings"]["evaluations"] == told["evaluations"]


def test_clip_is_resampled_on_request(clip, files, model):
    _, style, folder = files
    run(clip, "--style", style, "--model", model, "--fps", "15")
    info = probe(folder / "clip.std.mp4")
    assert (info.fps, info.frames) == (15, 4)  # 7 frames at 30000/1001 last 0.234 s


def test_equal_frames_stay_equal_whatever_the_batch(clip, files, model, monkeypatch):
    """One noise for all frames; where a frame lies in its batch does not matter."""
    from stdcli.inference import stylize as module

    _, style, folder = files
    seen = {}
    original = module.StyleSession.stylize

    for batch in (1, 3):
        frames = seen[batch] = []

        def keep(self, batch_frames, frames=frames):
            result = original(self, batch_frames)
            frames.extend(result)
            return result

        monkeypatch.setattr(module.StyleSession, "stylize", keep)
        run(clip, "--style", style, "--model", model, "--batch", batch, "-o", folder / f"b{batch}.mp4")
    one, three = np.stack(seen[1]).astype(int), np.stack(seen[3]).astype(int)
    source = list(iter_frames(clip))
    assert np.array_equal(source[2], source[5])
    assert np.array_equal(one[2], one[5])
    assert np.abs(one - three).max() <= 1
    assert np.abs(one[2] - one[3]).max() > 8
    stored = np.stack(list(iter_frames(folder / "b3.mp4"))).astype(int)
    apart = np.abs(stored[:, None] - three[None]).mean((2, 3, 4))
    assert np.argmin(apart, 1).tolist() == [0, 1, 2, 3, 4, 2, 6], "frames are not in their order"


def test_a_bad_file_among_many_is_passed_over_and_the_rest_is_not_made_twice(files, model, calls, capsys):
    _, style, folder = files
    inputs = folder / "in"
    inputs.mkdir()
    for index in range(2):
        picture(inputs / f"p{index}.png", width=40, height=40, seed=index)
    (inputs / "clip.mp4").write_bytes(b"no clip")
    (inputs / "torn.jpg").write_bytes(b"no picture")
    common = [f"{inputs}/*", "--style", style, "--model", model, "--steps", 1]
    run(*common, code=5)
    told = capsys.readouterr()
    assert "clip.mp4" in told.err and "torn.jpg" in told.err
    assert "2 of 4 inputs were passed over" in told.err
    assert len(told.out.splitlines()) == len(calls) == 2

    for name in ("clip.mp4", "torn.jpg"):
        (inputs / name).unlink()
    picture(inputs / "p2.png", width=40, height=40, seed=9)
    run(*common)
    told = capsys.readouterr()
    assert told.err.count("already made") == 2
    assert len(calls) == 3
    later_ns = (inputs / "p0.std.png").stat().st_mtime_ns + 10**9
    os.utime(inputs / "p0.png", ns=(later_ns, later_ns))
    run(*common, code=5)  # its input has changed since
    run(*common, "--seed", 5, code=5)  # other values: nothing is replaced unasked
    run(*common, "--overwrite")
    assert len(calls) == 6


def test_timesteps_on_the_command_line_win_over_steps_in_a_file(files, model, calls, tmp_path, capsys):
    photo, style, folder = files
    (folder / "mine.yaml").write_text("task: stylize\nsteps: 4\nstrength: 0.5\n")
    common = [photo, "--style", style, "--model", model, "--config", folder / "mine.yaml", "--overwrite"]
    run(*common, "--timesteps", "300,100", "--json")
    told = json.loads(capsys.readouterr().out)
    assert ([t for _, t in calls], told["timesteps"], told["strength"]) == ([300, 100], [300, 100], None)
    (folder / "mine.yaml").write_text("task: stylize\ntimesteps: [300, 100]\n")
    run(*common, "--steps", 1)
    assert len(calls) == 3
    run(*common, "--steps", 3, "--timesteps", "300,100", code=2)


def test_dry_run_refuses_what_a_run_would(files, model, capsys):
    photo, _, _ = files
    run(photo, "--prompt", "oil", "--model", model, "--dry-run", code=4)
    assert "style" in capsys.readouterr().err


def test_refusals_do_not_wait_for_the_models(files, tmp_path):
    """What files alone tell is refused before torch is imported."""
    photo, style, folder = files
    code = """
import json, sys
from stdcli.cli.main import main
for arguments in json.loads(sys.argv[1]):
    code = main(["stylize", *arguments])
    print(code, sorted({"torch", "diffusers", "transformers"} & sys.modules.keys()))
"""
    (folder / "photo.std.png").touch()
    requests = {
        (photo,): 2,
        (photo, "--style", style): 5,
        ("no.png", "--style", style): 5,
        (photo, "--style", "no.png"): 5,
        (photo, "--style", style, "-o", str(folder / "x.txt")): 5,
    }
    command = [sys.executable, "-c", code, json.dumps(list(requests))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{expected} []" for expected in requests.values()], done.stderr
