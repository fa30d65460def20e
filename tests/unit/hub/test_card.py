"""The page of a repository: what it must say, and its metadata as the Hub reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from stdcli.config.recipe import Recipe
from stdcli.hub.artefact import find_artefact
from stdcli.hub.card import MARKER, CardData, make_card
from tests.tiny_banks import CLIPS, MANIFEST, write_tiny_bank
from tests.tiny_reports import MEANS, METHODS, make_report
from tests.tiny_shares import RECIPE, weights, write, write_model, write_run

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


def metadata(card: str) -> dict[str, Any]:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)[1])


def student_data(folder: Path, **data: Any) -> CardData:
    run = write_run(folder)
    recipe = Recipe.model_validate(RECIPE)
    return CardData("me/art", find_artefact(run), **({"base": SDXL, "recipe": recipe} | data))


def test_a_student(tmp_path: Path) -> None:
    card = make_card(student_data(tmp_path, samples=["samples/a.png"]))
    assert metadata(card) == {
        "library_name": "diffusers",
        "pipeline_tag": "image-to-image",
        "license": "openrail++",
        "base_model": SDXL,
        "base_model_relation": "adapter",
        "tags": ["stdcli", "diffusers", "stylization", "few-step", "lora", "single-trajectory-distillation"],
        "instance_prompt": None,
    }
    assert f"stdcli stylize photo.jpg --style painting.jpg --model {SDXL} --student me/art\n" in card
    assert "| timesteps | 739, 559, 379, 199 |" in card and "| strength | 0.75 |" in card
    assert "| trained for | 2, 4, 8 steps |" in card
    assert "timesteps=[739, 559, 379, 199], strength=1.0," in card and "guidance_scale=1, eta=0)" in card
    assert 'pipe.load_lora_weights("me/art", weight_name="pytorch_lora_weights.safetensors")' in card
    assert "![samples/a.png](samples/a.png)" in card and "arxiv.org/abs/2412.18945" in card
    assert f"| unet | {'ab' * 32} |" in card
    assert card.endswith(MARKER + "\n")


def test_names_of_samples_are_quoted(tmp_path: Path) -> None:
    card = make_card(student_data(tmp_path, samples=["samples/my photo (1).png"]))
    assert "![samples/my photo (1).png](samples/my%20photo%20%281%29.png)" in card


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    data = student_data(tmp_path, report=make_report())
    assert make_card(data) == make_card(data)


def test_a_student_of_the_embedded_model(tmp_path: Path) -> None:
    card = make_card(student_data(tmp_path, base="embedded"))
    assert "base_model" not in metadata(card) and metadata(card)["license"] == "apache-2.0"
    assert "stdcli stylize photo.jpg --style painting.jpg --student me/art\n" in card
    assert "from diffusers" not in card


def test_full_weights(tmp_path: Path) -> None:
    files = {"unet/config.json": {}, "unet/diffusion_pytorch_model.safetensors": weights()}
    data = CardData("me/art", find_artefact(write(tmp_path, files)), base="o/base", license="mit")
    about = metadata(make_card(data))
    assert (about["base_model_relation"], about["license"]) == ("finetune", "mit")
    assert "lora" not in about["tags"] and "load_lora_weights" not in make_card(data)


def test_a_license_nobody_named(tmp_path: Path) -> None:
    card = make_card(student_data(tmp_path, base="o/base"))
    assert "license" not in metadata(card) and "Not stated." in card


def test_an_evaluation(tmp_path: Path) -> None:
    card = make_card(student_data(tmp_path, report=make_report()))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines()]
    assert ["", *(title for title, *_ in METHODS.values())] in rows
    assert ["palette ↓", *(f"{value:.4g}" for value in MEANS["palette"])] in rows
    assert ["SSIM ↑", *(f"{value:.4g}" for value in MEANS["ssim"])] in rows
    assert not any(row[0].startswith("CSD") for row in rows)  # its weights were missing
    assert "- palette: " in card and "Means over 3 contents x 2 styles" in card


def test_a_model(tmp_path: Path) -> None:
    data = CardData("me/m", find_artefact(write_model(tmp_path)), recipe=Recipe(steps=4, strength=0.4))
    card = make_card(data)
    assert "stdcli stylize photo.jpg --style painting.jpg --model me/m\n" in card
    assert "base_model" not in metadata(card) and "| strength | 0.4 |" in card


def test_a_bank(tmp_path: Path) -> None:
    found = find_artefact(write_tiny_bank(tmp_path / "bank").root)
    card = make_card(CardData("me/b", found, base="o/base", manifest=MANIFEST.to_json()))
    assert metadata(card) == {"tags": ["stdcli", "stdcli-bank", "diffusion-trajectories"]}
    assert "stdcli hub pull datasets/me/b -o b\nstdcli distill --bank b -o runs/student\n" in card
    assert "| levels | 4, from t 140 to 0 |" in card and "| guidance | 2 to 4 |" in card
    assert "[o/base](https://huggingface.co/o/base)" in card
    assert "| format | stdcli-bank 1 |" in card and "| pictures | 40 px |" in card


def test_a_bank_of_clips(tmp_path: Path) -> None:
    found = find_artefact(write_tiny_bank(tmp_path / "bank", CLIPS).root)
    card = make_card(CardData("me/b", found, base="o/base", manifest=CLIPS.to_json()))
    assert "| format | stdcli-bank 2 |" in card and "| latents | 2x3x2x4, float16 |" in card
    assert "| clips | 9 frames of 32x16 px, stride 2 |" in card and "pictures |" not in card
