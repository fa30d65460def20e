"""Whole distillations in seconds: tiny teachers, banks of their paths, the real command."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from stdcli.bank.reader import Bank
from stdcli.cli.main import main
from stdcli.models.denoiser import Denoiser
from stdcli.models.weights import count_values
from stdcli.training.train_step import TrainStep
from tests import tiny_runs
from tests.tiny_runs import Bench, bytes_of, checkpoint, distill, recipe, reports, weights

STEPS = 24
FILES = {"run.json", "metrics.jsonl", "student/recipe.json", "student/pytorch_lora_weights.safetensors"}


@pytest.fixture(scope="module")
def seen() -> dict:
    """What the run below had in memory."""
    return {}


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def modules() -> list[torch.nn.Module]:
    gc.collect()
    return [found for found in gc.get_objects() if issubclass(type(found), torch.nn.Module)]


@pytest.fixture(scope="module")
def run(bench: Bench, tmp_path_factory: pytest.TempPathFactory, seen: dict) -> Path:
    """A student of the embedded layout, with a sheet at its end."""
    out, bank = tmp_path_factory.mktemp("distill") / "run", bench.bank()
    before, step = {id(module) for module in modules()}, TrainStep.take

    def look(self: TrainStep, number: int) -> dict[str, float]:
        facts = step(self, number)
        if number == 1:
            seen["new"] = [type(found).__name__ for found in modules() if id(found) not in before]
        return facts

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TrainStep, "take", look)
        settings = {"train__steps": STEPS, "train__batch_size": 4, "train__learning_rate": 4e-3}
        settings |= {"train__sample_every": STEPS, "train__log_every": 6, "train__checkpoint_every": STEPS}
        assert distill(out, "--bank", bank, "--style-data", bench.art, **settings) == 0
    return out


def test_what_a_run_leaves(run: Path) -> None:
    expected = {f"checkpoints/step-{n:06d}.safetensors" for n in (0, STEPS)}
    assert set(bytes_of(run)) == FILES | expected | {f"samples/step-{STEPS:06d}.png"}
    facts = json.loads((run / "run.json").read_text())
    assert facts["state"] == "complete" and facts["steps"] == STEPS and facts["task"] == "distill"
    assert [row["progress/step"] for row in reports(run)] == [6, 12, 18, 24]
    assert reports(run)[-1]["progress/samples"] == 4 * STEPS


def test_the_loss_falls(run: Path) -> None:
    first, last = reports(run)[0], reports(run)[-1]
    assert last["loss/distance"] < 0.6 * first["loss/distance"]
    assert last["loss/student"] == last["loss/distance"]


def test_nothing_but_the_student_is_in_memory(run: Path, seen: dict) -> None:
    names = seen["new"]
    assert names.count("UNet2DConditionModel") == 1 and names.count("Student") == 1
    odd = ("Autoencoder", "CLIP", "Dino", "VisionModel", "TextModel", "Discriminator", "Decoder", "Encoder")
    assert not [name for name in names if any(word in name for word in odd)]


def test_defects_5_and_6_a_job_starts_where_the_paths_did(run: Path, bench: Bench) -> None:
    start = Bank(bench.bank()).manifest.levels[0]
    told = recipe(run)
    assert told["timesteps"] == [599, 299] and start["t"] == 599 and told["trained"]["start_t"] == 599
    abar = DDIMScheduler.from_pretrained(bench.model("embedded") / "scheduler").alphas_cumprod[599]
    assert start["alpha"] == pytest.approx(float(abar.sqrt()), rel=1e-5)
    assert start["sigma"] == pytest.approx(float((1 - abar).sqrt()), rel=1e-5)
    assert (told["steps"], told["strength"], told["num_solver_steps"]) == (2, 0.6, 10)
    assert told["trained"]["supported_steps"] == [2, 4] and told["trained"]["method"] == "std"


def test_guidance_is_fused(run: Path) -> None:
    assert recipe(run)["guidance"] == 1.0 and recipe(run)["guidance_fused"] is True


def test_a_bank_without_guidance_fuses_none(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert distill(out, "--bank", bench.bank(guidance=1.0), "--quiet", train__steps=2) == 0
    assert recipe(out)["guidance_fused"] is False


def test_stylize_takes_the_recipes_times_and_one_forward_each(
    run: Path, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, call = [], Denoiser.__call__

    def note(self, x, t, *args, **more):
        asked.append((float(torch.as_tensor(t).flatten()[0]), len(x)))
        return call(self, x, t, *args, **more)

    monkeypatch.setattr(Denoiser, "__call__", note)
    out = tmp_path / "out.png"
    command = ["stylize", bench.photos / "a.png", "--style", bench.art / "x.png", "--student", run]
    command += ["--model", bench.model("embedded"), "--dtype", "float32", "--device", "cpu", "-o", out]
    assert main([*map(str, command), "--quiet"]) == 0
    assert asked == [(599, 1), (299, 1)]
    assert size_of(out) == size_of(bench.photos / "a.png")


def test_the_average_is_what_is_saved(run: Path) -> None:
    kept, saved = checkpoint(run, STEPS), weights(run)
    averages = {
        k.removeprefix("average.export."): v for k, v in kept.items() if k.startswith("average.export.")
    }
    assert {f"unet.{name}" for name in averages} == set(saved)
    assert all(torch.equal(saved[f"unet.{name}"], value.half()) for name, value in averages.items())
    moved = [
        name for name, v in averages.items() if not torch.equal(v, kept[f"learner.student.weights.{name}"])
    ]
    assert len(moved) > len(averages) / 2


@pytest.mark.slow
def test_without_an_average_the_last_weights_are_saved(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert distill(out, "--bank", bench.bank(), "--quiet", train__steps=2, train__average_decay=0) == 0
    kept = checkpoint(out, 2)
    assert not any(name.startswith("average.") for name in kept)
    for name, value in weights(out).items():
        inner = f"learner.student.weights.{name.removeprefix('unet.')}"
        assert torch.equal(value, kept[inner].half())


def test_defect_18_saved_names_are_those_of_diffusers(run: Path) -> None:
    assert all(name.startswith("unet.") and name.endswith(".weight") for name in weights(run))
    assert not any("base_model" in name or "default" in name for name in weights(run))


def test_the_sheet_has_a_row_per_path_and_a_column_per_way(run: Path) -> None:
    side = tiny_runs.SIDE_PX
    # of 5 paths: sample, style, whole path, teacher, student
    assert size_of(run / "samples" / f"step-{STEPS:06d}.png") == (5 * side, 5 * side)


def test_a_dry_run_writes_nothing(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert distill(out, "--bank", bench.bank(), "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["dry_run"] is True and told["step_s"] > 0 and told["disk_bytes"] > 0
    assert not out.exists()
    folder = bench.model("embedded")
    values = count_values([*folder.glob("unet/*.safetensors"), *folder.glob("ip_adapter/*.safetensors")])
    assert told["weight_bytes"] == 4 * values
    needed = told["weight_bytes"] + told["state_bytes"] + int(1.2 * told["activation_bytes"]) + 2**30
    assert (told["gpu_bytes"], told["fits_24gb"]) == (needed, True)


def test_a_student_of_sdxl(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert distill(out, "--bank", bench.bank("sdxl"), "--quiet", train__steps=2) == 0
    assert recipe(out)["timesteps"] == [599, 299] and len(reports(out)) == 1
    bank = Bank(bench.bank("sdxl"))
    for path in range(len(bank)):  # defect 12
        rows = bank.conditions([path])
        assert not rows["uncond.encoder_hidden_states"].any() and not rows["uncond.text_embeds"].any()
        assert rows["cond.text_embeds"].any()


def test_lcm(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = {"std__window": "null", "std__target_weights": "average"}
    settings |= {"train__sample_every": 3, "train__steps": 3}
    assert distill(out, "--bank", bench.bank(), "--method", "lcm", "--quiet", **settings) == 0
    told = recipe(out)
    assert (told["sampler"], told["final"], told["trained"]["method"]) == ("renoise", "x0", "lcm")
    kept = checkpoint(out, 3)
    assert any(name.startswith("average.target.") for name in kept)
    for name, value in weights(out).items():  # not the target network's average
        assert torch.equal(value, kept[f"average.export.{name.removeprefix('unet.')}"].half())
    side = tiny_runs.SIDE_PX
    assert size_of(out / "samples" / "step-000003.png") == (4 * side, 5 * side)


def test_full_weights_that_see_their_target(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = {"student__kind": "full", "student__s_embedding": "true", "train__steps": 3}
    settings |= {"std__target": "mix", "std__target_weights": "average", "train__sample_every": 3}
    assert distill(out, "--bank", bench.bank(), "--quiet", **settings) == 0
    assert recipe(out)["trained"]["s_embedding"] is True
    with Image.open(out / "samples" / "step-000003.png") as sheet:  # sample, whole path, student: no teacher
        assert sheet.width == 3 * tiny_runs.SIDE_PX
    config = json.loads((out / "student" / "unet" / "config.json").read_text())
    assert config["time_cond_proj_dim"] == 256
    picture = tmp_path / "out.png"
    command = ["stylize", bench.photos / "a.png", "--style", bench.art / "x.png", "--student", out]
    command += ["--model", bench.model("embedded"), "--device", "cpu", "--dtype", "float32", "-o", picture]
    assert main([*map(str, command), "--quiet"]) == 0 and picture.exists()


def save_dino(folder: Path) -> Path:
    config = Dinov2Config(hidden_size=12, num_hidden_layers=12, num_attention_heads=2, mlp_ratio=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("features", ["teacher", pytest.param("dino", marks=pytest.mark.slow)])
def test_an_adversary(
    bench: Bench, tmp_path: Path, features: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    settings = {"adversary__weight": 0.5, "adversary__features": features, "train__steps": 3}
    settings |= {"train__log_every": 1, "adversary__start_step": 2, "train__batch_size": 1}
    settings |= {"train__accumulation": 2}
    if features == "dino":
        settings["adversary__dino"] = save_dino(tmp_path / "dino")
    assert distill(out, "--bank", bench.bank(), **settings) == 0
    assert "path-end" in capsys.readouterr().err
    rows = reports(out)
    assert all(row["loss/discriminator"] > 0 and row["lr/discriminator"] > 0 for row in rows)
    for row in rows[:2]:  # it is seen, and does not count yet
        assert row["loss/student"] == pytest.approx(row["loss/distance"])
    expected = rows[2]["loss/distance"] + 0.5 * rows[2]["loss/adversarial"]
    assert rows[2]["loss/student"] == pytest.approx(expected, rel=1e-5)
    assert any(name.endswith(".u") for name in checkpoint(out, 3))
    assert not any("heads" in name for name in weights(out))


def test_spectral_norms_move_once_per_step(bench: Bench, tmp_path: Path) -> None:
    """Power iterations counted by repeating them on the weights of each step's checkpoint."""
    out = tmp_path / "run"
    settings = {"adversary__weight": 0.5, "adversary__features": "teacher", "train__accumulation": 2}
    settings |= {"train__steps": 2, "train__checkpoint_every": 1, "train__batch_size": 1}
    assert distill(out, "--bank", bench.bank(), "--quiet", **settings) == 0
    before, after = checkpoint(out, 1), checkpoint(out, 2)
    buffers = [
        name for name in after if name.startswith("learner.discriminator.buffers.") and name.endswith(".u")
    ]
    assert buffers
    for name in buffers:
        weight = after[name.replace(".buffers.", ".weights.").removesuffix("u") + "weight"].flatten(1)
        v = torch.nn.functional.normalize(weight.T @ before[name], dim=0)
        once = torch.nn.functional.normalize(weight @ v, dim=0)
        torch.testing.assert_close(after[name], once, rtol=0, atol=1e-5)
        assert not torch.allclose(after[name], before[name], atol=1e-6) or len(before[name]) < 3


ONLINE = {
    "paths__resolution": tiny_runs.SIDE_PX,
    "paths__num_solver_steps": 10,
    "paths__strength": 0.6,
    "paths__guidance_range": 3,
    "online__slots": 4,
    "adversary__features": "teacher",
    "train__max_grad_norm": 10,
}


def online(bench: Bench, out: Path, *flags: str, **settings: object) -> int:
    where = ["--data", bench.photos, "--style-data", bench.art, "--model", bench.model("embedded")]
    return distill(out, *where, "--preset", "distill/std-paper", *flags, **(ONLINE | settings))


def test_an_online_bank_as_in_the_paper(bench: Bench, tmp_path: Path) -> None:
    assert online(bench, tmp_path / "run", "--quiet", train__steps=2) == 0
    told = recipe(tmp_path / "run")
    assert told["timesteps"] == [599, 299] and told["guidance_fused"] is True
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["learned"]["choices"][0].endswith("; its real pictures are style")
    kept = checkpoint(tmp_path / "run", 2)
    assert kept["source.0.slots.states"].shape == (4, 8, 8, 8)
    assert any(name.startswith("average.target.") for name in kept)
    assert told["trained"]["base"] == str(bench.model("embedded"))


@pytest.mark.slow
def test_an_online_run_goes_on_as_if_it_had_not_been_stopped(bench: Bench, tmp_path: Path) -> None:
    free = {"train__schedule": "constant", "train__checkpoint_every": 2, "train__steps": 4}
    assert online(bench, tmp_path / "straight", "--quiet", **free) == 0
    assert online(bench, tmp_path / "halves", "--quiet", **(free | {"train__steps": 2})) == 0
    assert online(bench, tmp_path / "halves", "--quiet", **free) == 0
    first, second = (checkpoint(tmp_path / name, 4) for name in ("straight", "halves"))
    assert tiny_runs.same(first, second)
    assert bytes_of(tmp_path / "straight" / "student") == bytes_of(tmp_path / "halves" / "student")
