"""Weights of the networks that metrics use: random, in the published files' names and layouts, small where a
layout allows it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, CLIPVisionConfig, ViTConfig, ViTModel

from stdcli.models.perceptual import aesthetic, lpips
from stdcli.models.perceptual.convolutions import Architecture, ConvolutionStack
from stdcli.models.perceptual.csd import published_shapes

CSD_TOWER = CLIPVisionConfig(
    hidden_size=128,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=28,
    patch_size=14,
)
CSD_WIDTH = 24
OLD_DINO = {  # names inside a layer of files that were written before transformers 5
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def randoms(shapes: Mapping[str, Sequence[int]], *, seed: int = 0) -> dict[str, Tensor]:
    """Tensors that keep activations near 1."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tuple(shape), generator=draw) / max(int(np.prod(shape[1:])), 1) ** 0.5
        for name, shape in shapes.items()
    }


def csd_tensors() -> dict[str, Tensor]:
    """A small CSD by its published names, without `module.`."""
    return randoms(published_shapes(CSD_TOWER, CSD_WIDTH))


def save_csd(path: Path, tensors: Mapping[str, Tensor] | None = None) -> Path:
    """A checkpoint as the authors' training wrote it: flags, optimisers, learning rates as numpy scalars."""
    named = {f"module.{name}": value for name, value in (tensors or csd_tensors()).items()}
    optimizer = {
        "state": {0: {"step": torch.ones(1)}},
        "param_groups": [{"lr": np.float64(1e-4), "params": [0]}],
    }
    flags = argparse.Namespace(arch="vit_large", iters=80000)
    run = {"model_state_dict": named, "opt_bb": optimizer, "opt_proj": optimizer, "iter": 1, "args": flags}
    torch.save(run, path)
    return path


def save_aesthetic(path: Path) -> Path:
    """LAION's head at its real size."""
    torch.save(randoms(aesthetic.SHAPES), path)
    return path


def save_lpips(path: Path) -> Path:
    """LPIPS's heads at their real size; not negative, as the published ones."""
    torch.save({name: value.abs() for name, value in randoms(lpips.SHAPES).items()}, path)
    return path


def save_convolutions(path: Path, architecture: Architecture) -> Path:
    """A convolutional network at its real size in torchvision's format, with a bit of its classifier."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in ConvolutionStack(architecture).state_dict().items()}
    torch.save(randoms(shapes) | {"classifier.6.bias": torch.zeros(1000)}, path)
    return path


def save_clip(folder: Path, *, width: int = 768) -> Path:
    """A small CLIP with its tokenizer; `width` of the shared space."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    config = CLIPConfig(
        text_config={**tower, **ends, "vocab_size": len(words)},
        vision_config={**tower, "image_size": 28, "patch_size": 14},
        projection_dim=width,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    vocabulary = {word: i for i, word in enumerate(words)}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
    return folder


def save_dino(folder: Path, *, is_safe: bool = True) -> Path:
    """A small DINO in the layout of its first release: no pooler, old names."""
    config = ViTConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViTModel(config, add_pooling_layer=False)
    if is_safe:
        model.save_pretrained(folder)
        return folder
    config.save_pretrained(folder)
    torch.save(
        {_old_name(name): value for name, value in model.state_dict().items()}, folder / "pytorch_model.bin"
    )
    return folder


def _old_name(name: str) -> str:
    if name.startswith("layers."):
        name = f"encoder.layer.{name.removeprefix('layers.')}"
    for new, old in OLD_DINO.items():
        name = name.replace(new, old)
    return name
