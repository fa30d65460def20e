"""`stdcli export`: merged tensors by hand, the single file's names, and everything that is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stdcli.cli.main import main
from stdcli.distill.student import save_student
from stdcli.errors import MediaError
from stdcli.export.outputs import new_output
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from tests.tiny_models import (
    add_style_adapter,
    save_tiny_checkpoint,
    save_tiny_embedded,
    save_tiny_lora,
    save_tiny_sd15,
    save_tiny_sdxl,
)
from tests.tiny_students import recipe_of, student_of, train

LORA = "pytorch_lora_weights.safetensors"
UNET = "unet/diffusion_pytorch_model.safetensors"
MAKERS = {"sd15": save_tiny_sd15, "sdxl": save_tiny_sdxl}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    made = {name: add_style_adapter(make(root / name)) for name, make in MAKERS.items()}
    return made | {"embedded": save_tiny_embedded(root / "embedded")}


@pytest.fixture(scope="module")
def lora(models, tmp_path_factory) -> Path:
    """A LoRA of sdxl's attention without a recipe, alpha half its rank."""
    return save_tiny_lora(
        tmp_path_factory.mktemp("lora") / "a.safetensors", models["sdxl"], rank=4, alpha=2.0
    )


@pytest.fixture
def export(capsys):
    """Run it; returns stdout, or the error after a refusal, as JSON."""

    def run(*args: object, code: int = 0) -> dict:
        assert main(["export", *map(str, args), "--json"]) == code
        out, err = capsys.readouterr()
        return json.loads(err.splitlines()[-1])["error"] if code else json.loads(out)

    return run


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_single_file_has_the_original_names(models, tmp_path, export, family) -> None:
    """Against an independent writer of that layout; a LoRA of zeros changes nothing."""
    lora = save_tiny_lora(tmp_path / "a.safetensors", models[family])
    save_file({key: torch.zeros_like(value) for key, value in load_file(lora).items()}, lora)
    export(lora, "--format", "merged", "--model", models[family], "-o", tmp_path / "mine.safetensors")
    theirs = load_file(save_tiny_checkpoint(tmp_path / "theirs.safetensors", models[family]))
    mine = load_file(tmp_path / "mine.safetensors")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, mine[key]) for key, value in theirs.items())


def test_a_merge_changes_its_layers_and_nothing_else(models, lora, tmp_path, export) -> None:
    base = models["sdxl"]
    told = export(lora, "--format", "merged", "--model", base, "-o", tmp_path / "m")
    assert (told["rank"], told["alpha"], told["path"]) == (4, 2, str(tmp_path / "m"))
    before, after, pairs = load_file(base / UNET), load_file(tmp_path / "m" / UNET), load_file(lora)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == told["layers"] == len(pairs) / 2
    for name in sorted(changed):
        stem = f"unet.{name.removesuffix('.weight')}"
        product = pairs[f"{stem}.lora_B.weight"] @ pairs[f"{stem}.lora_A.weight"]
        assert torch.allclose(after[name], before[name] + 0.5 * product, atol=1e-6)
    others = [p.relative_to(base) for p in sorted(base.rglob("*")) if p.is_file() and p.parent.name != "unet"]
    (tmp_path / "new").touch()
    written = {(tmp_path / "new").stat().st_mode, (tmp_path / "m" / UNET).stat().st_mode}
    assert len(written) == 1, "readable by whom any new file is"
    assert len(others) > 12 and Path("ip_adapter/image_encoder/model.safetensors") in others
    assert all((tmp_path / "m" / p).read_bytes() == (base / p).read_bytes() for p in others)


def test_a_layer_of_another_shape_has_no_place(models, lora, tmp_path, export) -> None:
    tensors = load_file(lora)
    name = next(key for key in sorted(tensors) if key.endswith("attn2.to_k.lora_A.weight"))
    tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, tmp_path / "b.safetensors")
    command = [tmp_path / "b.safetensors", "--format", "merged", "--model", models["sdxl"]]
    error = export(*command, "-o", tmp_path / "m", code=4)
    assert "does not fit the model" in error["what"]
    assert name.removeprefix("unet.").removesuffix(".lora_A.weight") in error["got"]
    assert not (tmp_path / "m").exists()


def test_the_index_of_half_precision_shards_becomes_the_plain_one(models, lora, tmp_path, export) -> None:
    base = Path(shutil.copytree(models["sdxl"], tmp_path / "base"))
    place, stem = base / "vae", "diffusion_pytorch_model"
    tensors = load_file(place / f"{stem}.safetensors")
    (place / f"{stem}.safetensors").unlink()
    names, where = sorted(tensors), {}
    for k, part in enumerate((names[::2], names[1::2])):
        file = f"{stem}.fp16-0000{k + 1}-of-00002.safetensors"
        save_file({name: tensors[name].half() for name in part}, place / file)
        where |= dict.fromkeys(part, file)
    (place / f"{stem}.safetensors.index.fp16.json").write_text(json.dumps({"weight_map": where}))
    export(lora, "--format", "merged", "--model", base, "-o", tmp_path / "m")
    index = json.loads((tmp_path / "m/vae" / f"{stem}.safetensors.index.json").read_text())
    files = {file: load_file(tmp_path / "m/vae" / file) for file in set(index["weight_map"].values())}
    assert not list((tmp_path / "m").rglob("*fp16*"))
    assert all(torch.equal(files[index["weight_map"][name]][name], tensors[name].half()) for name in names)


@pytest.mark.slow
def test_half_precision_files_become_plain_ones(models, lora, tmp_path, export) -> None:
    base = Path(shutil.copytree(models["sdxl"], tmp_path / "base"))
    for path in sorted(base.rglob("*.safetensors")):
        if path.parent.name != "ip_adapter":
            save_file({k: v.half() for k, v in load_file(path).items()}, path)
            path.rename(path.with_suffix(".fp16.safetensors"))
    export(lora, "--format", "merged", "--model", base, "-o", tmp_path / "m")
    assert not list((tmp_path / "m").rglob("*fp16*"))
    assert {v.dtype for v in load_file(tmp_path / "m" / UNET).values()} == {torch.float16}
    load_model(ModelSpec(str(tmp_path / "m"), device="cpu"))
    export(lora, "--format", "merged", "--model", base, "--dtype", "float32", "-o", tmp_path / "f")
    merged = [load_file(path) for path in sorted((tmp_path / "f").rglob("*.safetensors"))]
    floats = {value.dtype for tensors in merged for value in tensors.values() if value.is_floating_point()}
    assert floats == {torch.float32}


def test_a_full_student_is_merged_as_it_is_and_is_no_lora(models, tmp_path, export) -> None:
    base = models["embedded"]
    student = train(student_of(base, kind="full"))
    save_student(tmp_path / "s", student, recipe=recipe_of(base), dtype=torch.float32)
    told = export(tmp_path / "s", "--format", "merged", "-o", tmp_path / "m")
    assert told["base"] == str(base)
    merged = load_file(tmp_path / "m" / UNET)
    assert all(torch.equal(value, merged[name]) for name, value in load_file(tmp_path / "s" / UNET).items())
    bundle = load_model(ModelSpec(str(tmp_path / "m"), device="cpu", dtype="float32"))
    assert bundle.network.recipe.trained.base_sha256["unet"] == bundle.network.hash_of("unet"), (
        "its own base: no warning"
    )
    for format, out in (("diffusers", "l"), ("kohya", "l.safetensors")):
        error = export(tmp_path / "s", "--format", format, "-o", tmp_path / out, code=4)
        assert "no LoRA holds it" in error["what"] and error["hint"] == "--format merged"
    error = export(tmp_path / "s", "--format", "merged", "-o", tmp_path / "m.safetensors", code=2)
    assert "no single-file layout" in error["what"]
    student = student_of(base, kind="full", has_target_time=True)
    save_student(tmp_path / "t", student, recipe=recipe_of(base, s_embedding=True))
    assert "s-embedding" in export(tmp_path / "t", "--format", "merged", "-o", tmp_path / "n", code=4)["what"]


def test_a_lora_that_sees_its_target_is_no_file_of_other_programs(models, tmp_path, export) -> None:
    student = student_of(models["embedded"], has_target_time=True)
    save_student(tmp_path / "t", student, recipe=recipe_of(models["embedded"], s_embedding=True))
    for format, out in (("diffusers", "l"), ("kohya", "l.safetensors"), ("merged", "m")):
        error = export(tmp_path / "t", "--format", format, "-o", tmp_path / out, code=4)
        assert "other programs cannot tell it" in error["what"] and "--student" in error["hint"]
        assert not (tmp_path / out).exists()


def test_options_that_do_not_go_together(models, lora, tmp_path, export) -> None:
    out = tmp_path / "out"
    for args, word in (
        (("--format", "koyha", "-o", out), "did you mean kohya"),
        (("--format", "kohya", "-o", out), "one file"),
        (("--model", models["sdxl"], "-o", out), "--format merged"),
        (("--dtype", "int8", "-o", out), "--dtype"),
        (("--format", "merged", "-o", out), "does not say which model"),
    ):
        assert word in json.dumps(export(lora, *args, code=2))
    assert not out.exists()


def test_what_does_not_fit_leaves_nothing(models, lora, tmp_path, export) -> None:
    error = export(lora, "--format", "merged", "--model", models["sd15"], "-o", tmp_path / "m", code=4)
    assert error["what"] == "this student does not fit the model"
    count = len(load_file(lora)) // 2
    assert error["expected"] == f"all {count}" and f"of {count} match" in error["got"]
    pairs = load_file(lora)
    pairs["unet.mid_block.resnets.7.conv1.lora_A.weight"] = torch.zeros(4, 32, 3, 3)
    pairs["unet.mid_block.resnets.7.conv1.lora_B.weight"] = torch.zeros(32, 4, 1, 1)
    save_file(pairs, tmp_path / "more.safetensors")
    error = export(
        tmp_path / "more.safetensors",
        "--format",
        "merged",
        "--model",
        models["sdxl"],
        "-o",
        tmp_path / "m",
        code=4,
    )
    assert error["got"] == f"{count} of {count + 1} match; first that do not: mid_block.resnets.7.conv1"
    large = {key: value * 1e6 for key, value in load_file(lora).items()}
    save_file(large, tmp_path / "large.safetensors")
    error = export(tmp_path / "large.safetensors", "--dtype", "float16", "-o", tmp_path / "l", code=9)
    assert error["type"] == "NumericsError"
    command = ["--format", "merged", "--model", models["sdxl"], "--dtype", "float16"]
    export(tmp_path / "large.safetensors", *command, "-o", tmp_path / "m", code=9)
    checkpoint = save_tiny_checkpoint(tmp_path / "c.safetensors", models["sdxl"])
    error = export(lora, "--format", "merged", "--model", checkpoint, "-o", tmp_path / "m", code=4)
    assert "diffusers folder" in error["what"]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"more.safetensors", "large.safetensors", "c.safetensors"}


def test_nothing_is_replaced_unasked_and_inputs_never(models, lora, tmp_path, export) -> None:
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(lora, own / LORA)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    export(own, "-o", tmp_path / "d")
    before = (tmp_path / "d" / LORA).read_bytes()
    assert "exists already" in export(own, "-o", tmp_path / "d", code=5)["what"]
    export(own, "--dtype", "float16", "-o", tmp_path / "d", "--overwrite")
    assert (tmp_path / "d" / LORA).read_bytes() != before
    assert "holds what is read" in export(own, "-o", own, "--overwrite", code=5)["what"]
    assert "holds no model" in export(own, "-o", tmp_path, "--overwrite", code=5)["what"]
    assert "no model" in export(own, "-o", tmp_path / "photos", "--overwrite", code=5)["what"]
    error = export(own, "-o", own / LORA, "--overwrite", code=5)
    assert "input itself" in error["what"]
    export(own, "-o", tmp_path / "new.safetensors", "--dry-run")
    assert not (tmp_path / "new.safetensors").exists()
    export(own, "-o", tmp_path / "new.safetensors")
    assert "exists already" in export(own, "-o", tmp_path / "new.safetensors", code=5)["what"]
    assert load_file(own / LORA).keys() == load_file(lora).keys()


def test_the_output_is_looked_at_before_anything_is_read(tmp_path, export) -> None:
    (tmp_path / "a.safetensors").touch()
    error = export(tmp_path / "no-student", "-o", tmp_path / "a.safetensors", code=5)
    assert error["where"] == str(tmp_path / "a.safetensors")


def test_only_what_exports_write_is_replaced(models, lora, tmp_path, export) -> None:
    merged = (lora, "--format", "merged", "--model", models["sdxl"], "-o", tmp_path / "m")
    export(*merged)
    export(*merged, "--overwrite")
    export(lora, "-o", tmp_path / "d")
    for folder in (tmp_path / "m", tmp_path / "d"):
        for stray in ("notes.txt", "unet/mine.safetensors", "checkpoints/a.safetensors", "run.json"):
            (folder / stray).parent.mkdir(exist_ok=True)
            (folder / stray).write_bytes(b"mine")
            error = export(lora, "-o", folder, "--overwrite", code=5)
            assert "what no export writes" in error["what"] and error["got"] == stray
            (folder / stray).unlink()
        export(lora, "-o", folder, "--overwrite")


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path) -> None:
    for overwrite, message in ((False, "exists already"), (True, "no model")):
        with pytest.raises(MediaError, match=message), new_output(tmp_path / "d", overwrite=overwrite):
            (tmp_path / "d").mkdir()
            (tmp_path / "d" / "thesis.tex").touch()
        assert [path.name for path in tmp_path.rglob("*")] == ["d", "thesis.tex"]
        shutil.rmtree(tmp_path / "d")


@pytest.mark.slow
def test_another_base_and_alpha_are_said(models, tmp_path, capsys) -> None:
    student = student_of(models["sdxl"], alpha=2)
    save_student(tmp_path / "s", student, recipe=recipe_of(models["sdxl"]))
    assert main(["export", str(tmp_path / "s"), "-o", str(tmp_path / "d"), "-n"]) == 0
    told = capsys.readouterr().err
    assert "alpha is not the rank" in told
    assert "for ComfyUI, A1111, Forge, sd-scripts: --format kohya" in told.replace("\n", " ")
    other = save_tiny_sdxl(tmp_path / "other", seed=3)
    args = ["--format", "merged", "-n", "-o", str(tmp_path / "m")]
    assert main(["export", str(tmp_path / "s"), *args, "--model", str(other)]) == 0
    assert "was trained on" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "s"), *args]) == 0
    assert "warning" not in capsys.readouterr().err, "its own base, and the alphas are in the weights"
