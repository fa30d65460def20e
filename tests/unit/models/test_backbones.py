"""Networks of metrics: found, loaded, refused; what is missing says how to get it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPModel, CLIPTokenizer, ViTModel

from stdcli.errors import ConfigError, HubError, MediaError, MissingWeights, ModelError
from stdcli.models.perceptual.aesthetic import SHAPES, load_aesthetic
from stdcli.models.perceptual.backbones import BACKBONES, LoadedBackbones
from stdcli.models.perceptual.convolutions import ALEXNET, VGG19, load_convolutions
from stdcli.models.perceptual.pth import read_published
from tests import tiny_backbones as tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FETCH = {
    "clip": 'hf download openai/clip-vit-large-patch14 --include "config.json" --include "model.safetensors" '
    '--include "tokenizer.json" --include "tokenizer_config.json"',
    "csd": 'hf download tomg-group-umd/CSD-ViT-L --include "pytorch_model.bin"',
    "aesthetic": "curl -L -o sac+logos+ava1-l14-linearMSE.pth https://github.com/christophschuhmann/"
    "improved-aesthetic-predictor/raw/main/sac+logos+ava1-l14-linearMSE.pth"
    "  # then: --weights aesthetic=sac+logos+ava1-l14-linearMSE.pth",
    "dino": 'hf download facebook/dino-vitb8 --include "config.json" --include "model.safetensors" '
    '--include "pytorch_model.bin"',
    "alexnet": "curl -L -o alexnet-owt-7be5be79.pth https://download.pytorch.org/models/"
    "alexnet-owt-7be5be79.pth  # then: --weights alexnet=alexnet-owt-7be5be79.pth",
    "lpips-alex": "curl -L -o lpips-alex.pth https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/"
    "master/lpips/weights/v0.1/alex.pth  # then: --weights lpips-alex=lpips-alex.pth",
    "gram-backbone": "curl -L -o vgg19-dcbb9e9d.pth https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
    "  # then: --weights gram-backbone=vgg19-dcbb9e9d.pth",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("weights")
    paths = {
        "clip": tiny.save_clip(place / "clip"),
        "csd": tiny.save_csd(place / "csd.pth"),
        "aesthetic": tiny.save_aesthetic(place / "aesthetic.pth"),
        "dino": tiny.save_dino(place / "dino"),
        "alexnet": tiny.save_convolutions(place / "alexnet.pth", ALEXNET),
        "lpips-alex": tiny.save_lpips(place / "lpips.pth"),
    }
    paths["gram-backbone"] = paths["alexnet"]
    return {name: str(path) for name, path in paths.items()}


def get(name: str, place: str | Path):
    return LoadedBackbones({name: str(place)}, device="cpu", offline=True).get(name)


def test_missing_weights_name_the_line_that_fetches_them() -> None:
    nothing = LoadedBackbones({}, device="cpu", offline=False)
    assert BACKBONES.keys() == FETCH.keys()
    for name, line in FETCH.items():
        with pytest.raises(MissingWeights, match="are not on this machine") as caught:
            nothing.get(name)
        assert caught.value.fetch == caught.value.hint == line
        assert caught.value.exit_code == 4


def test_networks_are_frozen_hashed_and_loaded_once(weights: dict[str, str]) -> None:
    backbones = LoadedBackbones(weights, device="cpu", offline=True)
    for name in sorted(FETCH):
        found = backbones.get(name)
        assert backbones.get(name) is found
        assert not any(module.training for module in found.network.modules())
        tensors = [
            *found.network.parameters(),
            *(b for b in found.network.buffers() if b.is_floating_point()),
        ]
        assert tensors and {(t.dtype, t.requires_grad, t.device.type) for t in tensors} == {
            (torch.float32, False, "cpu")
        }
        path = Path(weights[name])
        file = path / "model.safetensors" if path.is_dir() else path
        assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert found.device == torch.device("cpu")


def test_unknown_names() -> None:
    with pytest.raises(ConfigError) as caught:
        LoadedBackbones({"cds": "x", "csd": "y"}, device="cpu", offline=True)
    ((path, message),) = caught.value.problems
    assert path == "weights.cds" and "csd" in message


@pytest.mark.parametrize("name", sorted(FETCH))
def test_a_given_path_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(ModelError, match="no such"):
        get(name, "./gone")


@pytest.mark.parametrize("name", ["csd", "aesthetic", "alexnet", "lpips-alex", "gram-backbone"])
def test_the_weights_of_something_else_are_an_error(name: str, tmp_path: Path) -> None:
    torch.save({"x": torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(ModelError):
        get(name, tmp_path / "x.pth")


def cached(place: Path, repo: str, files: Path) -> Path:
    """A repository in a Hub cache."""
    root = place / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    shutil.copytree(files, root / "snapshots" / COMMIT)
    return root / "snapshots" / COMMIT


def test_the_hub_cache_is_looked_at(
    weights: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    csd = tmp_path / "csd"
    csd.mkdir()
    shutil.copy(weights["csd"], csd / "pytorch_model.bin")
    cached(tmp_path / "hub", "tomg-group-umd/CSD-ViT-L", csd)
    clip = cached(tmp_path / "hub", "openai/clip-vit-large-patch14", Path(weights["clip"]))
    assert LoadedBackbones({}, device="cpu", offline=True).get("csd").network.size == 28
    assert LoadedBackbones({}, device="cpu", offline=True).get("clip").network.size == 28
    named = get("csd", f"tomg-group-umd/CSD-ViT-L/pytorch_model.bin@{COMMIT}")
    assert named.sha256 == hashlib.sha256(Path(weights["csd"]).read_bytes()).hexdigest()
    (clip / "tokenizer.json").unlink()  # half a download is not there yet
    with pytest.raises(MissingWeights):
        LoadedBackbones({}, device="cpu", offline=True).get("clip")
    with pytest.raises(ModelError, match="not complete"):
        get("clip", clip)


@pytest.mark.parametrize("name", ["o/n/gone.pth", "tomg-group-umd/CSD-ViT-L/gone.bin"])
def test_a_named_file_of_the_hub_that_is_not_cached(name: str) -> None:
    with pytest.raises(HubError):
        get("csd", name)


def test_clip_embeds_as_transformers_does(weights: dict[str, str]) -> None:
    network = get("clip", weights["clip"]).network
    model = CLIPModel.from_pretrained(weights["clip"]).eval()
    tokenizer = CLIPTokenizer.from_pretrained(weights["clip"])
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    texts = ["a cat", "x" * 200]
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        pooled = model.vision_model(pixels).pooler_output @ model.visual_projection.weight.T
        torch.testing.assert_close(network.embed_pictures(pixels), pooled)
        words = model.text_model(**tokens).pooler_output @ model.text_projection.weight.T
        torch.testing.assert_close(network.embed_texts(texts), words, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(network.embed_texts(["a cat"]), words[:1], atol=1e-5, rtol=1e-5)


def test_clip_that_does_not_fit(weights: dict[str, str], tmp_path: Path) -> None:
    folder = shutil.copytree(weights["clip"], tmp_path / "clip")
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if k != "visual_projection.weight"}, folder / "model.safetensors"
    )
    with pytest.raises(ModelError, match="lacks tensors") as caught:
        get("clip", folder)
    assert caught.value.expected == "visual_projection.weight"
    shutil.copy(Path(weights["clip"]) / "model.safetensors", folder)
    CLIPTokenizer(vocab={"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}, merges=[]).save_pretrained(folder)
    with pytest.raises(ModelError, match="tokenizer does not belong"):
        get("clip", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "siglip"}))
    with pytest.raises(ModelError, match="not a CLIP model"):
        get("clip", folder)


@pytest.mark.parametrize("is_safe", [True, False], ids=["safetensors", "first-release"])
def test_the_keys_are_those_of_the_last_layer(tmp_path: Path, is_safe: bool) -> None:
    network = get("dino", tiny.save_dino(tmp_path, is_safe=is_safe)).network
    model = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False, use_safetensors=is_safe).eval()
    found = []
    model.layers[2].attention.k_proj.register_forward_hook(lambda module, given, keys: found.append(keys))
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(pixels)
        keys = network(pixels)
    assert keys.shape == (2, 17, 32)
    torch.testing.assert_close(keys, found[0])
    torch.testing.assert_close(
        model.layers[2].attention.k_proj.weight, network.model.layers[2].attention.k_proj.weight
    )


def test_dino_that_does_not_fit(tmp_path: Path) -> None:
    tiny.save_dino(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = "layers.2.attention.k_proj.bias"
    stored = next(
        n for n in tensors if n.endswith(("2.attention.k_proj.bias", "2.attention.attention.key.bias"))
    )
    save_file({k: v for k, v in tensors.items() if k != stored}, path)
    with pytest.raises(ModelError, match="lacks tensors") as caught:
        get("dino", tmp_path)
    assert caught.value.expected == name
    save_file(tensors | {"pooler.dense.bias": torch.zeros(32)}, path)
    get("dino", tmp_path)
    save_file(tensors | {"register_tokens": torch.zeros(32)}, path)
    with pytest.raises(ModelError, match="not the tensors of DINO"):
        get("dino", tmp_path)


def test_the_folded_head_is_the_published_layers(weights: dict[str, str]) -> None:
    layers = nn.Sequential(
        nn.Linear(768, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )
    stored = read_published(Path(weights["aesthetic"]))
    layers.load_state_dict({name.removeprefix("layers."): value for name, value in stored.items()})
    head = load_aesthetic(Path(weights["aesthetic"]))
    embeds = torch.randn(5, 768, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = layers.eval()(embeds / embeds.norm(dim=1, keepdim=True))[:, 0]
    torch.testing.assert_close(head(embeds), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head(37 * embeds), head(embeds))
    assert SHAPES["layers.7.weight"] == (1, 16) and len(SHAPES) == 10


PUBLISHED = {  # of torchvision: index and shape of each convolution
    "alexnet": {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)},
    "vgg19": {
        index: (width, given, 3)
        for index, given, width in zip(
            (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
            (3, 64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512, 512),
            (64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512, 512, 512),
            strict=True,
        )
    },
}
FORM = {
    "alexnet": ({0: (4, 2), 3: (1, 2)}, (2, 5), 3),
    "vgg19": ({}, (4, 9, 18, 27), 2),
}  # stride, padding; pools


@pytest.mark.parametrize("name", ["alexnet", "vgg19"])
def test_features_as_published(name: str, tmp_path: Path) -> None:
    plan = {"alexnet": ALEXNET, "vgg19": VGG19}[name]
    path = tiny.save_convolutions(tmp_path / "x.pth", plan)
    stack, stored = load_convolutions(path), read_published(path)
    shapes = {index: tuple(stored[f"features.{index}.weight"].shape[:3]) for index in PUBLISHED[name]}
    assert shapes == PUBLISHED[name]
    assert sum(key.startswith("features.") for key in stored) == 2 * len(shapes)
    x = torch.randn(1, 3, 45, 37, generator=torch.Generator().manual_seed(0))
    found = stack(x)
    steps, pools, window = FORM[name]
    for number, index in enumerate(PUBLISHED[name]):
        if index - 1 in pools:
            x = nn.functional.max_pool2d(x, window, 2)
        weight, bias = stored[f"features.{index}.weight"], stored[f"features.{index}.bias"]
        stride, padding = steps.get(index, (1, 1))
        x = nn.functional.conv2d(x, weight, bias, stride, padding).relu()
        torch.testing.assert_close(found[number], x)
    assert number + 1 == len(found)
    side = plan.smallest
    assert min(stack(torch.zeros(1, 3, side, side + 9))[-1].shape) == 1
    with pytest.raises(MediaError, match=f"too small for {plan.title}"):
        stack(torch.zeros(1, 3, side + 9, side - 1))
    with pytest.raises(RuntimeError):  # what that spares the user
        stack.features(torch.zeros(1, 3, side + 9, side - 1 if name == "alexnet" else 15))


def test_networks_that_are_neither(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="neither AlexNet nor VGG-19"):
        load_convolutions(tmp_path / "x.pth")
    stored = read_published(tiny.save_convolutions(tmp_path / "x.pth", ALEXNET))
    torch.save(stored | {"features.1.running_mean": torch.zeros(64)}, tmp_path / "x.pth")  # batch norm
    with pytest.raises(ModelError, match="do not belong"):
        load_convolutions(tmp_path / "x.pth")
