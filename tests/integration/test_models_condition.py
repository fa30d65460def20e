"""Text and style conditions of every family, against the parts they are made from."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stdcli.errors import ConfigError, HubError, ModelError
from stdcli.models import pipeline
from stdcli.models.bundle import Bundle
from stdcli.models.load import load_model
from stdcli.models.prompt_notes import UNUSED_NEGATIVE
from stdcli.models.spec import ModelSpec
from tests.tiny_models import (
    CROSS,
    POOLED,
    STYLE,
    add_style_adapter,
    save_tiny_embedded,
    save_tiny_sd15,
    save_tiny_sdxl,
)

RED, BLUE = Image.new("RGB", (50, 40), "red"), Image.new("RGB", (40, 50), "blue")
SIZE = (64, 96)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "sd15": save_tiny_sd15(root / "sd15"),
        "sdxl": save_tiny_sdxl(root / "sdxl"),
        "sd15-style": add_style_adapter(save_tiny_sd15(root / "sd15-style")),
        "sdxl-style": add_style_adapter(save_tiny_sdxl(root / "sdxl-style")),
        "embedded": save_tiny_embedded(root / "embedded"),
    }


@pytest.fixture(scope="module")
def bundles(folders: dict[str, Path]) -> dict[str, Bundle]:
    return {
        name: load_model(ModelSpec(str(path), device="cpu", dtype="float32"))
        for name, path in folders.items()
    }


def test_guidance_off_needs_no_unconditional(bundles: dict[str, Bundle]) -> None:
    for name in ("sd15", "sdxl"):
        assert bundles[name].condition(prompt="x", size_px=SIZE)[1] is None
        assert bundles[name].condition(prompt="x", size_px=SIZE, guidance=0.0)[1] is not None
        assert bundles[name].condition(prompt="x", size_px=SIZE, guidance=5.0)[1] is not None


def test_sdxl_time_ids_are_height_width_corner_height_width(bundles: dict[str, Bundle]) -> None:
    cond, uncond = bundles["sdxl"].condition(prompt="x", size_px=SIZE, guidance=5.0)
    for c in (cond, uncond):
        assert c.added["time_ids"].tolist() == [[64, 96, 0, 0, 64, 96]]
        assert c.added["time_ids"].dtype == torch.float32


def test_sdxl_unconditional_is_zero_for_tokens_and_pooled(bundles: dict[str, Bundle]) -> None:
    cond, uncond = bundles["sdxl"].condition(prompt="x", size_px=SIZE, guidance=5.0)
    assert cond.encoder_hidden_states.shape == (1, 77, CROSS)
    assert cond.added["text_embeds"].shape == (1, POOLED)
    assert cond.encoder_hidden_states.abs().min() > 0 or cond.encoder_hidden_states.std() > 0
    assert not uncond.encoder_hidden_states.any()
    assert not uncond.added["text_embeds"].any()


def test_sdxl_zeros_do_not_depend_on_the_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    model = shutil.copytree(folders["sdxl"], tmp_path / "m")
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": False}))
    bundle = load_model(ModelSpec(str(model), device="cpu", dtype="float32"))
    _, uncond = bundle.condition(prompt="x", size_px=SIZE, guidance=5.0)
    assert not uncond.encoder_hidden_states.any()
    assert not uncond.added["text_embeds"].any()


def test_sdxl_negative_prompt_replaces_both_zeros(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["sdxl"]
    _, uncond = bundle.condition(prompt="x", negative_prompt="blurred", size_px=SIZE, guidance=5.0)
    same, _ = bundle.condition(prompt="blurred", size_px=SIZE)
    assert torch.allclose(uncond.encoder_hidden_states, same.encoder_hidden_states)
    assert torch.allclose(uncond.added["text_embeds"], same.added["text_embeds"])


@pytest.mark.parametrize("negative", [None, "blurred"])
def test_sdxl_keeps_the_prompts_pooled_embedding_if_told(bundles: dict[str, Bundle], negative) -> None:
    """As the code of Single Trajectory Distillation guides: the pooled embedding is the prompt's."""
    options = {"prompt": "x", "negative_prompt": negative, "size_px": SIZE, "guidance": 5.0}
    cond, usual = bundles["sdxl"].condition(**options)
    _, uncond = bundles["sdxl"].condition(**options, pooled="keep")
    assert torch.equal(uncond.added["text_embeds"], cond.added["text_embeds"])
    assert not torch.equal(usual.added["text_embeds"], cond.added["text_embeds"])
    assert torch.equal(uncond.encoder_hidden_states, usual.encoder_hidden_states)
    assert torch.equal(uncond.added["time_ids"], usual.added["time_ids"])


def test_other_families_have_no_pooled_text(bundles: dict[str, Bundle]) -> None:
    options = {"styles": [RED], "size_px": SIZE, "guidance": 5.0}
    _, usual = bundles["embedded"].condition(**options)
    _, uncond = bundles["embedded"].condition(**options, pooled="keep")
    assert torch.equal(uncond.added["text_embeds"], usual.added["text_embeds"])
    assert bundles["sd15"].condition(prompt="x", size_px=SIZE, guidance=5.0, pooled="keep")[1] is not None


def test_sdxl_empty_prompt_is_encoded_not_zeroed(bundles: dict[str, Bundle]) -> None:
    empty, _ = bundles["sdxl"].condition(prompt="", size_px=SIZE)
    none, _ = bundles["sdxl"].condition(size_px=SIZE)
    assert empty.encoder_hidden_states.any()
    assert empty.added["text_embeds"].any()
    assert torch.equal(empty.encoder_hidden_states, none.encoder_hidden_states)
    _, negative = bundles["sdxl"].condition(negative_prompt="", size_px=SIZE, guidance=5.0)
    assert torch.allclose(negative.encoder_hidden_states, empty.encoder_hidden_states)


def test_sd15_unconditional_is_the_encoded_empty_prompt(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["sd15"]
    cond, uncond = bundle.condition(prompt="x", size_px=SIZE, guidance=5.0)
    empty, _ = bundle.condition(size_px=SIZE)
    assert cond.added == {}
    assert cond.encoder_hidden_states.shape == (1, 77, CROSS)
    assert torch.allclose(uncond.encoder_hidden_states, empty.encoder_hidden_states)
    assert not torch.allclose(cond.encoder_hidden_states, empty.encoder_hidden_states)
    _, negative = bundle.condition(prompt="x", negative_prompt="blurred", size_px=SIZE, guidance=5.0)
    blurred, _ = bundle.condition(prompt="blurred", size_px=SIZE)
    assert torch.allclose(negative.encoder_hidden_states, blurred.encoder_hidden_states)


def test_long_prompts_are_noted(bundles: dict[str, Bundle]) -> None:
    text = "a" * 75 + " lost words"
    for name in ("sd15", "sdxl"):
        cond, _ = bundles[name].condition(prompt=text, size_px=SIZE)
        (note,) = cond.notes
        assert "77 tokens" in note
        assert "lost" in note.replace(" ", "")
        assert bundles[name].condition(prompt="a" * 75, size_px=SIZE)[0].notes == ()


def test_embedded_condition_is_the_style_alone(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["embedded"]
    cond, uncond = bundle.condition(styles=[RED], size_px=SIZE, guidance=2.0)
    assert not cond.encoder_hidden_states.any()
    assert cond.encoder_hidden_states.shape == (1, 1, CROSS)
    assert cond.added["time_ids"].tolist() == [[256, 256, 0, 0, 256, 256]]
    assert cond.added["image_embeds"].shape == (1, 1, STYLE)
    assert torch.equal(cond.added["text_embeds"], cond.added["image_embeds"][:, 0])
    assert cond.added["text_embeds"].any()
    assert not uncond.added["text_embeds"].any()
    assert not uncond.added["image_embeds"].any()
    assert torch.equal(uncond.added["time_ids"], cond.added["time_ids"])


def test_embedded_model_notes_a_prompt_and_needs_a_style(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["embedded"]
    cond, _ = bundle.condition(prompt="a castle", styles=[RED], size_px=SIZE)
    assert "prompts mean nothing" in cond.notes[0]
    plain, _ = bundle.condition(styles=[RED], size_px=SIZE)
    assert plain.notes == ()
    assert torch.equal(plain.added["text_embeds"], cond.added["text_embeds"])
    with pytest.raises(ModelError, match="needs a style picture") as caught:
        bundle.condition(prompt="a castle", size_px=SIZE)
    assert caught.value.hint.startswith("--style PICTURE")


@pytest.mark.parametrize("name", ["embedded", "sdxl-style"])
def test_several_styles_are_a_weighted_mean(bundles: dict[str, Bundle], name: str) -> None:
    def embeds(styles, weights=None):
        cond, _ = bundles[name].condition(styles=styles, style_weights=weights, size_px=SIZE)
        return cond.added["image_embeds"]

    red, blue = embeds([RED]), embeds([BLUE])
    assert not torch.allclose(red, blue)
    assert torch.allclose(embeds([RED, BLUE]), (red + blue) / 2, atol=1e-6)
    assert torch.allclose(embeds([RED, BLUE], [3, 1]), 0.75 * red + 0.25 * blue, atol=1e-6)
    assert torch.allclose(embeds([RED, BLUE], [2, 0]), red, atol=1e-6)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]])
def test_style_weights_that_do_not_fit(bundles: dict[str, Bundle], weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="--style-weights"):
        bundles["embedded"].condition(styles=[RED, BLUE], style_weights=weights, size_px=SIZE)
    with pytest.raises(ConfigError, match="one weight per --style"):
        bundles["sdxl"].condition(style_weights=[1.0], size_px=SIZE)


def test_style_picture_is_prepared_as_the_folder_says(
    folders: dict[str, Path], bundles: dict[str, Bundle]
) -> None:
    """Against the encoder and CLIP's arithmetic on a flat picture: resizing and cropping leave it flat."""
    bundle = bundles["embedded"]
    mean, std = (
        torch.tensor([0.48145466, 0.4578275, 0.40821073]),
        torch.tensor([0.26862954, 0.26130258, 0.27577711]),
    )
    pixels = ((torch.tensor([1.0, 0.0, 0.0]) - mean) / std)[None, :, None, None].expand(1, 3, 256, 256)
    expected = bundle.text._unet  # the encoder hangs on the pipeline
    encoder = bundle.network.style._pipe.image_encoder
    with torch.no_grad():
        by_hand = encoder(pixel_values=pixels).image_embeds
    cond, _ = bundle.condition(styles=[RED], size_px=SIZE)
    assert expected is bundle.network.denoiser.network
    assert torch.allclose(cond.added["image_embeds"][:, 0], by_hand, atol=1e-4)


def test_adapter_is_loaded_at_the_first_style_and_fed_from_then_on(folders: dict[str, Path]) -> None:
    bundle = load_model(ModelSpec(str(folders["sdxl-style"]), device="cpu", dtype="float32"))
    assert not bundle.network.style.loaded
    before, _ = bundle.condition(prompt="x", size_px=SIZE)
    assert "image_embeds" not in before.added
    _, uncond = bundle.condition(prompt="x", styles=[RED], size_px=SIZE, guidance=5.0)
    assert not uncond.added["image_embeds"].any()
    after, _ = bundle.condition(prompt="x", size_px=SIZE)
    assert not after.added["image_embeds"].any()
    bundle.network.denoiser(torch.zeros(1, 4, 8, 8), 499, after)
    assert {"style_sha256", "style_encoder_sha256"} <= bundle.network.identity.keys()


def test_style_scale_reaches_the_network(folders: dict[str, Path]) -> None:
    def output(scale: float | None) -> torch.Tensor:
        bundle = load_model(
            ModelSpec(str(folders["sdxl-style"]), device="cpu", dtype="float32"), style_scale=scale
        )
        cond, _ = bundle.condition(prompt="x", styles=[RED], size_px=SIZE)
        with torch.no_grad():
            return bundle.network.denoiser(torch.ones(1, 4, 8, 8), 499, cond)

    plain = load_model(ModelSpec(str(folders["sdxl-style"]), device="cpu", dtype="float32"))
    cond, _ = plain.condition(prompt="x", size_px=SIZE)
    with torch.no_grad():
        without = plain.network.denoiser(torch.ones(1, 4, 8, 8), 499, cond)
    assert torch.allclose(output(0.0), without, atol=1e-6)
    assert torch.equal(output(None), output(1.0))
    assert not torch.allclose(output(1.0), output(0.5), atol=1e-5)


def test_sdxl_without_an_adapter_names_the_command(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(HubError, match="not in the local Hub cache, and offline") as caught:
        bundles["sdxl"].condition(styles=[RED], size_px=SIZE)
    hint = caught.value.hint
    assert hint.startswith('hf download h94/IP-Adapter --include "sdxl_models/ip-adapter_sdxl.safetensors"')
    assert "sdxl_models/image_encoder/model.safetensors" in hint
    with pytest.raises(HubError) as caught:
        bundles["sd15"].condition(styles=[RED], size_px=SIZE)
    assert "models/ip-adapter_sd15.safetensors" in caught.value.hint


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_missing_adapter_is_noticed_before_any_weights(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(pipeline, "_open_folder", lambda *_: pytest.fail("the model was opened"))
    with pytest.raises(HubError, match="not in the local Hub cache, and offline") as caught:
        load_model(ModelSpec(str(folders[name]), device="cpu", dtype="float32", offline=True), styles=True)
    assert caught.value.hint.startswith("hf download h94/IP-Adapter --include ")


@pytest.mark.parametrize("name", ["sd15-style", "sdxl-style", "embedded"])
def test_an_adapter_of_the_models_own_is_installed_before_anything_is_recorded(
    folders: dict[str, Path], name: str
) -> None:
    bundle = load_model(
        ModelSpec(str(folders[name]), device="cpu", dtype="float32", offline=True), styles=True
    )
    before = bundle.network.identity
    file = folders[name] / "ip_adapter" / "ip_adapter.safetensors"
    assert before["style_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    cond, _ = bundle.condition(styles=[RED], size_px=SIZE)
    assert cond.added["image_embeds"].any()
    assert bundle.network.identity == before


def test_a_negative_prompt_without_guidance_is_noted(bundles: dict[str, Bundle]) -> None:
    for name in ("sd15", "sdxl"):
        for guidance, count in ((1.0, 1), (5.0, 0)):
            cond, _ = bundles[name].condition(negative_prompt="x", size_px=SIZE, guidance=guidance)
            assert [note for note in cond.notes if "negative prompt does nothing" in note] == [
                UNUSED_NEGATIVE
            ] * count


def test_a_base_beside_a_folder_is_noted(folders: dict[str, Path]) -> None:
    name, base = str(folders["sd15"]), str(folders["sdxl"])
    bundle = load_model(ModelSpec(name, base=base, device="cpu", dtype="float32"))
    assert bundle.network.notes == [f"--base {base} is not used: {name} has configs of its own"]


@pytest.fixture
def styled(folders: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(folders["sdxl-style"], tmp_path / "m")


def style_error(model: Path) -> ModelError:
    bundle = load_model(ModelSpec(str(model), device="cpu", dtype="float32"))
    with pytest.raises(ModelError) as caught:
        bundle.condition(styles=[RED], size_px=SIZE)
    return caught.value


def test_adapter_with_another_encoder(styled: Path) -> None:
    add_style_adapter(styled, encoder_dim=STYLE * 2)
    error = style_error(styled)
    assert "trained with another image encoder" in error.what
    assert error.got == f"embeddings of width {STYLE * 2}"


def test_adapter_that_needs_a_published_encoder_names_it(styled: Path) -> None:
    path = styled / "ip_adapter" / "ip_adapter.safetensors"
    tensors = load_file(path)
    tensors["image_proj.proj.weight"] = torch.zeros(4 * CROSS, 1280)
    save_file(tensors, path)
    error = style_error(styled)
    assert "ViT-bigG" in error.expected
    assert error.hint == 'hf download h94/IP-Adapter --include "sdxl_models/image_encoder/*"'


def test_adapter_of_another_family(styled: Path, folders: dict[str, Path]) -> None:
    add_style_adapter(styled, unet=folders["sd15"] / "unet")
    error = style_error(styled)
    assert error.what == "this style adapter is for another model family"
    assert error.got == "16 cross-attentions"


def test_adapter_that_lacks_tensors(styled: Path) -> None:
    add_style_adapter(styled, plus=True)
    path = styled / "ip_adapter" / "ip_adapter.safetensors"
    save_file({k: v for k, v in load_file(path).items() if ".layers.3." not in k}, path)
    assert style_error(styled).what == "this style adapter does not fit the model"


def test_not_an_adapter(styled: Path) -> None:
    path = styled / "ip_adapter" / "ip_adapter.safetensors"
    save_file({k: v for k, v in load_file(path).items() if not k.startswith("image_proj")}, path)
    assert style_error(styled).what == "not an IP-Adapter"


def test_two_adapters_are_ambiguous(styled: Path) -> None:
    shutil.copy(styled / "ip_adapter" / "ip_adapter.safetensors", styled / "ip_adapter" / "b.safetensors")
    with pytest.raises(ModelError, match="more than one style adapter"):
        load_model(ModelSpec(str(styled)))
