"""Students on disk: what plain diffusers reads, what `load_model` makes of them, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    UNet2DConditionModel,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

from stdcli.config.recipe import Recipe
from stdcli.distill.student import save_student
from stdcli.errors import ModelError, NumericsError, ResourceError
from stdcli.models.load import load_denoiser, load_model
from stdcli.models.patch_autoencoder import PatchAutoencoder
from stdcli.models.spec import ModelSpec
from tests.tiny_models import (
    add_style_adapter,
    save_tiny_checkpoint,
    save_tiny_embedded,
    save_tiny_lora,
    save_tiny_sd15,
    save_tiny_sdxl,
)
from tests.tiny_students import condition_for, latents_for, recipe_of, student_of, train

LORA, EMBEDDER = "pytorch_lora_weights.safetensors", "target_time_embedder.safetensors"
MAKERS = {"embedded": save_tiny_embedded, "sd15": save_tiny_sd15, "sdxl": save_tiny_sdxl}
PIPES = {"sd15": StableDiffusionImg2ImgPipeline, "sdxl": StableDiffusionXLImg2ImgPipeline}
T = torch.tensor([739, 199])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


@torch.no_grad()
def plain_output(unet: UNet2DConditionModel, family: str, **inputs: torch.Tensor) -> torch.Tensor:
    """A plain diffusers call of a UNet."""
    condition = condition_for(family)
    added = dict(condition.added)
    if "image_embeds" in added:
        added["image_embeds"] = [added["image_embeds"]]
    tokens = condition.encoder_hidden_states
    return unet(latents_for(family), T, tokens, added_cond_kwargs=added, **inputs).sample


@torch.no_grad()
def output_of(denoiser, family: str, **inputs: object) -> torch.Tensor:
    return denoiser(latents_for(family), T, condition_for(family), **inputs)


@pytest.mark.parametrize(
    ("family", "dtype", "tolerance"), [("sd15", torch.float32, 2e-6), ("sdxl", torch.float16, 1e-4)]
)
def test_plain_diffusers_reads_adapters_as_they_are(models, tmp_path, family, dtype, tolerance) -> None:
    student = train(student_of(models[family], rank=3, alpha=2), scale=0.03)
    expected = output_of(student, family)
    save_student(tmp_path / "s", student, recipe=recipe_of(), dtype=dtype)
    pipe = PIPES[family].from_pretrained(models[family])
    before = plain_output(pipe.unet, family)
    pipe.load_lora_weights(str(tmp_path / "s"))
    given = plain_output(pipe.unet, family)
    assert (given - expected).abs().max() < tolerance
    assert (before - expected).abs().max() > 2e-3
    layers = {n: m for n, m in pipe.unet.named_modules() if hasattr(m, "lora_A")}
    assert {m.scaling["default_0"] for m in layers.values()} == {2 / 3}
    for name, value in student.trainable().items():
        module, _, part = name.removesuffix(".weight").rpartition(".")
        assert torch.equal(getattr(layers[module], part)["default_0"].weight, value.to(dtype).float())
    assert len(student.trainable()) == 2 * len(layers)


def test_keys_and_metadata_of_adapters(models, tmp_path) -> None:
    """Upstream's final save kept `base_model.model.`; and an older peft must know every value."""
    student = train(student_of(models["sdxl"], alpha=6))
    save_student(tmp_path / "s", student, recipe=recipe_of())
    with safe_open(tmp_path / "s" / LORA, "pt") as file:
        keys, metadata = set(file.keys()), json.loads(file.metadata()["lora_adapter_metadata"])
        assert {file.get_tensor(key).dtype for key in keys} == {torch.float16}
    assert keys == {f"unet.{name}" for name in student.trainable()}
    assert all(key.endswith((".lora_A.weight", ".lora_B.weight")) for key in keys)
    assert not any("base_model" in key or "default" in key for key in keys)
    assert metadata.keys() == {"unet.r", "unet.lora_alpha", "unet.target_modules"}
    assert (metadata["unet.r"], metadata["unet.lora_alpha"]) == (3, 6)
    assert metadata["unet.target_modules"] == sorted({k[5:].rpartition(".lora_")[0] for k in keys})


def test_averages_are_saved_in_place_of_live_values(models, tmp_path) -> None:
    student = train(student_of(models["sdxl"]))
    average = {name: value.detach() * 0.5 for name, value in student.trainable().items()}
    save_student(tmp_path / "s", student, recipe=recipe_of(), weights=average, dtype=torch.float32)
    stored = load_file(tmp_path / "s" / LORA)
    assert all(torch.equal(stored[f"unet.{name}"], value) for name, value in average.items())
    with pytest.raises(ValueError, match="names differ"):
        save_student(tmp_path / "s", student, recipe=recipe_of(), weights={"x": torch.zeros(1)})


@pytest.mark.parametrize("family", ["embedded", "sd15"])
def test_adapters_through_load_model(models, tmp_path, family) -> None:
    student = train(student_of(models[family], alpha=2))
    expected = output_of(student, family)
    save_student(tmp_path / "s", student, recipe=recipe_of(), dtype=torch.float32)
    loading = {"device": "cpu", "dtype": "float32"}
    bundle = load_model(ModelSpec(str(models[family]), student=str(tmp_path / "s"), **loading))
    assert (output_of(bundle.network.denoiser, family) - expected).abs().max() < 1e-4
    assert bundle.network.recipe == recipe_of()
    named = bundle.network.identity["student"]
    assert named["name"] == str(tmp_path / "s") and len(named["sha256"]) == 64
    other = load_model(ModelSpec(str(models[family]), **loading))
    assert "student" not in other.network.identity
    assert {k: v for k, v in bundle.network.identity.items() if k != "student"} == other.network.identity
    one = load_model(ModelSpec(str(models[family]), student=str(tmp_path / "s" / LORA), **loading))
    assert torch.equal(output_of(one.network.denoiser, family), output_of(bundle.network.denoiser, family))
    assert one.network.identity["student"]["sha256"] == named["sha256"]


@pytest.mark.parametrize("s_embedding", [False, True])
def test_full_weights_are_read_by_plain_diffusers_and_by_load_model(models, tmp_path, s_embedding) -> None:
    """The config names no place of this machine, and the run's folder is as good as the student's."""
    student = train(student_of(models["sdxl"], kind="full", has_target_time=s_embedding))
    target = {"target_time": 199.0} if s_embedding else {}
    expected = output_of(student, "sdxl", **target)
    recipe = recipe_of(s_embedding=s_embedding)
    save_student(tmp_path / "run" / "student", student, recipe=recipe, dtype=torch.float32)
    place = tmp_path / "run" / "student" / "unet"
    assert {p.name for p in place.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert str(tmp_path.parent) not in (place / "config.json").read_text()
    plain = UNet2DConditionModel.from_pretrained(place)
    extra = {}
    if s_embedding:
        halves = torch.exp(-torch.arange(128) / 128 * torch.log(torch.tensor(10000.0))) * 199
        extra["timestep_cond"] = torch.cat([halves.cos(), halves.sin()]).expand(2, -1)
    assert torch.allclose(plain_output(plain, "sdxl", **extra), expected, atol=1e-5)
    bundle = load_model(
        ModelSpec(str(models["sdxl"]), device="cpu", dtype="float32", student=str(tmp_path / "run"))
    )
    assert torch.allclose(output_of(bundle.network.denoiser, "sdxl", **target), expected, atol=1e-5)
    assert bundle.network.denoiser.has_target_time == s_embedding
    if s_embedding:
        elsewhere = output_of(bundle.network.denoiser, "sdxl", target_time=0)
        assert (elsewhere - expected).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["embedded", "sdxl"])
def test_adapters_that_see_their_target_have_a_file_beside_them(models, tmp_path, family) -> None:
    student = train(student_of(models[family], has_target_time=True), scale=0.03)
    expected = output_of(student, family, target_time=199.0)
    save_student(tmp_path / "s", student, recipe=recipe_of(s_embedding=True), dtype=torch.float32)
    assert {p.name for p in (tmp_path / "s").iterdir()} == {LORA, EMBEDDER, "recipe.json"}
    beside, inside = load_file(tmp_path / "s" / EMBEDDER), "time_embedding.cond_proj."
    assert {f"{inside}{n}" for n in beside} == {n for n in student.trainable() if n.startswith(inside)}
    assert all(torch.equal(v, student.trainable()[f"{inside}{n}"]) for n, v in beside.items())
    assert all(".lora_" in name for name in load_file(tmp_path / "s" / LORA))
    loading = {"device": "cpu", "dtype": "float32"}
    for name in (tmp_path / "s", tmp_path / "s" / LORA):
        network = load_model(ModelSpec(str(models[family]), student=str(name), **loading)).network
        assert torch.allclose(output_of(network.denoiser, family, target_time=199.0), expected, atol=1e-4)
        elsewhere = output_of(network.denoiser, family, target_time=0)
        assert (elsewhere - expected).abs().max() > 1e-3
    plain = load_model(ModelSpec(str(models[family]), **loading)).network.denoiser
    assert not hasattr(plain.network.time_embedding.cond_proj, "weight")
    before = network.identity["student"]["sha256"]
    save_file({n: v + 1 for n, v in beside.items()}, tmp_path / "s" / EMBEDDER)
    changed = load_model(ModelSpec(str(models[family]), student=str(tmp_path / "s"), **loading)).network
    assert changed.identity["student"]["sha256"] != before, "the file is part of what the student is"


def test_an_embedder_comes_back_to_the_bit(models, tmp_path) -> None:
    """Adapters are fused, which rounds; zero ones leave the embedder alone."""
    student = student_of(models["embedded"], has_target_time=True)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in student.trainable().items():
            if "cond_proj" in name:
                value += 0.1 * torch.randn(value.shape, generator=draw)
    save_student(tmp_path / "s", student, recipe=recipe_of(s_embedding=True), dtype=torch.float32)
    spec = ModelSpec(str(models["embedded"]), device="cpu", dtype="float32", student=str(tmp_path / "s"))
    denoiser = load_model(spec).network.denoiser
    outputs = [output_of(student, "embedded", target_time=time) for time in (0, 199, 599)]
    found = [output_of(denoiser, "embedded", target_time=time) for time in (0, 199, 599)]
    assert all(torch.equal(a, b) for a, b in zip(outputs, found, strict=True))
    assert not torch.equal(*outputs[:2])
    outline = load_model(spec, weights=False).network.denoiser
    assert outline.has_target_time and outline.network.time_embedding.cond_proj.linear_1.weight.is_meta


def test_an_embedder_that_is_not_right_is_refused(models, tmp_path) -> None:
    student = train(student_of(models["sd15"], has_target_time=True))
    save_student(tmp_path / "s", student, recipe=recipe_of(s_embedding=True))
    path, spec = tmp_path / "s" / EMBEDDER, ModelSpec(str(models["sd15"]), student=str(tmp_path / "s"))
    good = load_file(path)
    for tensors, what in (
        ({**good, "linear_2.bias": good["linear_2.bias"][1:]}, "does not fit the model"),
        ({k: v for k, v in good.items() if k != "linear_1.bias"}, "does not fit the model"),
        ({**good, "extra": good["linear_2.bias"] + 1}, "does not fit the model"),
        ({**good, "linear_2.bias": good["linear_2.bias"] * float("nan")}, "NaN or infinity"),
    ):
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
        with pytest.raises(ModelError, match=what):
            load_model(spec)
    path.write_bytes(b"cut short")
    with pytest.raises(ModelError, match="cannot read this weights file"):
        load_model(spec)
    path.unlink()
    with pytest.raises(ModelError, match="told where each step aims") as caught:
        load_model(spec)
    assert EMBEDDER in str(caught.value.where)


def test_a_student_that_sees_its_target_is_no_plain_lora(models, tmp_path) -> None:
    student = student_of(models["sd15"], has_target_time=True)
    save_student(tmp_path / "s", student, recipe=recipe_of(s_embedding=True))
    with pytest.raises(ModelError, match="which a LoRA is not") as caught:
        load_model(ModelSpec(str(models["sd15"]), loras=(str(tmp_path / "s"),)))
    assert caught.value.hint == f"--student {tmp_path / 's'}"


def test_full_weights_leave_the_style_adapter_alone(models, tmp_path) -> None:
    student = train(student_of(models["embedded"], kind="full"))
    expected = output_of(student, "embedded")
    save_student(tmp_path / "s", student, recipe=recipe_of(), dtype=torch.float32)
    stored = load_file(tmp_path / "s" / "unet" / "diffusion_pytorch_model.safetensors")
    assert stored.keys() == load_file(next((models["embedded"] / "unet").glob("*.safetensors"))).keys()
    bundle = load_model(
        ModelSpec(str(models["embedded"]), device="cpu", dtype="float32", student=str(tmp_path / "s"))
    )
    assert torch.allclose(output_of(bundle.network.denoiser, "embedded"), expected, atol=1e-5)


def test_pairs_see_the_same_target(models, tmp_path) -> None:
    student = train(student_of(models["sdxl"], kind="full", has_target_time=True))
    x, cond, uncond = latents_for("sdxl"), condition_for("sdxl"), condition_for("sdxl", seed=9)
    targets = torch.tensor([199, 0])
    with torch.no_grad():
        under, without = student._student.pair(x, T, cond, uncond, target_time=targets)
        assert torch.allclose(under, student(x, T, cond, target_time=targets), atol=1e-5)
        assert torch.allclose(without, student(x, T, uncond, target_time=targets), atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_student_of_another_network_is_refused(models, tmp_path, kind) -> None:
    save_student(tmp_path / "s", student_of(models["sd15"], kind=kind), recipe=recipe_of())
    with pytest.raises(ModelError, match=r"fit the model|another network") as caught:
        load_model(ModelSpec(str(models["sdxl"]), device="cpu", student=str(tmp_path / "s")))
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("change", ["more", "less", "shape"])
def test_every_tensor_of_full_weights_must_fit(models, tmp_path, change) -> None:
    save_student(tmp_path / "s", student_of(models["sdxl"], kind="full"), recipe=recipe_of())
    path = tmp_path / "s" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    if change == "more":
        tensors["extra.weight"] = torch.zeros(2)
    elif change == "less":
        del tensors["conv_out.bias"]
    else:
        tensors["conv_out.bias"] = torch.zeros(5)
    save_file(tensors, path)
    with pytest.raises(ModelError, match="does not fit") as caught:
        load_model(ModelSpec(str(models["sdxl"]), device="cpu", student=str(tmp_path / "s")))
    named = "extra.weight" if change == "more" else "conv_out.bias"
    assert named in caught.value.got


def test_the_same_shapes_with_other_heads_are_refused(models, tmp_path) -> None:
    save_student(tmp_path / "s", student_of(models["sdxl"], kind="full"), recipe=recipe_of())
    path = tmp_path / "s" / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_head_dim": [2, 2, 2]}))
    with pytest.raises(ModelError, match="another network") as caught:
        load_model(ModelSpec(str(models["sdxl"]), device="cpu", student=str(tmp_path / "s")))
    assert "attention_head_dim" in caught.value.got


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_truncated_file_is_refused_before_the_model_is_read(models, tmp_path, kind, monkeypatch) -> None:
    save_student(tmp_path / "s", student_of(models["sd15"], kind=kind), recipe=recipe_of())
    (path,) = (tmp_path / "s").rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged, cut short"):
        load_model(ModelSpec("no-such-model", device="cpu", student=str(tmp_path / "s")))


def test_network_and_recipe_must_agree_about_the_target(models, tmp_path) -> None:
    """A guidance embedding (LCM) looks the same as an s-embedding: only the recipe tells."""
    student = student_of(models["sdxl"], kind="full", has_target_time=True)
    with pytest.raises(ValueError, match="s_embedding False, the network True"):
        save_student(tmp_path / "s", student, recipe=recipe_of())
    save_student(tmp_path / "s", student, recipe=recipe_of(s_embedding=True))
    (tmp_path / "s" / "recipe.json").unlink()
    with pytest.raises(ModelError, match="contradict") as caught:
        load_model(ModelSpec(str(models["sdxl"]), device="cpu", student=str(tmp_path / "s")))
    assert "LCM" in caught.value.hint


def test_student_then_lora_then_recipes(models, tmp_path) -> None:
    """Both are fused; the student's recipe wins over the LoRA's; without one there is a note."""
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    student = train(student_of(models["embedded"], alpha=2))
    save_student(tmp_path / "s", student, recipe=recipe_of(), dtype=torch.float32)
    lora = save_tiny_lora(tmp_path / "l" / "a.safetensors", models["embedded"], alpha=2)
    (tmp_path / "l" / "recipe.json").write_text(Recipe(steps=9).model_dump_json())
    options = {"device": "cpu", "dtype": "float32", "student": str(tmp_path / "s"), "loras": [str(lora)]}
    both = load_model(ModelSpec(str(models["embedded"]), **options))
    assert both.network.recipe == recipe_of()
    assert both.network.notes == []
    weight = load_file(next((models["embedded"] / "unet").glob("*.safetensors")))[f"{layer}.weight"]
    for file, factor in ((tmp_path / "s" / LORA, 2 / 3), (lora, 1)):
        pair = load_file(file)
        weight = weight + factor * pair[f"unet.{layer}.lora_B.weight"] @ pair[f"unet.{layer}.lora_A.weight"]
    assert torch.allclose(both.network.denoiser.network.get_submodule(layer).weight, weight, atol=1e-5)
    (tmp_path / "s" / "recipe.json").unlink()
    bare = load_model(ModelSpec(str(models["embedded"]), **options))
    assert bare.network.recipe.steps == 9
    assert any("brings no recipe" in note for note in bare.network.notes)


@pytest.mark.parametrize("fault", ["write", "rename"])
def test_a_failed_save_leaves_the_old_student(models, tmp_path, fault, monkeypatch) -> None:
    student = student_of(models["sd15"])
    save_student(tmp_path / "s", student, recipe=recipe_of())
    before = {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()}
    real = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.name == ".s.part":
            raise OSError(28, "No space left on device")
        return real(self, target)

    if fault == "rename":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(ResourceError, match="cannot be written"):
        save_student(tmp_path / "s", train(student), recipe=recipe_of())
    assert {p.name: p.read_bytes() for p in (tmp_path / "s").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_replaced_student_leaves_nothing_behind(models, tmp_path) -> None:
    save_student(tmp_path / "s", student_of(models["sd15"], kind="full"), recipe=recipe_of())
    save_student(tmp_path / "s", student_of(models["sd15"]), recipe=recipe_of())
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [LORA, "recipe.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_what_float16_cannot_hold_is_an_error(models, tmp_path) -> None:
    student = student_of(models["sd15"])
    next(iter(student.trainable().values())).data[0] = 1e6
    with pytest.raises(NumericsError, match="NaN or infinite"):
        save_student(tmp_path / "s", student, recipe=recipe_of())
    assert not (tmp_path / "s").exists()


@pytest.fixture
def built(monkeypatch) -> set[type]:
    """Class of every module that is made, even if it is gone at the end."""
    seen: set[type] = set()
    original = torch.nn.Module.__init__

    def kept(self, *args, **kwargs):
        seen.add(type(self))
        original(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__init__", kept)
    return seen


@pytest.mark.parametrize("family", ["embedded", "sd15", "sdxl"])
def test_a_denoiser_comes_alone_and_knows_the_whole_model(models, tmp_path, built, family) -> None:
    model = models[family]
    if family != "embedded":
        model = add_style_adapter(Path(shutil.copytree(model, tmp_path / family)))
    whole = load_model(ModelSpec(str(model), device="cpu", dtype="float32"), styles=True)
    whole.network.style.load()
    expected, identity = (
        output_of(whole.network.denoiser, family) if family == "embedded" else None,
        whole.network.identity,
    )
    schedule, rest = (
        whole.network.schedule.fingerprint(),
        (whole.network.prediction, whole.network.recipe, whole.network.dtype),
    )
    weights = {k: v.clone() for k, v in whole.network.denoiser.network.state_dict().items()}
    others = {PatchAutoencoder, AutoencoderKL, CLIPTextModel, CLIPVisionModelWithProjection}
    assert built & others
    built.clear()
    alone = load_denoiser(ModelSpec(str(model), device="cpu", dtype="float32"), styles=True)
    assert not built & others and UNet2DConditionModel in built
    assert alone.identity == identity
    assert alone.schedule.fingerprint() == schedule
    assert (alone.prediction, alone.recipe, alone.dtype) == rest
    assert not any(p.requires_grad for p in alone.denoiser.network.parameters())
    state = alone.denoiser.network.state_dict()
    assert state.keys() == weights.keys() and all(torch.equal(v, weights[k]) for k, v in state.items())
    if expected is not None:
        assert torch.equal(output_of(alone.denoiser, family), expected)


def test_a_denoiser_of_a_single_file(models, tmp_path) -> None:
    file = save_tiny_checkpoint(tmp_path / "m.safetensors", models["sd15"])
    options = {"base": str(models["sd15"]), "device": "cpu", "dtype": "float32"}
    alone, whole = load_denoiser(ModelSpec(str(file), **options)), load_model(ModelSpec(str(file), **options))
    assert alone.identity == whole.network.identity
    assert torch.equal(output_of(alone.denoiser, "sd15"), output_of(whole.network.denoiser, "sd15"))


def test_a_denoiser_comes_from_the_files_that_are_named(tmp_path) -> None:
    """A bank built in half precision names the half files; training in float32 must find the same."""
    folder = save_tiny_sd15(tmp_path / "both")
    for plain in list(folder.rglob("*.safetensors")):
        tensors = {name: value.half() for name, value in load_file(plain).items()}
        save_file(tensors, plain.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    plain, half = (
        load_denoiser(ModelSpec(str(folder), device="cpu", dtype="float32"), half=h) for h in (False, True)
    )
    as_built = load_model(ModelSpec(str(folder), device="cpu", dtype="bfloat16")).network.identity
    assert half.identity == as_built and plain.identity["unet_sha256"] != as_built["unet_sha256"]
    assert load_denoiser(ModelSpec(str(folder), device="cpu", dtype="float32")).identity == plain.identity
    weight = half.denoiser.network.conv_in.weight
    assert weight.dtype == torch.float32 and torch.equal(
        weight, plain.denoiser.network.conv_in.weight.half().float()
    )
