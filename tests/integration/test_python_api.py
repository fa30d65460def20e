"""The public Python API: the same results, files and errors as the commands, from one opened model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import stdcli
from stdcli import Stylizer, measure, open_bank
from stdcli.cli.main import main
from stdcli.errors import BankError, ConfigError, MediaError, ModelError
from stdcli.inference import configured_model
from stdcli.inference.session import StyleSession
from stdcli.media.probe import VideoInfo
from stdcli.media.video import VideoWriter
from stdcli.reporter import LogReporter
from tests.tiny_banks import MANIFEST, make_paths, write_tiny_bank
from tests.tiny_models import save_tiny_embedded

README = Path(stdcli.__file__).parent.parent / "README.md"
HEIGHT, WIDTH = 37, 45


class Told(LogReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.counted: list[tuple[str, int | None, int]] = []

    def warning(self, message: object) -> None:
        self.warnings.append(str(message))

    @contextmanager
    def progress(self, label: str, total: int | None = None) -> Iterator[Any]:
        with super().progress(label, total) as inner:
            counts: list[int] = []
            inner.advance = lambda n=1: counts.append(n)
            yield inner
        self.counted.append((label, total, sum(counts)))


def pixels(seed: int, *shape: int) -> np.ndarray:
    """Smooth colors, uint8."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.array(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_embedded(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """photo.png, style.png, other.png and frames/00.png to 06.png."""
    made = tmp_path_factory.mktemp("files")
    for seed, name in enumerate(("photo.png", "style.png", "other.png")):
        Image.fromarray(pixels(seed, HEIGHT, WIDTH)).save(made / name)
    (made / "frames").mkdir()
    for index, frame in enumerate(frames()):
        Image.fromarray(frame).save(made / f"frames/{index:02d}.png")
    return made


def frames() -> np.ndarray:
    wide = pixels(7, HEIGHT, WIDTH + 20)
    return np.stack([wide[:, 2 * k : 2 * k + WIDTH] for k in range(7)])


@pytest.fixture(scope="module")
def stylizer(model: Path, folder: Path) -> Stylizer:
    return Stylizer.from_pretrained(model, style=folder / "style.png", steps=2, strength=0.5, device="cpu")


@pytest.fixture
def command(model: Path, folder: Path, tmp_path: Path):
    """(input, further options) -> the file that the command made."""

    def run(name: str, *options: object, to: str = "cli.png") -> Path:
        given = ["--style", folder / "style.png", "--model", model, "--steps", 2, "--strength", 0.5]
        args = [folder / name, *given, "--device", "cpu", "-o", tmp_path / to, *options]
        assert main(["stylize", *map(str, args)]) == 0
        return tmp_path / to

    return run


def read(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def test_a_picture_in_every_form_is_the_commands_picture(stylizer, command, folder) -> None:
    made = read(command("photo.png"))
    array, image = read(folder / "photo.png"), Image.open(folder / "photo.png")
    assert np.array_equal(stylizer(array), made)
    for given in (image, folder / "photo.png", str(folder / "photo.png")):
        painted = stylizer(given)
        assert isinstance(painted, Image.Image) and painted.mode == "RGB"
        assert np.array_equal(np.array(painted), made)
    assert np.abs(made.astype(int) - array).mean() > 3


def test_several_pictures_are_made_as_each_alone(stylizer, folder, monkeypatch) -> None:
    """One after the other, as the command does: together their last bits could differ."""
    sizes: list[int] = []
    original = StyleSession.stylize
    monkeypatch.setattr(StyleSession, "stylize", lambda s, f: (sizes.append(len(f)), original(s, f))[1])
    alone = [stylizer(frame) for frame in frames()[:3]]
    assert np.array_equal(stylizer(frames()[:3]), np.stack(alone))
    assert sizes == [1] * 6
    listed = stylizer([folder / "photo.png", Image.open(folder / "other.png")])
    assert [image.size for image in listed] == [(WIDTH, HEIGHT)] * 2
    assert np.array_equal(np.array(listed[1]), stylizer(read(folder / "other.png")))
    batched = stylizer.using(batch=3)(frames()[:3]).astype(int)
    assert sizes[-1] == 3
    assert np.abs(batched - np.stack(alone)).max() <= 1


def test_frames_of_a_clip_are_the_commands_frames(stylizer, command, folder, tmp_path) -> None:
    command("frames/%02d.png", "--fps", 25, to="out/%02d.png")
    made = np.stack([read(tmp_path / f"out/{index:02d}.png") for index in range(7)])
    assert np.array_equal(stylizer(frames(), clip=True), made)
    assert not np.array_equal(stylizer(frames()), made)  # each for itself: other colors, nothing kept steady


def test_transparency_and_rotation_are_kept(stylizer, folder, tmp_path) -> None:
    rgba = np.dstack([read(folder / "photo.png"), np.full((HEIGHT, WIDTH), 128, np.uint8)])
    painted = np.array(stylizer(Image.fromarray(rgba)))
    assert np.array_equal(painted[..., :3], stylizer(rgba[..., :3].copy())) and (painted[..., 3] == 128).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(rgba[..., :3]).save(tmp_path / "turned.png", exif=exif)
    for given in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        assert np.array_equal(np.array(stylizer(given)), stylizer(np.rot90(rgba[..., :3], -1)))


def test_a_file_is_the_commands_file_to_the_byte(stylizer, command, folder, tmp_path) -> None:
    made = command("photo.png")
    (found,) = stylizer.restyle_files(folder / "photo.png", tmp_path / "api.png")
    assert found == str(tmp_path / "api.png")
    assert (tmp_path / "api.png").read_bytes() == made.read_bytes()
    assert (tmp_path / "api.png.json").read_bytes() == (tmp_path / "cli.png.json").read_bytes()
    with pytest.raises(MediaError, match="--overwrite"):
        stylizer.restyle_files(folder / "photo.png", tmp_path / "api.png")
    pictures = [folder / "photo.png", folder / "other.png"]
    plain = stylizer.restyle_files(pictures, tmp_path / "plain", metadata=False)
    wanted = {str(tmp_path / f"plain/{name}.std.png") for name in ("other", "photo")}
    assert {*plain} == wanted == {str(path) for path in (tmp_path / "plain").iterdir()}
    both = stylizer.restyle_files(pictures, tmp_path / "out")
    (tmp_path / "out/other.std.png").unlink()
    assert stylizer.restyle_files(pictures, tmp_path / "out") == both  # the first was there already


def test_a_reporter_is_told_of_warnings_and_progress(model, folder, tmp_path) -> None:
    told = Told()
    given = {"style": folder / "style.png", "steps": 1, "device": "cpu"}
    painter = Stylizer.from_pretrained(model, **given, prompt="a fox", reporter=told)
    assert told.warnings == []
    painter.restyle_files(folder / "frames/%02d.png", tmp_path / "out/%02d.png")
    assert told.counted == [("%02d.png", 7, 7)]
    assert [line for line in told.warnings if "prompts mean nothing" in line], told.warnings
    said = len(told.warnings)
    painter(frames()[0])
    assert len(told.warnings) == said  # once


def test_another_style_and_settings_load_nothing(model, folder, stylizer, monkeypatch) -> None:
    fresh = Stylizer.from_pretrained(model, style=folder / "other.png", steps=1, strength=0.5, device="cpu")
    monkeypatch.setattr(configured_model, "load_model", None)
    photo = read(folder / "photo.png")
    before = stylizer(photo)
    other = stylizer.using(style=folder / "other.png", steps=1)
    assert np.array_equal(other(photo), fresh(photo))
    assert (other.settings["steps"], other.settings["strength"], stylizer.settings["steps"]) == (1, 0.5, 2)
    assert np.array_equal(stylizer.using(style=read(folder / "other.png"), steps=1)(photo), fresh(photo))
    assert np.array_equal(other.using(style=Image.open(folder / "style.png"), steps=2)(photo), before)
    assert np.array_equal(stylizer(photo), before)
    blend = stylizer.using(style=[folder / "style.png", pixels(2, HEIGHT, WIDTH)], style_weights=(1, 0))
    assert np.array_equal(blend(photo), before)


def test_what_decides_the_model_is_refused_later(stylizer) -> None:
    with pytest.raises(ConfigError) as caught:
        stylizer.using(student="runs/x", steps=1)
    assert str(caught.value).splitlines()[1] == "  student: decides what is loaded"


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((8, 8, 3)), "float64 [8, 8, 3]"),
        (np.zeros((8, 8, 4), np.uint8), "uint8 [8, 8, 4]"),
        (np.zeros((8, 8), np.uint8), "uint8 [8, 8]"),
        (np.zeros((0, 8, 8, 3), np.uint8), "uint8 [0, 8, 8, 3]"),
        (3.5, "a float"),
    ],
)
def test_what_is_no_picture_is_one_line(stylizer, image, got) -> None:
    with pytest.raises(MediaError) as caught:
        stylizer(image)
    assert caught.value.got == got
    assert caught.value.expected.startswith("uint8 [H, W, 3]")


def errors(model: Path, folder: Path) -> list[tuple[list[str], Any]]:
    """Options that are wrong, and the same in Python."""
    photo, style = str(folder / "photo.png"), str(folder / "style.png")
    opened = Stylizer.from_pretrained
    return [
        ([photo], lambda: opened(model)),
        ([photo, "--style", "nowhere.png"], lambda: opened(model, style="nowhere.png")),
        ([photo, "--style", style, "--steps", "0"], lambda: opened(model, style=style, steps=0)),
        ([photo, "--style", style, "--preset", "no"], lambda: opened(model, style=style, preset="no")),
        (
            [photo, "--style", style, "--student", "no/x", "--offline"],
            lambda: opened(model, style=style, student="no/x", offline=True),
        ),
    ]


def test_errors_are_those_of_the_command(model, folder, capsys) -> None:
    for options, call in errors(model, folder):
        with pytest.raises(stdcli.StdcliError) as caught:
            call()
        code = main(["stylize", *options, "--model", str(model)])
        assert code == caught.value.exit_code != 1
        assert capsys.readouterr().err == f"{caught.value}\n"


def test_a_setting_that_is_not_there_is_an_error(model, folder) -> None:
    with pytest.raises(ConfigError, match="strenght"):
        Stylizer.from_pretrained(model, style=folder / "style.png", strenght=0.3)
    with pytest.raises(ModelError):
        Stylizer.from_pretrained(folder / "no-model", style=folder / "style.png")


def test_files_cannot_be_made_in_a_style_without_a_name(stylizer, folder, tmp_path) -> None:
    unnamed = stylizer.using(style=pixels(3, 20, 20))
    with pytest.raises(ConfigError, match="results in files need styles in files"):
        unnamed.restyle_files(folder / "photo.png", tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_a_bank_is_read_by_number(tmp_path) -> None:
    write_tiny_bank(tmp_path / "bank")
    bank = open_bank(str(tmp_path / "bank"))
    assert (len(bank), bank.level_ids, [level.id for level in bank.levels]) == (7, (7, 5, 2, 0), [7, 5, 2, 0])
    assert [level.sigma for level in bank.levels] == [0.7, 0.5, 0.2, 0.0]
    wanted = make_paths(MANIFEST, range(7))
    assert bank.states([6, 1], [5, 0]).equal(wanted.states[[6, 1], [1, 3]])
    assert bank.path(4).equal(wanted.states[4])
    assert bank.conditions([2, 5])["cond.style"].shape == (2, 4, 6)
    with pytest.raises(BankError):
        open_bank(tmp_path / "nothing")


def told_by_the_command(capsys, *args: object) -> dict[str, float | None]:
    capsys.readouterr()
    assert main(["eval", "measure", *map(str, args), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["results"][0]["values"]


def test_measures_are_those_of_the_command(stylizer, folder, tmp_path, capsys) -> None:
    photo, style = folder / "photo.png", folder / "style.png"
    stylizer(photo).save(tmp_path / "made.png")
    told = told_by_the_command(capsys, tmp_path / "made.png", "--content", photo, "--style", style)
    assert measure(tmp_path / "made.png", content=photo, style=style) == told
    assert measure(read(tmp_path / "made.png"), content=read(photo), style=[read(style)]) == told
    assert told["palette"] > 0 and told["flicker"] is None
    few = measure(tmp_path / "made.png", style=style, metrics="palette, edges")
    assert few == {"palette": told["palette"], "edges": None}
    assert measure(tmp_path / "made.png", metrics=["edges"], content=photo) == {"edges": told["edges"]}


def test_measures_of_a_clip_are_those_of_the_command(stylizer, folder, tmp_path, capsys) -> None:
    made = stylizer(frames(), clip=True)
    (tmp_path / "made").mkdir()
    for index, frame in enumerate(made):
        Image.fromarray(frame).save(tmp_path / f"made/{index:02d}.png")
    options = ["--content", folder / "frames/%02d.png", "--metrics", "flicker,warping,edges"]
    told = told_by_the_command(capsys, tmp_path / "made/%02d.png", *options)
    assert measure(made, content=frames(), metrics="flicker, warping, edges") == told
    assert told["warping"] is not None and told["edges"] is not None


PLAIN = np.zeros((9, 9, 3), np.uint8)


@pytest.mark.parametrize(
    ("result", "more", "kind", "words"),
    [
        (PLAIN, {"metrics": "beauty"}, ConfigError, "beauty"),
        (PLAIN, {"metrics": "clip-t", "prompt": "a"}, ModelError, "metrics lack their weights"),
        (PLAIN, {"content": PLAIN[:, 1:]}, MediaError, "differs"),
        (PLAIN[None], {"content": PLAIN}, MediaError, "no pair"),
        (PLAIN / 2, {}, MediaError, "not an array of pictures"),
        (PLAIN, {"style": np.stack([PLAIN] * 2)}, MediaError, "a style is one picture"),
    ],
)
def test_what_cannot_be_measured_is_refused(result, more, kind, words) -> None:
    with pytest.raises(kind, match=words):
        measure(result, **more, offline=True)


def test_the_page_shows_lines_that_run(folder, tmp_path, monkeypatch, capsys) -> None:
    """README's lines, as they stand, with the embedded model."""
    (code,) = re.findall(r"```python\n(from stdcli import .*?)```", README.read_text("utf-8"), re.S)
    assert len(code.splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    for name, seed in (("photo.jpg", 0), ("painting.jpg", 1), ("other.jpg", 2)):
        Image.fromarray(pixels(seed, 48, 64)).save(name)
    with VideoWriter(Path("clip.mp4"), VideoInfo(64, 48, Fraction(25), 3)) as writer:
        for seed in range(3):
            writer.write(pixels(seed, 48, 64))
    write_tiny_bank(Path("banks/art"))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["starts"].shape == (2, *MANIFEST.latent_shape)
    assert Path("painted.png").is_file() and Path("painted.mp4").is_file()
    assert set(eval(capsys.readouterr().out)) == {"palette", "edges"}
