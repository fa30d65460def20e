"""Tiny models of every family, with random weights: the real classes at small size, in the real layouts.

Every builder writes a folder or file and returns its path; the same seed gives the same weights. A folder is
computed once in a process and later written from memory, so that each test has one of its own to change.
"""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from stdcli.config.recipe import Recipe
from stdcli.models.diffusers_api import (
    AutoencoderKL,
    CLIPVisionModelWithProjection,
    DDIMScheduler,
    UNet2DConditionModel,
)
from stdcli.teacher.networks import build_codec, build_networks, make_scheduler, save_folder

CROSS = 32  # width of the text tokens
POOLED = 20  # SDXL: width of the second text encoder; not half of CROSS, so that the two are told apart
STYLE = 24  # width of the style adapter's image embeddings
VISION_WIDTH = 32  # of the style adapter's image encoder inside
START, END = "<|startoftext|>", "<|endoftext|>"


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _built_once(build: Callable[..., Path]) -> Callable[..., Path]:
    """Write what a builder made of the same options before."""
    kept: dict[str, dict[str, bytes]] = {}

    @functools.wraps(build)
    def written(folder: Path, **options: object) -> Path:
        key = repr(sorted(options.items()))
        if key not in kept:
            with tempfile.TemporaryDirectory() as scratch:
                made = build(Path(scratch), **options)
                files = [path for path in made.rglob("*") if path.is_file()]
                kept[key] = {path.relative_to(made).as_posix(): path.read_bytes() for path in files}
        for name, data in kept[key].items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder

    return written


@functools.cache
def _layers(config: str) -> UNet2DConditionModel:
    """A UNet's modules, without values."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(json.loads(config))


def layers_of(unet: Path) -> UNet2DConditionModel:
    """The modules of a folder's UNet, without values."""
    return _layers((unet / "config.json").read_text())


@_built_once
def save_tiny_sd15(folder: Path, *, seed: int = 0, prediction_type: str = "epsilon", **unet: object) -> Path:
    """A Stable Diffusion 1.5 folder: four levels, attention everywhere but the last."""
    with _seeded(seed):
        _unet_sd15(**unet).save_pretrained(folder / "unet")
        _vae().save_pretrained(folder / "vae")
        CLIPTextModel(_text_config(CROSS)).save_pretrained(folder / "text_encoder")
    _save_tokenizer(folder / "tokenizer")
    _scheduler(prediction_type).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    return _write_index(folder, index)


@_built_once
def save_tiny_sdxl(folder: Path, *, seed: int = 0, prediction_type: str = "epsilon", **unet: object) -> Path:
    """A Stable Diffusion XL folder: three levels, two text encoders, pooled embedding and time ids."""
    with _seeded(seed):
        _unet_sdxl(**unet).save_pretrained(folder / "unet")
        _vae(force_upcast=True, scaling_factor=0.13025).save_pretrained(folder / "vae")
        CLIPTextModel(_text_config(CROSS - POOLED)).save_pretrained(folder / "text_encoder")
        second = CLIPTextModelWithProjection(_text_config(POOLED, projection_dim=POOLED))
        second.save_pretrained(folder / "text_encoder_2")
    _save_tokenizer(folder / "tokenizer")
    _save_tokenizer(folder / "tokenizer_2")
    _scheduler(prediction_type).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "feature_extractor": [None, None],
        "force_zeros_for_empty_prompt": True,
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    return _write_index(folder, index)


@_built_once
def save_tiny_embedded(folder: Path, *, seed: int = 0, recipe: Recipe | None = None) -> Path:
    """A stylizer without text, as `stdcli teacher train` writes it, in float32."""
    networks = build_networks(
        latent_channels=8,
        channels=(32, 32, 64),
        style_dim=STYLE,
        style_width=32,
        style_layers=1,
        cross_dim=CROSS,
        seed=seed,
    )
    save_folder(
        folder,
        networks=networks,
        codec=build_codec(latent_channels=8, hidden_channels=16, seed=seed),
        scheduler=make_scheduler(),
        recipe=recipe or Recipe(steps=4, strength=0.6, guidance=2.0),
        dtype=torch.float32,
    )
    return folder


def add_style_adapter(
    folder: Path, *, seed: int = 1, encoder_dim: int = STYLE, unet: Path | None = None, plus: bool = False
) -> Path:
    """Give a folder an IP-Adapter, plain or Plus, and its image encoder, in the layout `ip_adapter/`."""
    network = layers_of(unet or folder / "unet")
    cross = network.config.cross_attention_dim
    place = folder / "ip_adapter"
    with _seeded(seed):
        vision = CLIPVisionConfig(
            hidden_size=VISION_WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            projection_dim=encoder_dim,
        )
        CLIPVisionModelWithProjection(vision).save_pretrained(place / "image_encoder")
        tensors = _plus_projection(cross) if plus else _plain_projection(cross)
        names = [n for n in network.attn_processors if not n.endswith("attn1.processor")]
        for i, name in enumerate(names):
            width = network.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0]
            for part in ("to_k_ip", "to_v_ip"):
                tensors[f"ip_adapter.{2 * i + 1}.{part}.weight"] = torch.randn(width, cross)
    save_file(tensors, place / "ip_adapter.safetensors")
    return folder


def _plain_projection(cross: int) -> dict[str, torch.Tensor]:
    return {
        "image_proj.proj.weight": torch.randn(4 * cross, STYLE),
        "image_proj.proj.bias": torch.randn(4 * cross),
        "image_proj.norm.weight": torch.ones(cross),
        "image_proj.norm.bias": torch.zeros(cross),
    }


def _plus_projection(cross: int) -> dict[str, torch.Tensor]:
    """A resampler over the image encoder's hidden states; its depth of 4 is fixed upstream."""
    inner, tokens = 64, 3
    shapes = {
        "latents": (1, tokens, inner),
        "proj_in.weight": (inner, VISION_WIDTH),
        "proj_in.bias": (inner,),
        "proj_out.weight": (cross, inner),
        "proj_out.bias": (cross,),
        "norm_out.weight": (cross,),
        "norm_out.bias": (cross,),
    }
    layer = {
        "0.norm1.weight": (inner,),
        "0.norm1.bias": (inner,),
        "0.norm2.weight": (inner,),
        "0.norm2.bias": (inner,),
        "0.to_q.weight": (inner, inner),
        "0.to_kv.weight": (2 * inner, inner),
        "0.to_out.weight": (inner, inner),
        "1.0.weight": (inner,),
        "1.0.bias": (inner,),
        "1.1.weight": (4 * inner, inner),
        "1.3.weight": (inner, 4 * inner),
    }
    shapes |= {f"layers.{i}.{name}": shape for i in range(4) for name, shape in layer.items()}
    return {f"image_proj.{name}": torch.randn(shape) * 0.3 for name, shape in shapes.items()}


def save_tiny_lora(
    path: Path, model: Path, *, style: str = "peft", rank: int = 2, alpha: float | None = None
) -> Path:
    """A LoRA on every attention projection of a folder's UNet, with random A and B.

    Args:
        path: file to write.
        model: folder whose UNet it fits.
        style: key format: "peft" (lora_A), "diffusers" (lora.down), "kohya" (lora_unet_..., lora_down) or
            "kohya-sgm" (the same with the original block names, as its trainer writes for SDXL).
        rank: of every layer.
        alpha: None leaves it out; kohya stores it per layer, the others in the metadata.
    """
    network = layers_of(model / "unet")
    tensors: dict[str, torch.Tensor] = {}
    with _seeded(2):
        for name, module in network.named_modules():
            if not name.endswith(("to_q", "to_k", "to_v", "to_out.0")):
                continue
            down = torch.randn(rank, module.in_features) * 0.2
            up = torch.randn(module.out_features, rank) * 0.2
            if style.startswith("kohya"):
                place = _original_name(name, _unet_names(model)) if style == "kohya-sgm" else name
                stem = "lora_unet_" + place.replace(".", "_")
                tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
                tensors[f"{stem}.alpha"] = torch.tensor(float(rank if alpha is None else alpha))
            elif style == "diffusers":
                tensors |= {f"unet.{name}.lora.down.weight": down, f"unet.{name}.lora.up.weight": up}
            else:
                tensors |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    config = {
        "unet.r": rank,
        "unet.lora_alpha": alpha,
        "unet.target_modules": ["to_q", "to_k", "to_v", "to_out.0"],
    }
    stored = not style.startswith("kohya") and alpha is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        tensors, path, {"format": "pt", **({"lora_adapter_metadata": json.dumps(config)} if stored else {})}
    )
    return path


def save_tiny_checkpoint(
    path: Path, model: Path, *, markers: tuple[str, ...] = (), parts: tuple[str, ...] = ()
) -> Path:
    """A folder's weights as one file in the original Stable Diffusion layout.

    Args:
        path: file to write.
        model: folder of `save_tiny_sd15` or `save_tiny_sdxl`.
        markers: names of empty marker tensors, such as "v_pred".
        parts: which of unet, vae, text_encoder, text_encoder_2 to store; empty is all there are.
    """
    tensors = {name: torch.zeros(0) for name in markers}
    makers = {
        "unet": _original_unet,
        "vae": _original_vae,
        "text_encoder": _original_clip,
        "text_encoder_2": _original_open_clip,
    }
    for part, maker in makers.items():
        if (model / part).is_dir() and (not parts or part in parts):
            tensors |= maker(model)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    return path


def _unet_sd15(**changes: object) -> UNet2DConditionModel:
    config = {
        "sample_size": 8,
        "block_out_channels": (8, 16, 16, 16),
        "layers_per_block": 2,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": CROSS,
    }
    return UNet2DConditionModel(**(config | changes))


def _unet_sdxl(**changes: object) -> UNet2DConditionModel:
    config = {
        "sample_size": 8,
        "block_out_channels": (8, 16, 32),
        "layers_per_block": 2,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4, 8),
        "transformer_layers_per_block": (1, 1, 2),
        "use_linear_projection": True,
        "cross_attention_dim": CROSS,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": POOLED + 6 * 8,
    }
    return UNet2DConditionModel(**(config | changes))


def _vae(**changes: object) -> AutoencoderKL:
    config = {
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
        "sample_size": 64,
        "force_upcast": False,
    }
    return AutoencoderKL(**(config | changes))


def _text_config(width: int, **changes: object) -> CLIPTextConfig:
    size = len(_vocabulary())
    return CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
        **changes,
    )


def _scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def _vocabulary() -> dict[str, int]:
    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    return {token: i for i, token in enumerate([*letters, *(f"{c}</w>" for c in letters), START, END])}


def _save_tokenizer(folder: Path) -> None:
    """A CLIP tokenizer without merges: every letter is a token."""
    tokenizer = CLIPTokenizer(
        vocab=_vocabulary(),
        merges=[],
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=77,
    )
    tokenizer.save_pretrained(folder)


def _write_index(folder: Path, index: dict[str, object]) -> Path:
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def _weights(model: Path, part: str) -> dict[str, torch.Tensor]:
    (path,) = (model / part).glob("*.safetensors")
    return load_file(path)


def _renamed(
    tensors: dict[str, torch.Tensor], prefix: str, pairs: list[tuple[str, str]]
) -> dict[str, torch.Tensor]:
    return {prefix + _original_name(name, pairs): value for name, value in tensors.items()}


RESNET = [
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("time_emb_proj.", "emb_layers.1."),
    ("conv_shortcut.", "skip_connection."),
]


def _original_name(name: str, pairs: list[tuple[str, str]]) -> str:
    for new, old in pairs:
        name = name.replace(new, old)
    return name


def _unet_names(model: Path) -> list[tuple[str, str]]:
    """(diffusers' name, original name) of the UNet's blocks."""
    config = json.loads((model / "unet" / "config.json").read_text())
    levels, per_block = len(config["block_out_channels"]), config["layers_per_block"]
    pairs = [
        ("conv_in.", "input_blocks.0.0."),
        ("time_embedding.linear_1.", "time_embed.0."),
        ("time_embedding.linear_2.", "time_embed.2."),
        ("add_embedding.linear_1.", "label_emb.0.0."),
        ("add_embedding.linear_2.", "label_emb.0.2."),
        ("conv_norm_out.", "out.0."),
        ("conv_out.", "out.2."),
        ("mid_block.resnets.0.", "middle_block.0."),
        ("mid_block.attentions.0.", "middle_block.1."),
        ("mid_block.resnets.1.", "middle_block.2."),
    ]
    for level in range(levels):
        first = 1 + level * (per_block + 1)
        attends = "CrossAttn" in config["up_block_types"][level]
        for layer in range(per_block + 1):
            down, up = f"input_blocks.{first + layer}.", f"output_blocks.{first - 1 + layer}."
            pairs += [
                (f"down_blocks.{level}.resnets.{layer}.", f"{down}0."),
                (f"down_blocks.{level}.attentions.{layer}.", f"{down}1."),
                (f"up_blocks.{level}.resnets.{layer}.", f"{up}0."),
                (f"up_blocks.{level}.attentions.{layer}.", f"{up}1."),
            ]
        last_up = f"output_blocks.{first - 1 + per_block}.{2 if attends else 1}."
        pairs += [
            (f"down_blocks.{level}.downsamplers.0.conv.", f"input_blocks.{first + per_block}.0.op."),
            (f"up_blocks.{level}.upsamplers.0.", last_up),
        ]
    return pairs


def _original_unet(model: Path) -> dict[str, torch.Tensor]:
    named = _renamed(_weights(model, "unet"), "", _unet_names(model))
    is_resnet = {
        k for k in named if "_block" in k and ".attn" not in k and "norm." not in k and "ff." not in k
    }
    out = {}
    for name, value in named.items():
        plain = name in is_resnet and "transformer_blocks" not in name
        out[f"model.diffusion_model.{_original_name(name, RESNET) if plain else name}"] = value
    return out


def _original_vae(model: Path) -> dict[str, torch.Tensor]:
    config = json.loads((model / "vae" / "config.json").read_text())
    levels = len(config["block_out_channels"])
    pairs = [("mid_block.resnets.0.", "mid.block_1."), ("mid_block.resnets.1.", "mid.block_2.")]
    pairs += [("mid_block.attentions.0.", "mid.attn_1."), ("conv_norm_out.", "norm_out.")]
    pairs += [("conv_shortcut.", "nin_shortcut.")]
    for level in range(levels):
        for layer in range(config["layers_per_block"] + 1):
            pairs += [
                (f"down_blocks.{level}.resnets.{layer}.", f"down.{level}.block.{layer}."),
                (f"up_blocks.{level}.resnets.{layer}.", f"up.{levels - 1 - level}.block.{layer}."),
            ]
        pairs += [
            (f"down_blocks.{level}.downsamplers.0.", f"down.{level}.downsample."),
            (f"up_blocks.{level}.upsamplers.0.", f"up.{levels - 1 - level}.upsample."),
        ]
    attention = [
        ("group_norm.", "norm."),
        ("to_q.", "q."),
        ("to_k.", "k."),
        ("to_v.", "v."),
        ("to_out.0.", "proj_out."),
    ]
    out = {}
    for name, value in _renamed(_weights(model, "vae"), "", pairs).items():
        attends = ".attn_1." in name
        kept = value[:, :, None, None] if attends and value.ndim == 2 else value  # 1x1 convolutions there
        out[f"first_stage_model.{_original_name(name, attention) if attends else name}"] = kept
    return out


def _original_clip(model: Path) -> dict[str, torch.Tensor]:
    is_xl = (model / "text_encoder_2").is_dir()
    prefix = "conditioner.embedders.0.transformer." if is_xl else "cond_stage_model.transformer."
    tensors = {k.removeprefix("text_model."): v for k, v in _weights(model, "text_encoder").items()}
    return {f"{prefix}text_model.{k}": v for k, v in tensors.items()}


def _original_open_clip(model: Path) -> dict[str, torch.Tensor]:
    tensors = {k.removeprefix("text_model."): v for k, v in _weights(model, "text_encoder_2").items()}
    pairs = [
        ("encoder.layers.", "transformer.resblocks."),
        ("layer_norm1.", "ln_1."),
        ("layer_norm2.", "ln_2."),
        ("mlp.fc1.", "mlp.c_fc."),
        ("mlp.fc2.", "mlp.c_proj."),
        ("self_attn.", "attn."),
        ("final_layer_norm.", "ln_final."),
        ("embeddings.token_embedding.weight", "token_embedding.weight"),
        ("embeddings.position_embedding.weight", "positional_embedding"),
    ]
    named = _renamed(tensors, "conditioner.embedders.1.model.", pairs)
    projection = named.pop("conditioner.embedders.1.model.text_projection.weight")
    named["conditioner.embedders.1.model.text_projection"] = projection.T
    for name in [k for k in named if ".q_proj." in k]:
        stem, kind = name.split("q_proj.")
        joined = [named.pop(f"{stem}{part}_proj.{kind}") for part in "qkv"]
        named[f"{stem}in_proj_{kind}"] = torch.cat(joined)
    return named
