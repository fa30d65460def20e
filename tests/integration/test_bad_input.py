"""`stdcli stylize` with input that cannot work, or only just: one clear message, exit code, nothing left."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from stdcli.cli.main import main
from stdcli.inference.image_to_image import ImageToImage
from stdcli.media.ffmpeg import run_ffmpeg
from stdcli.media.image import read_image
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from tests.tiny_models import save_tiny_checkpoint, save_tiny_embedded, save_tiny_lora, save_tiny_sd15

pytestmark = pytest.mark.usefixtures("one_load")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_embedded(tmp_path_factory.mktemp("model"))


def picture(path: Path, *, width: int = 40, height: int = 32, mode: str = "RGB", **options: object) -> Path:
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([x * 5, y * 6, (x + y) * 2], axis=2).astype(np.uint8)
    Image.fromarray(rgb).convert(mode).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder, with a photo and a style in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    picture(folder / "photo.png")
    picture(folder / "style.png", width=32)
    return folder


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """Names of the models that were loaded."""
    from stdcli.inference import configured_model as module

    seen = []

    def counted(spec: ModelSpec, **options: object):
        seen.append(spec.name)
        return load_model(spec, **options)

    monkeypatch.setattr(module, "load_model", counted)
    return seen


@pytest.fixture
def refused(folder, model, loads, capfd) -> Callable[..., str]:
    """Run, check the exit code and that the folder is as it was; return what was said."""

    def run(*arguments: object, code: int, before_loading: bool = True) -> str:
        before = sorted(folder.rglob("*"))
        asked = list(map(str, arguments))
        if "--style" not in asked:
            asked += ["--style", "style.png"]
        if "--model" not in asked:
            asked += ["--model", str(model)]
        assert main(["stylize", *asked]) == code
        out, err = capfd.readouterr()
        assert out == ""
        assert "Traceback" not in err and "this is a bug" not in err
        assert sum(line.startswith("error: ") for line in err.splitlines()) == 1
        assert sorted(folder.rglob("*")) == before
        assert not (before_loading and loads)
        return err

    return run


def damaged_picture(name: str) -> None:
    picture(Path("whole.jpg"))
    if name == "cut.jpg":
        Path(name).write_bytes(Path("whole.jpg").read_bytes()[:600])
    elif name == "bomb.png":
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))]
        chunks += [(b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
        packed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
        Path(name).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    elif name == "anim.gif":
        frames = [Image.new("RGB", (9, 9), color) for color in ("red", "blue")]
        frames[0].save(name, save_all=True, append_images=frames[1:])
    elif name == "folder.png":
        Path(name).mkdir()
    elif name == "loop.png":
        Path(name).symlink_to(name)
    elif name != "phota.png":
        Path(name).write_bytes({"empty.png": b"", "text.png": b"no picture"}[name])


BAD_PICTURES = [
    ("phota.png", ["no such", "did you mean photo.png?"]),
    ("folder.png", ["error: "]),
    ("loop.png", ["error: "]),
    ("empty.png", ["not a picture that can be read", "an empty file"]),
    ("text.png", ["not a picture that can be read", "expected PNG, JPEG"]),
    ("cut.jpg", ["damaged or truncated", "copy or download it again"]),
    ("bomb.png", ["too large", "got 2,500,000,000 pixels, expected at most 150,000,000 pixels", "shrink"]),
    ("anim.gif", ["an animation, not a picture", "got 2 frames", "ffmpeg -i anim.gif -vf "]),
]


@pytest.mark.parametrize(("name", "told"), BAD_PICTURES)
def test_a_bad_picture(refused, name, told):
    damaged_picture(name)
    error = refused(name, code=5)
    for part in (*told, name):
        assert part in error


@pytest.mark.parametrize(("name", "told"), BAD_PICTURES)
def test_a_bad_style_picture(refused, name, told):
    damaged_picture(name)
    error = refused("photo.png", "--style", name, code=5)
    for part in (*told, f"--style {name}"):
        assert part in error


@pytest.mark.parametrize("name", ["empty", "x" * 300, "~no-such-user/a.png", "*.mov"])
def test_an_input_that_is_nothing(refused, folder, name):
    (folder / "empty").mkdir()
    assert "error: " in refused(name, code=5)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("clips")
    run_ffmpeg("-f", "lavfi", "-i", "testsrc=size=32x24:rate=25", "-frames:v", "6", f"{place}/whole.mp4")
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=0.2", "-c:a", "aac", f"{place}/sound.mp4")
    data = (place / "whole.mp4").read_bytes()
    (place / "zero.mp4").touch()
    (place / "header.mp4").write_bytes(data[:48])
    (place / "index.mp4").write_bytes(data[: data.index(b"ftyp") - 4] + data[data.index(b"moov") - 4 :])
    (place / "half.mp4").write_bytes(data[: len(data) // 2])
    picture(place / "still.png").rename(place / "still.mp4")
    (place / "text.mp4").write_text("no video")
    return place


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("zero", "not a video that can be read"),
        ("header", "not a video that can be read"),
        ("index", "error: "),
        ("half", "error: "),
        ("sound", "there is no video in this file"),
        ("text", "not a video that can be read"),
    ],
)
def test_a_bad_clip(refused, clips, folder, name, told):
    shutil.copy(clips / f"{name}.mp4", folder / "clip.mp4")
    error = refused("clip.mp4", code=5)
    assert told in error and "at: clip.mp4" in error


def test_a_style_that_is_a_video(refused, clips, folder):
    shutil.copy(clips / "whole.mp4", folder / "clip.mp4")
    error = refused("photo.png", "--style", "clip.mp4", code=5)
    assert "a video, not a picture" in error
    assert "hint: take a frame of it: ffmpeg -i clip.mp4 -frames:v 1 -update 1 clip.png" in error


@pytest.fixture
def unchanged(monkeypatch) -> None:
    """A stylizer that changes nothing: what was read is what is written."""
    monkeypatch.setattr(ImageToImage, "__call__", lambda self, pixels: pixels)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000), (17, 1)])
def test_extreme_sizes_come_back_exactly(folder, model, unchanged, size):
    picture(folder / "odd.png", width=size[0], height=size[1])
    assert main(["stylize", "odd.png", "--style", "style.png", "--model", str(model)]) == 0
    assert np.array_equal(read_image(folder / "odd.std.png").rgb, read_image(folder / "odd.png").rgb)


@pytest.mark.parametrize("size", [(1, 1), (2000, 10), (10, 2000)])
@pytest.mark.parametrize("odd", ["input", "style"])
def test_extreme_sizes_are_computed(folder, model, size, odd):
    picture(folder / "odd.png", width=size[0], height=size[1])
    names = ("odd.png", "style.png") if odd == "input" else ("photo.png", "odd.png")
    command = ["stylize", names[0], "--style", names[1], "--model", str(model), "--steps", "1"]
    assert main([*command, "-o", "out.png"]) == 0
    assert read_image(folder / "out.png").rgb.shape == read_image(folder / names[0]).rgb.shape


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.jpg", "CMYK", {}),
        ("a.jpg", "L", {}),
        ("a.png", "P", {}),
        ("a.png", "1", {}),
        ("a.png", "LA", {}),
        ("a.gif", "P", {}),
        ("a.webp", "RGBA", {"lossless": True}),
        ("a.tif", "I;16", {}),
        ("a.bmp", "RGB", {}),
    ],
)
def test_every_kind_of_picture_arrives_and_leaves_as_it_was_read(
    folder, model, unchanged, name, mode, options
):
    if mode == "I;16":
        Image.fromarray(np.arange(0, 60_000, 40, dtype=np.uint16).reshape(30, 50)).save(name)
    else:
        picture(Path(name), mode=mode, **options)
    assert main(["stylize", name, "--style", name, "--model", str(model), "-o", "out.png"]) == 0
    before, after = read_image(folder / name), read_image(folder / "out.png")
    assert np.array_equal(after.rgb, before.rgb)
    assert (after.alpha is None) == (before.alpha is None)


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("photo.png", "the output is the input itself"),
        ("symlink.png", "the output is the input itself"),
        ("hardlink.png", "the output is the input itself"),
        ("file/out.png", "the output's folder is a file"),
        ("absent/out.png", "mkdir -p absent"),
        ("pipe.png", "a device, not a file"),
    ],
)
def test_an_output_that_cannot_be(refused, folder, output, told):
    (folder / "symlink.png").symlink_to("photo.png")
    (folder / "hardlink.png").hardlink_to("photo.png")
    (folder / "file").touch()
    os.mkfifo(folder / "pipe.png")
    before = (folder / "photo.png").read_bytes()
    assert told in refused("photo.png", "-o", output, "--overwrite", code=5)
    assert (folder / "photo.png").read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no folder where even root may not write")
def test_a_folder_that_takes_no_file(refused):
    error = refused("photo.png", "-o", "/proc/out.png", code=5)
    assert "the output's folder cannot be written to" in error and "at: /proc\n" in error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_the_full_device(refused):
    Path("full.png").symlink_to("/dev/full")
    error = refused("photo.png", "-o", "full.png", "--overwrite", code=5)
    assert "a device, not a file" in error
    assert Path("/dev/full").is_char_device()


@pytest.mark.slow
@pytest.mark.parametrize("room_kb", [4, 16])
def test_a_full_disk_leaves_nothing(folder, model, capfd, room_kb):
    """A file system of a few pages, too small for the result."""
    disk = folder / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={room_kb}k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(["mount", *options], check=False).returncode:
        pytest.skip("mounting is not permitted")
    try:
        picture(folder / "large.png", width=300, height=300)
        command = ["stylize", "large.png", "--style", "style.png", "--model", str(model), "--steps", "1"]
        assert main([*command, "-o", "disk/out.png"]) == 7
        assert list(disk.iterdir()) == []
        assert "No space left on device" in capfd.readouterr().err
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--preset", "embedded-fst"], 2, "did you mean stylize/embedded-fast"),
        (["--set", "strenght=1"], 2, "did you mean strength?"),
        (["--strenght", "1"], 2, "did you mean --strength"),
        (["--strength", "0"], 2, "strength: must be greater than 0, got 0.0"),
        (["--steps", "0"], 2, "steps: must be greater than or equal to 1, got 0"),
        (["--steps", "1001"], 2, "steps: must be less than or equal to 1000, got 1001"),
        (["--config", "none.yaml"], 2, "no such file"),
    ],
)
def test_settings_that_cannot_be(refused, arguments, code, told):
    assert told in refused("photo.png", *arguments, code=code)


def test_more_steps_than_levels(refused):
    error = refused("photo.png", "--steps", "1000", "--strength", "0.5", code=2, before_loading=False)
    assert "1000 steps do not fit below strength 0.5" in error and "at most 500 steps" in error


def test_a_model_by_another_name(refused):
    error = refused("photo.png", "--model", "embeded", code=4, before_loading=False)
    assert "no such model" in error and "did you mean embedded?" in error


DAMAGES = {
    "truncated": lambda data: data[:-100],
    "header too long": lambda data: (2**40).to_bytes(8, "little") + data[8:],
    "header too short": lambda data: (16).to_bytes(8, "little") + data[8:],
    "no JSON": lambda data: data[:8] + b"x" * int.from_bytes(data[:8], "little"),
    "random": lambda data: np.random.default_rng(0).bytes(500),
    "empty": lambda data: b"",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory, model) -> dict[str, bytes]:
    place = tmp_path_factory.mktemp("weights")
    lora = save_tiny_lora(place / "lora.safetensors", model)
    checkpoint = save_tiny_checkpoint(
        place / "a.safetensors", save_tiny_sd15(place / "sd15"), parts=("unet",)
    )
    return {"--lora": lora.read_bytes(), "--model": checkpoint.read_bytes()}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("option", ["--lora", "--model"])
def test_damaged_weights(refused, folder, weights, option, damage):
    (folder / "a b.safetensors").write_bytes(DAMAGES[damage](weights[option]))
    error = refused("photo.png", option, "a b.safetensors", code=4, before_loading=False)
    assert "damaged, cut short or not safetensors" in error and "at: a b.safetensors" in error


def test_a_lora_of_another_family(refused, folder):
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file(
        {f"{layer}.lora_A.weight": torch.ones(2, 768), f"{layer}.lora_B.weight": torch.ones(320, 2)},
        folder / "sd.safetensors",
    )
    error = refused("photo.png", "--lora", "sd.safetensors:0.5", code=4, before_loading=False)
    assert "this LoRA was made for sd15, not for embedded" in error


def test_spaces_and_unicode_in_every_path(tmp_path, model, weights, monkeypatch):
    place = tmp_path / 'Größe und 山 \' "$x"'
    place.mkdir()
    monkeypatch.chdir(tmp_path)
    source, style = picture(place / "ein Bild, ü.png"), picture(place / "стиль [1].jpg")
    shutil.copytree(model, place / "модель a")
    (place / "лора b.safetensors").write_bytes(weights["--lora"])
    command = [source, "--style", style, "--model", place / "модель a", "--steps", "1"]
    command += ["--lora", f"{place}/лора b.safetensors:0.5", "-o", place / "Ergebnis #1%20.png"]
    assert main(["stylize", *map(str, command)]) == 0
    assert read_image(place / "Ergebnis #1%20.png").rgb.shape == (32, 40, 3)
    record = json.loads((place / "Ergebnis #1%20.png.json").read_text(encoding="utf-8"))
    assert (record["input"], record["config"]["style"]) == (source.name, [str(style)])
