"""What folders hold, told by names alone, and which files belong to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stdcli.errors import ModelError
from stdcli.hub.artefact import files_of, find_artefact, kind_of
from tests.tiny_shares import LORA, write, write_model, write_run, write_student

STRAY = [
    "optimizer.pt",
    "optimizer.safetensors.tmp",
    "run.json",
    "metrics.jsonl",
    "checkpoints/step-000800.safetensors",
    "tensorboard/events",
    "unet/optimizer.bin",
    "unet/notes.txt",
    "deep/unet/config.json",
    ".cache/huggingface/x.json",
    "code.py",
]


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ([LORA], "student"),
        (["std_sdxl_i2i_eta0.75.safetensors"], "student"),
        (["unet/config.json", "unet/diffusion_pytorch_model.safetensors"], "student"),
        (["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"], "model"),
        (["manifest.json", "shards/shard-00000.json"], "bank"),
        (["manifest.json"], None),
        (["unet/config.json"], None),
        (["pytorch_lora_weights.bin", "README.md"], None),
        ([], None),
    ],
)
def test_kinds(names: list[str], kind: str | None) -> None:
    assert kind_of([*names, "README.md"]) == kind


def test_of_a_student_only_weights_config_and_recipe() -> None:
    own = [LORA, "comfyui/mine_kohya.safetensors", "recipe.json"]
    assert files_of("student", [*own, *STRAY, "other.safetensors"]) == [own[1], LORA, "recipe.json"]
    own = ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"]
    assert files_of("student", [*STRAY, *own]) == own
    told = [LORA, "recipe.json", "target_time_embedder.safetensors"]
    assert files_of("student", [*told, "other.safetensors"]) == told
    assert files_of("student", ["b.safetensors", "a.safetensors", *STRAY]) == [
        "a.safetensors",
        "b.safetensors",
    ]


def test_of_a_bank_only_its_format() -> None:
    own = ["conditions/cond-00000.safetensors", "manifest.json", "samples.jsonl"]
    own += ["shards/shard-00000.json", "shards/shard-00000.safetensors"]
    strays = ["shards/.shard-00001.safetensors.part", "shards/shard-1.json", "locks/plan.lock", *STRAY]
    assert files_of("bank", [*strays, *own]) == own


def test_of_a_model_one_set_of_weights_or_both(tmp_path: Path) -> None:
    names = [p.relative_to(tmp_path).as_posix() for p in write_model(tmp_path).rglob("*") if p.is_file()]
    plain, half = (f"unet/diffusion_pytorch_model{v}.safetensors" for v in ("", ".fp16"))
    one, both = files_of("model", [*names, *STRAY]), files_of("model", [*names, *STRAY], variants=True)
    assert plain in one and half not in one and sorted([*one, half]) == both
    assert not any(name.endswith((".bin", ".pt")) or name.startswith("checkpoints") for name in both)


def test_a_run_stands_for_its_outcome(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    found = find_artefact(run)
    assert (found.kind, found.root, found.run) == ("student", run / "student", run)
    assert found.names == (LORA, "recipe.json") and found.is_lora and found.repo_type == "model"
    teacher = write(write_model(tmp_path / "teacher/model").parent, {"run.json": {}})
    found = find_artefact(teacher)
    assert (found.kind, found.root, found.run) == ("model", teacher / "model", teacher)
    assert not found.is_lora
    alone = find_artefact(write_student(tmp_path / "student"))
    assert (alone.kind, alone.run) == ("student", None)


def test_refusals(tmp_path: Path) -> None:
    write(tmp_path, {"x.safetensors": b"", "early/run.json": {}, "other/thesis.tex": ""})
    for name, message in {
        "x.safetensors": "not a folder",
        "early": "this run has nothing to share yet",
        "other": "nothing here that can be shared",
    }.items():
        with pytest.raises(ModelError, match=message):
            find_artefact(tmp_path / name)
