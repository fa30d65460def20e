"""`stdcli inpaint` end to end: real files through a small random model of the embedded kind."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stdcli.cli.main import main
from stdcli.config.inpaint import InpaintConfig
from stdcli.inference import clips
from stdcli.inference.clips import sample_frames
from stdcli.inference.input_masks import plan_mask
from stdcli.media.image import read_image
from stdcli.media.probe import VideoInfo, probe
from stdcli.media.sequence import probe_sequence
from stdcli.media.video import VideoWriter, iter_frames
from tests.tiny_models import save_tiny_embedded

pytestmark = pytest.mark.usefixtures("one_load")

WIDTH, HEIGHT = 75, 61


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_tiny_embedded(tmp_path_factory.mktemp("model")))


def pixels(seed: int, *, height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, channels), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def square(*, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Bool [H, W], off the grid of latent cells."""
    mask = np.zeros((height, width), bool)
    mask[height // 3 : 2 * height // 3, width // 4 : 3 * width // 4] = True
    return mask


def save(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


@pytest.fixture
def files(tmp_path) -> Path:
    save(tmp_path / "photo.png", pixels(1))
    save(tmp_path / "style.png", pixels(2, height=64, width=80))
    save(tmp_path / "mask.png", (square() * 255).astype(np.uint8))
    return tmp_path


def run(folder: Path, model: str, *more: str, source: str = "photo.png", code: int = 0) -> np.ndarray | None:
    """Inpaint to out.png and read that."""
    places = [str(folder / source), "-o", str(folder / "out.png"), "--model", model]
    assert main(["inpaint", *places, *map(str, more)]) == code
    return read_image(folder / "out.png").rgb if code == 0 else None


def masked(folder: Path, style: bool = True) -> list[str]:
    mask = ["--mask", str(folder / "mask.png")]
    return [*mask, "--style", str(folder / "style.png")] if style else mask


@pytest.mark.parametrize("style", [True, False])
@pytest.mark.parametrize("crop", [[], ["--crop"]])
def test_only_what_is_white_is_repainted(files, model, style, crop) -> None:
    out = run(files, model, *masked(files, style), *crop)
    before, mask = read_image(files / "photo.png").rgb, square()
    assert np.array_equal(out[~mask], before[~mask])
    assert (out != before).any(axis=2)[mask].mean() > 0.8
    record = json.loads((files / "out.png.json").read_text())
    assert record["task"] == "inpaint"
    assert record["config"]["mask"] == str(files / "mask.png")


def test_inside_a_full_mask_it_is_what_stylize_makes(files, model, capsys) -> None:
    save(files / "full.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    style = ["--style", str(files / "style.png")]
    out = run(files, model, "--mask", files / "full.png", *style, "--feather", 0)
    assert "stdcli stylize does the same" in capsys.readouterr().err
    plain = ["stylize", str(files / "photo.png"), *style, "--model", model, "-o", str(files / "plain.png")]
    assert main(plain) == 0
    assert np.array_equal(out, read_image(files / "plain.png").rgb)


def test_it_is_not_a_pasted_stylization(files, model) -> None:
    """The known part takes part in every step."""
    hard = ["--feather", "0"]
    out = run(files, model, *masked(files), *hard)
    save(files / "full.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    full = run(files, model, "--mask", files / "full.png", *masked(files)[2:], *hard, "--overwrite")
    assert (out != full).any(axis=2)[square()].mean() > 0.5


def test_a_record_repeats_the_run(files, model) -> None:
    first = run(files, model, *masked(files), "--feather", 3, "--seed", 7)
    record = files / "out.png.json"
    again = [str(files / "photo.png"), "--config", str(record), "-o", str(files / "again.png")]
    assert main(["inpaint", *again]) == 0
    assert np.array_equal(read_image(files / "again.png").rgb, first)
    assert main(["stylize", *again, "--overwrite"]) == 2  # another task's


def test_crop_paints_what_the_box_alone_gives(files, model) -> None:
    big = pixels(3, height=200, width=300)
    mask = np.zeros((200, 300), bool)
    mask[90:110, 150:170] = True
    save(files / "big.png", big)
    save(files / "mask.png", (mask * 255).astype(np.uint8))
    out = run(files, model, *masked(files), "--crop", source="big.png")
    assert np.array_equal(out[~mask], big[~mask])
    rows, columns = slice(90 - 32, 110 + 32), slice(150 - 32, 170 + 32)
    save(files / "box.png", big[rows, columns])
    save(files / "mask.png", (mask[rows, columns] * 255).astype(np.uint8))
    box = run(files, model, *masked(files), "--overwrite", source="box.png")
    assert np.array_equal(out[rows, columns], box)


def test_orientation_and_alpha_are_kept(files, model) -> None:
    rgba = pixels(4, channels=4)
    turned = Image.Exif()
    turned[0x0112] = 6
    save(files / "turned.png", rgba, exif=turned)
    upright = read_image(files / "turned.png")
    assert upright.rgb.shape == (WIDTH, HEIGHT, 3)
    mask = square(height=WIDTH, width=HEIGHT)
    save(files / "mask.png", (mask * 255).astype(np.uint8))
    run(files, model, *masked(files), source="turned.png")
    out = read_image(files / "out.png")
    assert np.array_equal(out.alpha, upright.alpha)
    assert np.array_equal(out.rgb[~mask], upright.rgb[~mask])
    assert not np.array_equal(out.rgb, upright.rgb)


def test_what_is_transparent_is_filled(files, model) -> None:
    mask = square()
    save(files / "hole.png", np.dstack([pixels(1), np.where(mask, 0, 255).astype(np.uint8)]))
    out = run(files, model, "--mask", "alpha", "--style", files / "style.png", source="hole.png")
    assert read_image(files / "out.png").alpha is None
    assert np.array_equal(out[~mask], pixels(1)[~mask])
    assert (out != pixels(1)).any(axis=2)[mask].mean() > 0.8


def test_soft_masks_are_cut_at_half(files, model, capsys) -> None:
    soft = np.where(square(), 128, 127).astype(np.uint8)
    hard = run(files, model, *masked(files))
    save(files / "mask.png", soft)
    assert np.array_equal(run(files, model, *masked(files), "--overwrite"), hard)
    assert "100 % of it is grey; what is at least half white is repainted" in capsys.readouterr().err


def test_white_strokes_on_nothing_are_a_mask(files, model) -> None:
    hard = run(files, model, *masked(files))
    strokes = np.dstack([np.full((HEIGHT, WIDTH, 3), 255, np.uint8), (square() * 255).astype(np.uint8)])
    save(files / "mask.png", strokes)
    assert np.array_equal(run(files, model, *masked(files), "--overwrite"), hard)


def test_a_mask_of_another_size_is_taken_when_told(files, model, capsys) -> None:
    mask = square(height=2 * HEIGHT, width=2 * WIDTH)
    save(files / "mask.png", (mask * 255).astype(np.uint8))
    run(files, model, *masked(files), code=5)
    told = capsys.readouterr().err
    assert f"got {2 * WIDTH}x{2 * HEIGHT}, expected {WIDTH}x{HEIGHT}" in told
    assert "--resize-mask" in told
    assert not (files / "out.png").exists()
    out = run(files, model, *masked(files), "--resize-mask")
    changed = (out != pixels(1)).any(axis=2)
    assert not changed[: HEIGHT // 3 - 1].any()
    assert changed[HEIGHT // 2, WIDTH // 2]


@pytest.mark.parametrize(
    ("mask", "code", "told"),
    [
        ("empty.png", 5, "the mask is empty"),
        ("none.png", 5, "no such file"),
        ("broken.png", 5, "not a picture that can be read"),
        ("clip.mp4", 5, "a mask that moves, for a picture"),
        ("alpha", 2, "has no transparency"),
        (None, 2, "nothing says what to repaint"),
    ],
)
def test_bad_masks_are_told(files, model, capsys, mask, code, told) -> None:
    save(files / "empty.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    (files / "broken.png").write_bytes(b"nothing")
    (files / "clip.mp4").write_bytes(b"nothing")
    name = [] if mask is None else ["--mask", mask if mask == "alpha" else str(files / mask)]
    run(files, model, *name, "--style", files / "style.png", code=code)
    assert told in capsys.readouterr().err
    assert not (files / "out.png").exists()


def test_the_mask_is_never_the_output(files, model, capsys) -> None:
    before = (files / "mask.png").read_bytes()
    places = [str(files / "photo.png"), "-o", str(files / "mask.png"), "--model", model, "--overwrite"]
    assert main(["inpaint", *places, *masked(files)]) == 5
    assert (files / "mask.png").read_bytes() == before


def clip(path: Path, frames: list[np.ndarray]) -> Path:
    height, width = frames[0].shape[:2]
    with VideoWriter(path, VideoInfo(width, height, Fraction(25), len(frames)), crf=0) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def moving(frames: int, *, height: int = 48, width: int = 64) -> list[np.ndarray]:
    masks = []
    for k in range(frames):
        mask = np.zeros((height, width, 3), np.uint8)
        mask[10:30, 4 * k : 4 * k + 20] = 255
        masks.append(mask)
    return masks


def numbered(folder: Path, frames: list[np.ndarray]) -> str:
    folder.mkdir()
    for k, frame in enumerate(frames):
        save(folder / f"{k:03d}.png", frame)
    return str(folder / "%03d.png")


@pytest.mark.parametrize("temporal", ["off", "flow"])
@pytest.mark.parametrize("is_still", [True, False])
def test_clips_are_repainted_frame_by_frame(files, model, is_still, temporal) -> None:
    frames = [pixels(k, height=48, width=64) for k in (5, 5, 6, 7, 8)]
    masks = moving(5)
    source = numbered(files / "shot", frames)
    mask = str(save(files / "still.png", masks[2])) if is_still else numbered(files / "masks", masks)
    out = ["-o", str(files / "out" / "%03d.png"), "--model", model, "--set", "batch=2"]
    style = ["--style", str(files / "style.png"), "--temporal", temporal]
    assert main(["inpaint", source, "--mask", mask, *style, *out]) == 0
    for k, frame in enumerate(frames):
        painted = read_image(files / "out" / f"{k:03d}.png").rgb
        white = masks[2 if is_still else k][..., 0] > 0
        assert np.array_equal(painted[~white], frame[~white])
        assert (painted != frame).any(axis=2)[white].mean() > 0.8


def test_a_video_with_a_video_mask(files, model) -> None:
    frames = [pixels(k, height=48, width=64) for k in range(4)]
    source, mask = clip(files / "in.mp4", frames), clip(files / "mask.mp4", moving(4))
    command = ["inpaint", str(source), "--mask", str(mask), "--style", str(files / "style.png")]
    out = ["-o", str(files / "out.mkv"), "--set", "codec=ffv1", "--crop", "--model", model]
    assert main([*command, *out]) == 0
    before, after = (list(iter_frames(path, probe(path))) for path in (source, files / "out.mkv"))
    assert len(after) == 4
    for k, (old, new) in enumerate(zip(before, after, strict=True)):
        far = np.ones((48, 64), bool)
        far[8:32, max(0, 4 * k - 2) : 4 * k + 22] = False
        difference = np.abs(old.astype(int) - new).max(axis=2)
        assert difference[far].max() <= 3  # colour spaces
        assert difference[14:26, 4 * k + 4 : 4 * k + 16].mean() > 10


def test_another_mask_does_not_go_on_with_what_was_done(files, model, power_cut, monkeypatch, capsys) -> None:
    monkeypatch.setattr(clips, "SEGMENT_FRAMES", 2)
    source = numbered(files / "shot", [pixels(k, height=48, width=64) for k in range(4)])
    mask = save(files / "still.png", moving(3)[0])
    out = ["-o", str(files / "out" / "%03d.png"), "--model", model, "--style", str(files / "style.png")]
    command = ["inpaint", source, "--mask", str(mask), *out]
    with power_cut(1):
        assert main(command) == 70
    save(mask, moving(3)[2])
    capsys.readouterr()
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "an unfinished clip was being made otherwise" in told
    assert "files" in told
    assert not (files / "out" / "003.png").exists()


def test_a_mask_of_another_length_is_refused(files, model, capsys) -> None:
    source = numbered(files / "shot", [pixels(k, height=48, width=64) for k in range(4)])
    mask = numbered(files / "masks", moving(3))
    command = ["inpaint", source, "--mask", mask, "--style", str(files / "style.png"), "--model", model]
    assert main([*command, "-o", str(files / "out" / "%03d.png")]) == 5
    assert "got 3 frames, expected 4" in capsys.readouterr().err
    assert not (files / "out").exists()


@pytest.mark.parametrize("part", [["--start", "0.1"], ["--duration", "0.1"]])
def test_numbered_masks_are_cut_as_their_clip(files, model, part) -> None:
    frames = [pixels(k, height=48, width=64) for k in range(8)]
    info = VideoInfo(64, 48, Fraction(30), 8)
    with VideoWriter(files / "in.mkv", info, crf=0) as writer:
        for frame in frames:
            writer.write(frame)
    mask = numbered(files / "masks", moving(8))
    command = ["inpaint", str(files / "in.mkv"), "--mask", mask, "--style", str(files / "style.png"), *part]
    assert main([*command, "-o", str(files / "out" / "%03d.png"), "--model", model, "--feather", "0"]) == 0
    first = 3 if part[0] == "--start" else 0
    made = sorted((files / "out").glob("*.png"))
    assert len(made) == (5 if first else 3)
    source = list(iter_frames(files / "in.mkv"))[first]
    changed = (read_image(made[0]).rgb != source).any(axis=2)
    white = moving(8)[first][..., 0] > 0
    assert not changed[~white].any()
    assert changed[white].mean() > 0.8


def test_numbered_masks_are_never_replaced(files, model, capsys) -> None:
    source = numbered(files / "shot", [pixels(k, height=48, width=64) for k in range(3)])
    mask = numbered(files / "masks", moving(3))
    before = {file: file.read_bytes() for file in (files / "masks").iterdir()}
    out = ["-o", mask, "--overwrite", "--model", model]
    assert main(["inpaint", source, "--mask", mask, "--style", str(files / "style.png"), *out]) == 5
    assert "is an input" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in (files / "masks").iterdir()} == before


def test_a_mask_that_opens_shows_full_paint_at_once(files, model) -> None:
    """The frame before is not mixed in where it was not painted."""
    source = numbered(files / "shot", [pixels(4, height=48, width=64)] * 3)
    masks = [np.zeros((48, 64, 3), np.uint8) for _ in range(3)]
    masks[0][:4, :4] = 255
    masks[1][:4, :4] = masks[2][8:40, 8:56] = 255
    mask, style = numbered(files / "masks", masks), ["--style", str(files / "style.png"), "--feather", "0"]
    for temporal in ("off", "flow"):
        out = ["-o", str(files / temporal / "%03d.png"), "--model", model, "--temporal", temporal]
        assert main(["inpaint", source, "--mask", mask, *style, *out]) == 0
    ways = [read_image(files / way / "002.png").rgb for way in ("off", "flow")]
    assert np.array_equal(*ways)


def test_a_lossy_picture_is_kept_without_loss(files, model) -> None:
    save(files / "photo.jpg", pixels(3), quality=90)
    assert main(["inpaint", str(files / "photo.jpg"), *masked(files), "--model", model]) == 0
    made, source = (read_image(files / name).rgb for name in ("photo.std.png", "photo.jpg"))
    assert np.array_equal(made[~square()], source[~square()])
    assert not (files / "photo.std.jpg").exists()


def test_a_clip_without_a_style_is_painted_as_itself(files, model) -> None:
    frames = [pixels(k, height=48, width=64) for k in range(3)]
    mask = save(files / "still.png", moving(3)[1])
    source = numbered(files / "shot", frames)
    out = ["-o", str(files / "out" / "%03d.png"), "--model", model]
    assert main(["inpaint", source, "--mask", str(mask), *out]) == 0
    own = save(files / "first.png", sample_frames(probe_sequence(Path(source)))[0])
    again = ["-o", str(files / "again" / "%03d.png"), "--model", model, "--style", str(own)]
    assert main(["inpaint", source, "--mask", str(mask), *again]) == 0
    made = [[read_image(files / where / f"{k:03d}.png").rgb for k in range(3)] for where in ("out", "again")]
    assert not np.array_equal(made[0][2], frames[2])
    assert np.array_equal(made[0], made[1])


@pytest.mark.parametrize("skip", [0, 2])
def test_a_mask_that_moves_goes_on_where_its_clip_does(files, skip) -> None:
    masks = moving(4)
    pattern = numbered(files / "masks", masks)
    clip_info = probe_sequence(Path(numbered(files / "shot", masks)))
    config = InpaintConfig(mask=pattern)
    mask = plan_mask(
        config, clip_info.path, clip=clip_info, measure=lambda source: probe_sequence(source.path)
    )
    seen = list(mask.frames(skip=skip))
    assert np.array_equal(seen, [m[..., 0] > 0 for m in masks[skip:]])
