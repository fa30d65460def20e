"""Metrics that use networks, with small random ones, against the same thing written plainly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, ViTModel

from stdcli.errors import MediaError
from stdcli.metrics.luminance import shrink
from stdcli.metrics.metric import Subject
from stdcli.metrics.preparation import BATCH, clip_input, square_input
from stdcli.metrics.registry import find_metric
from stdcli.models.perceptual.aesthetic import INDICES
from stdcli.models.perceptual.backbones import LoadedBackbones
from stdcli.models.perceptual.convolutions import ALEXNET, VGG19
from stdcli.models.perceptual.csd import load_csd
from stdcli.models.perceptual.pth import read_published
from tests import tiny_backbones as tiny

NAMES = ["aesthetic", "clip-i", "clip-t", "csd", "gram", "lpips", "structure"]


def pictures(count: int, *, seed: int, size: tuple[int, int] = (48, 40)) -> np.ndarray:
    """Noise with large blotches, uint8 [count, H, W, 3]."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (count, 5, 4, 3), dtype=np.uint8)
    scaled = [np.asarray(Image.fromarray(p).resize(size[::-1], Image.Resampling.BICUBIC)) for p in coarse]
    noise = draw.integers(-30, 30, (count, *size, 3))
    return np.clip(np.stack(scaled) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("weights")
    alexnet = tiny.save_convolutions(place / "alexnet.pth", ALEXNET)
    return {
        "clip": tiny.save_clip(place / "clip"),
        "csd": tiny.save_csd(place / "csd.pth"),
        "aesthetic": tiny.save_aesthetic(place / "aesthetic.pth"),
        "dino": tiny.save_dino(place / "dino"),
        "alexnet": alexnet,
        "lpips-alex": tiny.save_lpips(place / "lpips.pth"),
        "gram-backbone": alexnet,
    }


@pytest.fixture(scope="module")
def backbones(weights: dict[str, Path]) -> LoadedBackbones:
    return LoadedBackbones({name: str(path) for name, path in weights.items()}, device="cpu", offline=True)


@pytest.fixture
def subject() -> Subject:
    styles = (*pictures(1, seed=3, size=(36, 52)), *pictures(1, seed=4, size=(70, 44)))
    return Subject(pictures(2, seed=1), pictures(2, seed=2), styles, prompt="an ink drawing")


def measure(name: str, subject: Subject, backbones: LoadedBackbones) -> float:
    return find_metric(name).measure(subject, backbones)


def as_clip_takes_them(found: np.ndarray | tuple[np.ndarray, ...]) -> Tensor:
    """As transformers prepares pictures for CLIP; where the crop is not even, it rounds another way."""
    prepare = CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, do_convert_rgb=True
    )
    return prepare(list(found), return_tensors="pt")["pixel_values"]


def cosines(one: Tensor, other: Tensor) -> Tensor:
    return functional.normalize(one, dim=1) @ functional.normalize(other, dim=1).T


def test_csd(weights: dict[str, Path], backbones: LoadedBackbones, subject: Subject) -> None:
    network = load_csd(weights["csd"]).eval()
    with torch.no_grad():
        result, style = (network(as_clip_takes_them(p))[0] for p in (subject.frames, subject.styles))
    assert measure("csd", subject, backbones) == pytest.approx(float(cosines(result, style).mean()), abs=1e-5)


def test_clip_i_and_clip_t(weights: dict[str, Path], backbones: LoadedBackbones, subject: Subject) -> None:
    model = CLIPModel.from_pretrained(weights["clip"]).eval()
    tokens = CLIPTokenizer.from_pretrained(weights["clip"])([subject.prompt], return_tensors="pt")
    with torch.no_grad():
        result, content = (
            model.get_image_features(as_clip_takes_them(p)).pooler_output
            for p in (subject.frames, subject.content)
        )
        prompt = model.get_text_features(**tokens).pooler_output
    expected = float(cosines(result, content).diagonal().mean())
    assert measure("clip-i", subject, backbones) == pytest.approx(expected, abs=1e-5)
    assert measure("clip-t", subject, backbones) == pytest.approx(
        float(cosines(result, prompt).mean()), abs=1e-5
    )


def test_aesthetic(weights: dict[str, Path], backbones: LoadedBackbones, subject: Subject) -> None:
    model, head = CLIPModel.from_pretrained(weights["clip"]).eval(), read_published(weights["aesthetic"])
    with torch.no_grad():
        x = functional.normalize(model.get_image_features(as_clip_takes_them(subject.frames)).pooler_output)
        for place in INDICES:
            x = x @ head[f"layers.{place}.weight"].T + head[f"layers.{place}.bias"]
    assert measure("aesthetic", subject, backbones) == pytest.approx(float(x.mean()), abs=1e-5)


def test_lpips(weights: dict[str, Path], backbones: LoadedBackbones, subject: Subject) -> None:
    net, heads = read_published(weights["alexnet"]), read_published(weights["lpips-alex"])

    def features(picture: np.ndarray) -> list[Tensor]:
        x = torch.from_numpy(picture).permute(2, 0, 1)[None].double() / 127.5 - 1
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x, found = (x - shift[:, None, None]) / scale[:, None, None], []
        for index, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
            x = functional.max_pool2d(x, 3, 2) if index in (3, 6) else x
            weight, bias = (net[f"features.{index}.{kind}"].double() for kind in ("weight", "bias"))
            x = functional.conv2d(x, weight, bias, stride=stride, padding=padding).relu()
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    expected = 0.0
    for result, content in zip(subject.frames, subject.content, strict=True):
        for i, (a, b) in enumerate(zip(features(result), features(content), strict=True)):
            expected += float(
                functional.conv2d((a - b) ** 2, heads[f"lin{i}.model.1.weight"].double()).mean()
                / len(subject.frames)
            )
    assert measure("lpips", subject, backbones) == pytest.approx(expected, rel=1e-4)


def test_structure(weights: dict[str, Path], backbones: LoadedBackbones, subject: Subject) -> None:
    model, keys = ViTModel.from_pretrained(weights["dino"], add_pooling_layer=False).eval(), []
    model.layers[-1].attention.k_proj.register_forward_hook(lambda module, given, out: keys.append(out[0]))
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = []
    for pair in zip(subject.frames, subject.content, strict=True):
        keys.clear()
        for picture in pair:
            image = Image.fromarray(picture).resize((32, 32), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy((np.asarray(image) / 255 - mean) / deviation).permute(2, 0, 1)
            with torch.no_grad():
                model(pixels[None].float())
        one, other = (cosines(k, k) for k in keys)
        assert one.shape == (17, 17)
        expected.append(float((one - other).square().mean()))
    assert measure("structure", subject, backbones) == pytest.approx(np.mean(expected), rel=1e-4)
    assert expected[0] > 1e-4


@pytest.mark.parametrize("plan", [ALEXNET, VGG19], ids=["alexnet", "vgg19"])
def test_gram(plan, weights: dict[str, Path], tmp_path: Path, subject: Subject) -> None:
    path = weights["alexnet"] if plan is ALEXNET else tiny.save_convolutions(tmp_path / "vgg.pth", plan)
    backbones = LoadedBackbones({"gram-backbone": str(path)}, device="cpu", offline=True)
    stack = backbones.get("gram-backbone").network
    taps = [0, 1, 2, 3, 4] if plan is ALEXNET else [0, 2, 4, 8, 12]

    def grams(picture: np.ndarray) -> list[np.ndarray]:
        mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        pixels = torch.from_numpy((picture / 255 - mean) / deviation).permute(2, 0, 1)[None].float()
        layers = [stack(pixels)[tap][0].double().numpy() for tap in taps]
        return [np.tensordot(layer, layer, ((1, 2), (1, 2))) / layer[0].size for layer in layers]

    # the result's shorter side is 40: the first style's, 36, is left alone; the second's, 44, is not
    styles = [grams(subject.styles[0])]
    small = Image.fromarray(subject.styles[1]).resize((40, round(40 * 70 / 44)), Image.Resampling.LANCZOS)
    styles.append(grams(np.asarray(small)))
    expected = [
        np.mean([((a - b) ** 2).sum() / (4 * len(a) ** 2) for a, b in zip(grams(frame), style, strict=True)])
        for frame in subject.frames
        for style in styles
    ]
    assert measure("gram", subject, backbones) == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_metric_says_what_it_is(name: str) -> None:
    metric = find_metric(name)
    assert metric.name == name and metric.protocol and metric.cite and metric.backbones


@pytest.mark.parametrize(
    ("name", "best"), [("clip-i", 1), ("csd", 1), ("gram", 0), ("lpips", 0), ("structure", 0)]
)
def test_identity_gives_the_best_value(name: str, best: int, backbones: LoadedBackbones) -> None:
    frames = pictures(1, seed=5)
    same = Subject(frames, frames, tuple(frames))
    assert measure(name, same, backbones) == pytest.approx(best, abs=1e-6)
    metric = find_metric(name)
    assert best == (metric.highest if metric.better == "higher" else metric.lowest)


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_over_frames_and_styles_in_any_order(
    name: str, backbones: LoadedBackbones, subject: Subject
) -> None:
    num = BATCH + 3
    frames, content = pictures(num, seed=6), pictures(num, seed=7)
    clip = replace(subject, frames=frames, content=content, fps=24.0)
    value = measure(name, clip, backbones)
    singles = [
        measure(
            name,
            replace(clip, frames=frames[i : i + 1], content=content[i : i + 1], styles=(style,)),
            backbones,
        )
        for i in range(num)
        for style in clip.styles
    ]
    assert value == pytest.approx(np.mean(singles), rel=1e-4, abs=1e-6)
    assert max(singles) - min(singles) > 1e-4
    turned = replace(clip, frames=frames[::-1], content=content[::-1], styles=clip.styles[::-1])
    assert measure(name, turned, backbones) == pytest.approx(value, rel=1e-4, abs=1e-6)
    assert measure(name, clip, backbones) == value


@pytest.mark.parametrize(("name", "size"), [("lpips", "40x30"), ("gram", "43x30")])
def test_pictures_too_small(name: str, size: str, backbones: LoadedBackbones, subject: Subject) -> None:
    small = replace(subject, frames=subject.frames[:, :30], content=subject.content[:, :30])
    with pytest.raises(MediaError, match="too small for AlexNet") as caught:
        measure(name, small, backbones)
    assert caught.value.got == f"{size} pixels"  # gram: of the first style, shrunk to the result


@pytest.mark.parametrize(("width", "left"), [(28, 0), (29, 0), (30, 1), (31, 2), (32, 2), (33, 2), (35, 4)])
def test_the_crop_of_clip_is_where_torchvision_has_it(width: int, left: int) -> None:
    (picture,) = pictures(1, seed=8, size=(28, width))
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    expected = (picture[:, left : left + 28] / 255 - mean) / deviation
    np.testing.assert_allclose(clip_input(picture, 28).permute(1, 2, 0), expected, atol=1e-5)
    np.testing.assert_allclose(clip_input(picture.swapaxes(0, 1), 28).permute(2, 1, 0), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(48, 40), (30, 90), (91, 131), (20, 12)])
def test_clip_input_is_that_of_clip(size: tuple[int, int]) -> None:
    (picture,) = pictures(1, seed=9, size=size)
    assert int(28 * max(size) / min(size)) % 4 != 3, "transformers rounds this crop down"
    torch.testing.assert_close(clip_input(picture, 28), as_clip_takes_them(picture[None])[0])


def test_sizes() -> None:
    (picture,) = pictures(1, seed=10, size=(60, 90))
    assert shrink(picture, 40).shape == (40, 60, 3)
    assert shrink(picture, 60) is picture and shrink(picture, 400) is picture
    assert square_input(picture, 16).shape == (3, 16, 16)
