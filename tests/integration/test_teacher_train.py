"""A whole teacher in seconds: generated pictures, tiny networks, the real classes and the real command."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from stdcli.cli.main import main
from stdcli.config.recipe import Recipe
from stdcli.diffusion.levels import make_sampling_path
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.models.patch_autoencoder import PatchAutoencoder
from stdcli.teacher.networks import StylizerNetworks, build_networks, make_scheduler, predict
from stdcli.teacher.pictures import list_pictures, load_pictures
from stdcli.teacher.teacher_sheet import TeacherSheet
from stdcli.teacher.teacher_training import TeacherTraining
from stdcli.training.checkpoint import load_checkpoint
from stdcli.training.run_files import hold_run
from stdcli.training.run_folder import RunFolder
from tests.tiny_pictures import HELD_OUT, write_ramps
from tests.tiny_teachers import tensors_of

STEPS = 24
STOPPED_AT = 10
NETWORK = {"style_dim": 16, "style_width": 32, "style_layers": 1, "cross_dim": 16}
SETTINGS = {
    "codec.latent_channels": 12,
    "codec.hidden_channels": 8,
    "codec.fit_crops": 64,
    "codec.fit_crop_px": 32,
    "codec.steps": 5,
    "codec.batch_size": 4,
    "codec.crop_px": 32,
    "codec.learning_rate": 1e-4,
    "network.channels": "32,64",
    **{f"network.{key}": value for key, value in NETWORK.items()},
    "pairs.photo_px": 32,
    "pairs.style_px": 32,
    "pairs.repeat_after": 3,
    "train.batch_size": 8,
    "train.learning_rate": 2e-3,
    "train.warmup_steps": 2,
    "train.ema_decay": 0.9,
    "train.dtype": "float32",
    "train.log_every": 4,
    "train.sample_every": 12,
    "train.checkpoint_every": 8,
    "recipe.steps": 2,
}


@dataclass(frozen=True)
class Run:
    data: Path
    out: Path

    def command(self, *extra: str, out: Path | None = None, **changed: Any) -> int:
        sets = [part for key, value in (SETTINGS | changed).items() for part in ("--set", f"{key}={value}")]
        where = ["--data", str(self.data), "--out", str(out or self.out), "--device", "cpu"]
        return main(["teacher", "train", *where, "--steps", str(STEPS), *sets, *extra])

    def facts(self) -> dict[str, Any]:
        return json.loads((self.out / "run.json").read_text())

    def reports(self, key: str) -> dict[int, dict[str, Any]]:
        rows = [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]
        return {row[key]: row for row in rows if key in row}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("teacher")
    write_ramps(root / "data" / "content", seed=0)
    write_ramps(root / "data" / "style", seed=1)
    run = Run(root / "data", root / "out")
    assert run.command("--quiet") == 0
    return run


def averaged_networks(run: Run) -> StylizerNetworks:
    """The exported networks, from the last checkpoint instead of the model folder."""
    networks = build_networks(latent_channels=12, channels=(32, 64), **NETWORK)
    state, _ = load_checkpoint(run.out / f"checkpoints/step-{STEPS:06d}.safetensors")
    with torch.no_grad():
        for name, tensor in tensors_of(networks).items():
            if tensor.is_floating_point():
                tensor.copy_(state[f"ema.{name}"].half())
    return networks


def test_the_run_folder_holds_everything(run: Run) -> None:
    files = {path.relative_to(run.out).as_posix() for path in run.out.rglob("*") if path.is_file()}
    assert {path for path in files if not path.startswith("model/")} == {
        "run.json",
        "metrics.jsonl",
        "codec.safetensors",
        "checkpoints/step-000016.safetensors",
        "checkpoints/step-000024.safetensors",
        "samples/step-000012.png",
        "samples/step-000024.png",
    }
    facts = run.facts()
    assert facts["task"] == "teacher" and facts["state"] == "complete"
    assert facts["config"]["codec"]["latent_channels"] == 12
    assert facts["pictures"]["photos"] == {"train": 18, "held_out": 2, "unreadable": []}
    assert facts["versions"]["torch"]
    assert "cpu" in facts["device"]


def test_the_codec_keeps_what_its_components_can(run: Run) -> None:
    """A patch of a linear ramp has 3 numbers per channel, so 9 of the 12 components hold all but the rounding
    to 8 bits, (2/255)^2 / 12, which alone is 58.9 dB; twice its error is allowed for resized borders."""
    rounding = (2 / 255) ** 2 / 12
    assert run.facts()["codec"]["psnr_db"] > 10 * np.log10(4 / (2 * rounding))
    assert len(run.reports("codec/step")) == 1  # of 5 steps, one report every 4


def test_the_loss_falls(run: Run) -> None:
    reports = run.reports("progress/step")
    assert list(reports) == [4, 8, 12, 16, 20, 24]
    assert reports[24]["progress/samples"] == 192
    assert reports[24]["loss/total"] < 0.93 * reports[4]["loss/total"]
    assert reports[24]["time/step_ms"] > 0


def test_the_model_loads_in_diffusers_and_predicts_the_same(run: Run) -> None:
    from diffusers import StableDiffusionXLImg2ImgPipeline

    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(run.out / "model")
    assert isinstance(pipe.vae, PatchAutoencoder)
    pipe.load_ip_adapter(
        str(run.out / "model"),
        subfolder="ip_adapter",
        weight_name="ip_adapter.safetensors",
        image_encoder_folder=None,
    )
    generator = torch.Generator().manual_seed(0)
    x, style = torch.randn(2, 12, 8, 8, generator=generator), torch.randn(2, 16, generator=generator)
    t = torch.tensor([99, 739])
    added = {
        "text_embeds": style,
        "time_ids": torch.tensor([[256.0, 256, 0, 0, 256, 256]]).expand(2, -1),
        "image_embeds": [style[:, None]],
    }
    with torch.no_grad():
        theirs = pipe.unet(x, t, torch.zeros(2, 1, 16), added_cond_kwargs=added).sample
        ours = predict(averaged_networks(run).unet, x, t, style)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert ours.abs().mean() > 0.1
    weights = load_file(run.out / "model/unet/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


def test_samples_show_held_out_pictures_as_stylize_would(run: Run, tmp_path: Path) -> None:
    sheet = Image.open(run.out / f"samples/step-{STEPS:06d}.png")
    assert sheet.size == (3 * 256, 3 * 256)  # two held-out photos and styles, and the pictures themselves
    assert np.asarray(sheet.crop((0, 0, 256, 256))).min() == 255
    boxes = {"photo": (0, 512, 256, 768), "style": (256, 0, 512, 256)}
    for kind, box in boxes.items():
        sheet.crop(box).save(tmp_path / f"{kind}.png")
    files = [str(tmp_path / f"{kind}.png") for kind in ("photo", "style")]
    options = ["--model", str(run.out / "model"), "--dtype", "float32", "--device", "cpu", "--quiet"]
    result = tmp_path / "result.png"
    assert main(["stylize", files[0], "--style", files[1], "-o", str(result), *options]) == 0
    shown = np.asarray(sheet.crop((256, 512, 512, 768))).astype(int)
    made = np.asarray(Image.open(result).convert("RGB")).astype(int)
    assert np.abs(shown - made).mean() < 0.5  # weights are rounded to float16 in the model
    assert np.abs(shown - np.asarray(Image.open(files[0]).convert("RGB"))).mean() > 5


def test_the_held_out_pictures_are_the_ones_shown(run: Run) -> None:
    held = load_pictures(list_pictures(run.data / "content"), held_out=True)
    assert held.names == HELD_OUT
    sheet = np.asarray(Image.open(run.out / f"samples/step-{STEPS:06d}.png")).astype(int)
    for i in range(2):
        photo = (held.square(i, size_idx=1) * 255).permute(1, 2, 0).numpy()
        assert np.abs(sheet[256 * (i + 1) : 256 * (i + 2), :256] - photo).max() <= 1


def test_a_finished_run_is_left_alone(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.out.rglob("*")}
    assert run.command("--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["was_finished"] and result["path"] == str(run.out / "model")
    assert {path: path.stat().st_mtime_ns for path in run.out.rglob("*")} == before


def test_a_finished_run_is_made_longer(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Run(run.data, tmp_path / "out")
    shutil.copytree(run.out, other.out)
    assert run.command("--set", "train.steps=24", "--steps", "25", "--seed", "1") == 2
    assert "seed: 0 in the run that is there, 1 now" in capsys.readouterr().err
    assert other.command("--steps", "25") == 0
    err = capsys.readouterr().err
    assert "going on from step 24" in err and "not be that of 25 steps from the start" in err
    assert list(other.reports("progress/step"))[-2:] == [24, 25] and other.facts()["state"] == "complete"
    name = "model/unet/diffusion_pytorch_model.safetensors"
    assert (run.out / name).read_bytes() != (other.out / name).read_bytes()
    assert other.command("--steps", "25", "--quiet") == 0
    assert list(other.reports("progress/step"))[-1] == 25  # finished again


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    take = TeacherTraining.train_step

    def train_step(self: TeacherTraining, number: int) -> dict[str, float]:
        metrics = take(self, number)
        if number + 1 == step:
            signal.raise_signal(signal.SIGTERM)
        return metrics

    monkeypatch.setattr(TeacherTraining, "train_step", train_step)


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Run(run.data, tmp_path / "out")
    with monkeypatch.context() as patched:
        stop_after(STOPPED_AT, patched)
        assert (
            other.command("--steps", "40") == 130
        )  # how many there will be matters only once the rate falls
    err = capsys.readouterr().err
    assert f"the same command goes on with {other.out}" in err
    assert "interrupted" in err
    assert other.facts()["state"] == "running"
    assert not (other.out / "model").exists()
    assert [path.name for path in sorted((other.out / "checkpoints").iterdir())] == [
        "step-000008.safetensors",
        "step-000010.safetensors",
    ]
    codec = (other.out / "codec.safetensors").stat().st_mtime_ns
    assert other.command(**{"train.threads": 2}) == 0
    assert f"going on from step {STOPPED_AT}" in capsys.readouterr().err
    assert (other.out / "codec.safetensors").stat().st_mtime_ns == codec
    _assert_same(run, other)


def _assert_same(run: Run, other: Run) -> None:
    """Weights, averages and moments to the bit; reports where the window of the mean is the same."""
    last = f"checkpoints/step-{STEPS:06d}.safetensors"
    ours, theirs = load_checkpoint(run.out / last)[0], load_checkpoint(other.out / last)[0]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for path in sorted((run.out / "model").rglob("*.safetensors")):
        assert path.read_bytes() == (other.out / path.relative_to(run.out)).read_bytes()
    one, two = run.reports("progress/step"), other.reports("progress/step")
    assert list(one) == list(two)
    for step in set(one) - {12}:
        assert one[step]["loss/total"] == two[step]["loss/total"]


def test_a_run_that_crashed_before_its_first_checkpoint_begins_its_steps_anew(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Run(run.data, tmp_path / "out")
    take = TeacherTraining.train_step

    def crash(self: TeacherTraining, number: int) -> dict[str, float]:
        if number == 5:
            raise MemoryError
        return take(self, number)

    with monkeypatch.context() as patched:
        patched.setattr(TeacherTraining, "train_step", crash)
        assert other.command("--quiet", "--steps", "6") == 70
    assert list(other.reports("progress/step")) == [4]
    assert other.command("--quiet", "--steps", "6") == 0
    assert list(other.reports("progress/step")) == [4, 6]


def test_a_run_that_crashed_before_the_export_only_exports(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(run.out, out)
    (out / "model").rename(out / ".model.part")
    (out / ".model.part" / "recipe.json").unlink()
    assert run.command("--quiet", out=out) == 0
    assert capsys.readouterr().out == f"{out / 'model'}\n"
    files = [path.relative_to(run.out) for path in (run.out / "model").rglob("*") if path.is_file()]
    assert all((run.out / name).read_bytes() == (out / name).read_bytes() for name in files)
    assert not (out / ".model.part").exists()
    assert (out / "metrics.jsonl").read_bytes() == (run.out / "metrics.jsonl").read_bytes()


def test_two_at_once_and_files_of_others(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(run.out, out)
    with hold_run(RunFolder(out)):
        assert run.command("--overwrite", out=out) == 2
        assert "another process is training this run" in capsys.readouterr().err
    (out / "model" / "unet" / "notes.txt").write_text("mine")
    assert run.command("--overwrite", out=out) == 2
    assert "got model/unet/notes.txt" in capsys.readouterr().err
    names = {path.relative_to(out) for path in out.rglob("*")}
    assert names == {path.relative_to(run.out) for path in run.out.rglob("*")} | {
        Path("model/unet/notes.txt")
    }


def test_a_damaged_codec_is_made_again(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    shutil.copytree(run.out, out)
    shutil.rmtree(out / "model")
    data = (out / "codec.safetensors").read_bytes()
    (out / "codec.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert run.command(out=out) == 0
    assert f"{out / 'codec.safetensors'} is damaged" in capsys.readouterr().err
    ours, theirs = (load_checkpoint(root / "codec.safetensors")[0] for root in (run.out, out))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    for path in (run.out / "model").rglob("*.safetensors"):
        assert path.read_bytes() == (out / path.relative_to(run.out)).read_bytes()


def test_the_seed_matters_and_the_run_file_is_a_configuration(run: Run, tmp_path: Path) -> None:
    out, options = tmp_path / "out", ["--config", str(run.out / "run.json"), "--quiet"]
    assert main(["teacher", "train", *options, "--seed", "1", "--steps", "1", "-o", str(out)]) == 0
    facts = json.loads((out / "run.json").read_text())
    assert facts["config"] == run.facts()["config"] | {
        "seed": 1,
        "train": run.facts()["config"]["train"] | {"steps": 1},
    }
    name = "model/unet/diffusion_pytorch_model.safetensors"
    assert (out / name).read_bytes() != (run.out / name).read_bytes()


def test_a_run_starts_from_an_earlier_model(run: Run, tmp_path: Path) -> None:
    """One step at a vanishing rate leaves the weights that it began with, and the codec unfitted."""
    out, model = tmp_path / "out", run.out / "model"
    options = ["--config", str(run.out / "run.json"), "--quiet", "--steps", "1", "--seed", "1"]
    sets = [part for text in (f"init={model}", "train.learning_rate=1e-9") for part in ("--set", text)]
    assert main(["teacher", "train", *options, *sets, "-o", str(out)]) == 0
    for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "image_encoder/model"):
        before, after = (load_file(root / f"{part}.safetensors") for root in (model, out / "model"))
        for name, tensor in before.items():
            assert torch.allclose(after[name].float(), tensor.float(), rtol=2e-3, atol=1e-6), name
    assert "codec/step" not in (out / "metrics.jsonl").read_text()


def test_a_start_from_nowhere_is_refused_before_anything_is_written(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.command("--set", f"init={tmp_path}", out=tmp_path / "out") == 4
    assert "not a diffusers folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(steps=2, strength=0.6, guidance=1.0),
        Recipe(steps=2, strength=0.6, guidance=2.0, gamma=0.5),
        Recipe(steps=2, strength=0.6, sampler="renoise", final="x0"),
    ],
    ids=["plain", "gamma", "renoise"],
)
def test_samples_follow_the_recipe(run: Run, recipe: Recipe) -> None:
    codec = PatchAutoencoder.from_pretrained(run.out / "model/vae")
    schedule = NoiseSchedule.from_config(make_scheduler().config)
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plan = make_sampling_path(schedule, steps=recipe.steps, strength=recipe.strength, final=recipe.final)
    sheet = TeacherSheet(pictures, pictures, codec.float(), schedule, recipe, plan, seed=0)
    networks = averaged_networks(run)
    first, again = sheet.render(networks), sheet.render(networks)
    assert first.shape == (96, 96, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first[32:64, 32:64], first[32:64, 64:])  # one photo, two styles


@pytest.mark.gpu
def test_a_gpu_learns_what_a_cpu_does(run: Run, tmp_path: Path) -> None:
    """In bfloat16, from the same batches and noise: the same losses to within rounding."""
    other = Run(run.data, tmp_path / "out")
    assert (
        other.command("--quiet", "--device", "cuda", **{"train.dtype": "bfloat16", "train.threads": 2}) == 0
    )
    ours, theirs = run.reports("progress/step"), other.reports("progress/step")
    for step in ours:
        assert theirs[step]["loss/total"] == pytest.approx(ours[step]["loss/total"], rel=0.05)
    assert theirs[24]["mem/peak_mib"] > 1
