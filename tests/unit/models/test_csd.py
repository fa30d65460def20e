"""CSD from its published names, against the same arithmetic written plainly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionConfig

from stdcli.errors import ModelError
from stdcli.models.perceptual.csd import load_csd, published_shapes
from tests.tiny_backbones import csd_tensors, save_csd


def plainly(tensors: dict[str, Tensor], pixels: Tensor, *, heads: int) -> tuple[Tensor, Tensor]:
    """Style and content straight from OpenAI's names, as in the paper's code."""
    t = {name.removeprefix("backbone."): value for name, value in tensors.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], eps=1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    x = functional.conv2d(pixels, t["conv1.weight"], stride=t["conv1.weight"].shape[-1]).flatten(2).mT
    x = torch.cat([t["class_embedding"].expand(len(x), 1, -1), x], dim=1) + t["positional_embedding"]
    x = norm(x, "ln_pre")
    block = 0
    while f"transformer.resblocks.{block}.ln_1.weight" in t:
        at = f"transformer.resblocks.{block}."
        qkv = norm(x, f"{at}ln_1") @ t[f"{at}attn.in_proj_weight"].T + t[f"{at}attn.in_proj_bias"]
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), f"{at}attn.out_proj")
        inner = linear(norm(x, f"{at}ln_2"), f"{at}mlp.c_fc")
        x = x + linear(inner * torch.sigmoid(1.702 * inner), f"{at}mlp.c_proj")
        block += 1
    pooled = norm(x[:, 0], "ln_post")
    return tuple(
        functional.normalize(pooled @ t[f"last_layer_{what}"], dim=1) for what in ("style", "content")
    )


def test_style_and_content_as_the_published_arithmetic_has_them(tmp_path: Path) -> None:
    network = load_csd(save_csd(tmp_path / "csd.pth"))
    pixels = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = network.eval()(pixels)
    for one, other in zip(found, plainly(csd_tensors(), pixels, heads=2), strict=True):
        assert one.shape == (3, 24)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
        torch.testing.assert_close(one.norm(dim=1), torch.ones(3))
    assert network.size == 28
    assert not torch.allclose(found[0], found[1], atol=0.1)


def test_names_and_shapes_of_the_published_checkpoint() -> None:
    tower = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
    )
    found = published_shapes(tower, 768)
    # OpenAI's ViT-L/14 tower: 24 blocks of 12 tensors, 3 embeddings, 2 norms; proj became the two heads
    assert len(found) == 24 * 12 + 3 + 4 + 2
    with torch.device("meta"):
        count = sum(torch.empty(shape).numel() for shape in found.values())
    assert count == 303_966_208 + 1024 * 768  # the tower with one projection, and one more
    some = {
        "last_layer_style": (1024, 768),
        "last_layer_content": (1024, 768),
        "backbone.class_embedding": (1024,),
        "backbone.positional_embedding": (257, 1024),
        "backbone.conv1.weight": (1024, 3, 14, 14),
        "backbone.ln_pre.bias": (1024,),
        "backbone.ln_post.weight": (1024,),
        "backbone.transformer.resblocks.0.attn.in_proj_weight": (3072, 1024),
        "backbone.transformer.resblocks.0.attn.in_proj_bias": (3072,),
        "backbone.transformer.resblocks.7.attn.out_proj.weight": (1024, 1024),
        "backbone.transformer.resblocks.7.attn.out_proj.bias": (1024,),
        "backbone.transformer.resblocks.23.mlp.c_fc.weight": (4096, 1024),
        "backbone.transformer.resblocks.23.mlp.c_fc.bias": (4096,),
        "backbone.transformer.resblocks.23.mlp.c_proj.weight": (1024, 4096),
        "backbone.transformer.resblocks.23.mlp.c_proj.bias": (1024,),
        "backbone.transformer.resblocks.23.ln_1.weight": (1024,),
        "backbone.transformer.resblocks.23.ln_2.bias": (1024,),
    }
    assert {name: found.get(name) for name in some} == some


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("last_layer_style", "last_layer_style"),
        ("last_layer_content", "last_layer_content"),
        ("backbone.conv1.weight", "backbone.conv1.weight"),
        ("backbone.ln_post.bias", "backbone.ln_post.bias"),
        ("backbone.transformer.resblocks.0.attn.in_proj_bias", "resblocks.0.attn.in_proj_bias"),
    ],
)
def test_missing_tensors_are_named(tmp_path: Path, gone: str, named: str) -> None:
    tensors = csd_tensors()
    del tensors[gone]
    with pytest.raises(ModelError, match="this CSD file lacks tensors") as caught:
        load_csd(save_csd(tmp_path / "csd.pth", tensors))
    assert named in caught.value.expected


def test_a_whole_block_that_is_missing_counts(tmp_path: Path) -> None:
    tensors = {name: v for name, v in csd_tensors().items() if "resblocks.0" not in name or "c_fc" in name}
    with pytest.raises(ModelError, match="lacks tensors") as caught:
        load_csd(save_csd(tmp_path / "csd.pth", tensors))
    assert caught.value.expected.endswith("and 7 more")


@pytest.mark.parametrize("name", ["last_layer_style", "last_layer_content", "backbone.ln_pre.bias"])
def test_tensors_of_another_shape(tmp_path: Path, name: str) -> None:
    tensors = csd_tensors() | {name: torch.tensor(1.0)}
    with pytest.raises(ModelError, match="a tensor of this CSD file has another shape"):
        load_csd(save_csd(tmp_path / "csd.pth", tensors))


@pytest.mark.parametrize("extra", ["backbone.proj", "backbone.transformer.resblocks.1.extra.weight", "head"])
def test_other_tensors_are_refused(tmp_path: Path, extra: str) -> None:
    tensors = csd_tensors() | {extra: torch.ones(2, 2)}
    with pytest.raises(ModelError, match="tensors that do not belong") as caught:
        load_csd(save_csd(tmp_path / "csd.pth", tensors))
    assert caught.value.got == extra


@pytest.mark.parametrize("width", [32, 193])
def test_widths_that_no_tower_has(tmp_path: Path, width: int) -> None:
    tensors = csd_tensors() | {"backbone.conv1.weight": torch.zeros(width, 3, 14, 14)}
    with pytest.raises(ModelError, match="not a CSD checkpoint"):
        load_csd(save_csd(tmp_path / "csd.pth", tensors))
