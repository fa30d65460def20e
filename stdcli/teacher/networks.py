"""Build the parts of a small SDXL-layout stylizer from nothing, and save them as a diffusers folder.

The counterpart of loading: `stdcli teacher train` gets untrained networks here and hands trained ones back.
Everything is a diffusers or transformers class except the codec (`patch_autoencoder.py`,
`lapped_autoencoder.py`). It knows nothing of
training data or optimisers.

Layout written by `save_folder` (readable by diffusers' SDXL img2img pipeline):
    model_index.json  scheduler/  unet/  vae/  image_encoder/  feature_extractor/  ip_adapter/  recipe.json
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from stdcli.config.recipe import Recipe
from stdcli.errors import ModelError
from stdcli.models.diffusers_api import (
    FAULTS,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    DDIMScheduler,
    UNet2DConditionModel,
    first_line,
)
from stdcli.models.folder import OWN_CODECS, check_folder, read_folder, weight_files
from stdcli.models.lapped_autoencoder import LappedAutoencoder
from stdcli.models.painter_unet import PainterUNet
from stdcli.models.patch_autoencoder import PatchAutoencoder
from stdcli.models.unet_denoiser import UNET_CLASSES, check_unet

ADAPTER_FILE = "ip_adapter/ip_adapter.safetensors"
STARTABLE = "a folder that `stdcli teacher train` wrote"
IP_TOKENS = 4  # a plain IP-Adapter always has four; diffusers infers it from the key names
TIME_ID_DIM = 8  # width of each of the six time ids' embeddings
NUM_TIME_IDS = 6
STYLE_PATCH = 8
SmallCodec = PatchAutoencoder | LappedAutoencoder
PIXELS = 256  # the size that the style encoder sees and that the time ids speak of


@dataclass(frozen=True)
class StylizerNetworks:
    """The learned parts of a small stylizer.

    Attributes:
        unet: denoiser over [B, C, h, w] latents with IP-Adapter projections installed.
        style_encoder: pictures [B, 3, H, W] (CLIP-normalised) -> `image_embeds` [B, style_dim].
    """

    unet: UNet2DConditionModel
    style_encoder: CLIPVisionModelWithProjection

    def modules(self) -> dict[str, torch.nn.Module]:
        """The networks by name, in a fixed order."""
        return {"unet": self.unet, "style_encoder": self.style_encoder}


def build_networks(
    *,
    latent_channels: int,
    channels: tuple[int, ...],
    style_dim: int,
    style_width: int,
    style_layers: int,
    cross_dim: int = 64,
    sees_photo: bool = False,
    seed: int = 0,
) -> StylizerNetworks:
    """Make an untrained UNet with style input at every level, and its style encoder.

    The style vector enters twice: as SDXL's pooled embedding beside the time embedding (so that it scales and
    shifts every residual block) and as four IP-Adapter tokens at the coarsest level.

    Args:
        latent_channels: C of the codec.
        channels: UNet width per level, finest first; attention only at the last.
        style_dim: length of the style vector.
        style_width: hidden width of the style encoder, a multiple of 32.
        style_layers: transformer layers of the style encoder.
        cross_dim: width of the text and style tokens.
        sees_photo: whether the UNet has C more input channels, for the photo's clean latents.
        seed: of the initial weights.

    Returns:
        Networks in float32 on the CPU.
    """
    with _initialized_from(seed):
        unet = _build_unet(
            latent_channels, channels, style_dim=style_dim, cross_dim=cross_dim, sees_photo=sees_photo
        )
        encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=style_width,
                intermediate_size=3 * style_width,
                num_hidden_layers=style_layers,
                num_attention_heads=style_width // 32,
                image_size=PIXELS,
                patch_size=STYLE_PATCH,
                projection_dim=style_dim,
            )
        )
    position = encoder.vision_model.embeddings.position_embedding.weight
    position.data.zero_()  # style has no place: any picture size works, and nothing is learned here
    position.requires_grad_(False)
    return StylizerNetworks(unet=unet, style_encoder=encoder)


def build_codec(
    *, latent_channels: int, hidden_channels: int, hidden_layers: int = 1, seed: int = 0
) -> PatchAutoencoder:
    """Make an unfitted codec in float32 on the CPU; its refinement starts from `seed`."""
    with _initialized_from(seed):
        return PatchAutoencoder(
            latent_channels=latent_channels, hidden_channels=hidden_channels, hidden_layers=hidden_layers
        )


def build_lapped_codec(*, latent_channels: int, widths: tuple[int, ...], seed: int = 0) -> LappedAutoencoder:
    """Make an unfitted lapped codec in float32 on the CPU; its refinement starts from `seed`."""
    with _initialized_from(seed):
        return LappedAutoencoder(latent_channels=latent_channels, widths=widths)


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas times 0.03, for a network that predicts v.

    Patch components are nearly pixels, with little in the fine ones: Stable Diffusion's betas would drown
    them at a strength of 0.1. With these sigma / alpha is 0.20 at strength 0.5 and 0.42 at 1.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.0000255,
        beta_end=0.00036,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
    )


@contextmanager
def _initialized_from(seed: int) -> Iterator[None]:
    """Layers made inside draw their weights from `seed`; torch's default generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _build_unet(
    latent_channels: int, channels: tuple[int, ...], *, style_dim: int, cross_dim: int, sees_photo: bool
) -> UNet2DConditionModel:
    plain = len(channels) - 1
    kind = PainterUNet if sees_photo else UNet2DConditionModel
    unet = kind(
        in_channels=latent_channels * (2 if sees_photo else 1),
        out_channels=latent_channels,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * plain,
        attention_head_dim=8,
        cross_attention_dim=cross_dim,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_DIM,
        projection_class_embeddings_input_dim=style_dim + NUM_TIME_IDS * TIME_ID_DIM,
        use_linear_projection=True,
    )
    if sees_photo:
        torch.nn.init.zeros_(unet.conv_out.weight)  # begins at the linear estimate
        torch.nn.init.zeros_(unet.conv_out.bias)
    _install_ip_adapter(unet, style_dim=style_dim)
    return unet


def _install_ip_adapter(unet: UNet2DConditionModel, *, style_dim: int) -> None:
    cross = unet.config.cross_attention_dim
    image_proj = {
        "proj.weight": torch.empty(IP_TOKENS * cross, style_dim),
        "proj.bias": torch.zeros(IP_TOKENS * cross),
        "norm.weight": torch.ones(cross),
        "norm.bias": torch.zeros(cross),
    }
    torch.nn.init.xavier_uniform_(image_proj["proj.weight"])
    keys = {}
    for i, name in _cross_attentions(unet):
        width = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0]
        for part in ("to_k_ip", "to_v_ip"):
            weight = torch.empty(width, cross)
            torch.nn.init.xavier_uniform_(weight)
            keys[f"{i}.{part}.weight"] = weight
    unet._load_ip_adapter_weights([{"image_proj": image_proj, "ip_adapter": keys}], low_cpu_mem_usage=False)
    for parameter in unet.parameters():
        parameter.requires_grad_(True)


def _cross_attentions(unet: UNet2DConditionModel) -> list[tuple[int, str]]:
    """IP-Adapter's own numbering: odd ids, in the order of `attn_processors`, cross-attentions only."""
    names = [n for n in unet.attn_processors if not n.endswith("attn1.processor")]
    return [(2 * i + 1, name) for i, name in enumerate(names)]


def encode_style(encoder: CLIPVisionModelWithProjection, pictures: torch.Tensor) -> torch.Tensor:
    """Style vectors of pictures of any size.

    Args:
        encoder: style encoder.
        pictures: [B, 3, H, W] in [-1, 1], H and W multiples of 8.

    Returns:
        [B, style_dim].
    """
    mean = torch.tensor(OPENAI_CLIP_MEAN, device=pictures.device).view(1, 3, 1, 1)
    std = torch.tensor(OPENAI_CLIP_STD, device=pictures.device).view(1, 3, 1, 1)
    normalized = ((pictures + 1) / 2 - mean) / std
    return encoder(pixel_values=normalized, interpolate_pos_encoding=True).image_embeds


def predict(
    unet: UNet2DConditionModel,
    x: torch.Tensor,
    t: torch.Tensor,
    style: torch.Tensor,
    concat_latents: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run the UNet the way an SDXL pipeline with null text and an IP-Adapter does.

    Args:
        unet: from `build_networks`.
        x: [B, C, h, w] noisy latents.
        t: [B] int64 training timesteps.
        style: [B, style_dim]; zeros for the unconditional branch.
        concat_latents: [B, C, h, w] clean latents of the photo, for a UNet that sees it.

    Returns:
        Raw network output [B, C, h, w].
    """
    batch = x.shape[0]
    x = x if concat_latents is None else torch.cat([x, concat_latents], dim=1)
    tokens = x.new_zeros(batch, 1, unet.config.cross_attention_dim)
    time_ids = x.new_tensor([[PIXELS, PIXELS, 0, 0, PIXELS, PIXELS]]).expand(batch, -1)
    added = {"text_embeds": style, "time_ids": time_ids, "image_embeds": [style[:, None]]}
    return unet(x, t, encoder_hidden_states=tokens, added_cond_kwargs=added).sample


def save_folder(
    folder: Path,
    *,
    networks: StylizerNetworks,
    codec: SmallCodec,
    scheduler: DDIMScheduler,
    recipe: Recipe,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a complete diffusers folder in SDXL img2img layout.

    Args:
        folder: created if missing; files in it are replaced.
        networks: trained networks; not changed.
        codec: fitted codec; not changed.
        scheduler: noise schedule and prediction type.
        recipe: the model's own defaults, written to `recipe.json`.
        dtype: dtype of the stored weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unet, adapter = _split_ip_adapter(networks.unet)
    _save_as(unet, folder / "unet", dtype)
    _save_as(codec, folder / "vae", dtype)
    _save_as(networks.style_encoder, folder / "image_encoder", dtype)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS}
    )
    processor.save_pretrained(folder / "feature_extractor")
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "ip_adapter").mkdir(exist_ok=True)
    halves = {k: v.to("cpu", dtype).contiguous() for k, v in adapter.items()}
    save_file(halves, folder / ADAPTER_FILE)
    null = [None, None]
    index = {
        "_class_name": "StableDiffusionXLImg2ImgPipeline",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "force_zeros_for_empty_prompt": True,
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "requires_aesthetics_score": False,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": null,
        "text_encoder_2": null,
        "tokenizer": null,
        "tokenizer_2": null,
        "unet": _origin(unet),
        "vae": _origin(codec),
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "recipe.json").write_text(recipe.as_json(indent=2) + "\n")


def check_start(folder: Path) -> None:
    """Whether a folder is laid out as `save_folder` does it, before any of it is read.

    Raises:
        ModelError: it is no such model, holds only pickles, or names foreign code.
    """
    found = read_folder(folder)
    check_folder(found, needed=("unet", "vae", "image_encoder"), kinds={"unet": UNET_CLASSES})
    check_unet(found)
    for part in ("unet", "vae", "image_encoder"):
        weight_files(found, part, half=False)
    codec = found.components["vae"]
    got = f"no {ADAPTER_FILE}" if codec in OWN_CODECS else f"vae of class {codec}"
    if codec not in OWN_CODECS or not (folder / ADAPTER_FILE).is_file():
        raise ModelError("cannot start from this model", where=folder, got=got, expected=STARTABLE)


def load_weights(folder: Path, *, networks: StylizerNetworks, codec: SmallCodec) -> None:
    """Give networks and codec the weights of a folder that `save_folder` wrote.

    Args:
        folder: model folder.
        networks: of the same sizes; changed in place.
        codec: of the same sizes; changed in place.

    Raises:
        ModelError: the folder is no such model, or its sizes differ.
    """
    check_start(folder)
    local_only = {"use_safetensors": True, "local_files_only": True}  # never a pickle, never the Hub
    try:
        unet = type(networks.unet).from_pretrained(folder / "unet", **local_only)
        flat = load_file(folder / ADAPTER_FILE)
        adapter = {part: {} for part in ("image_proj", "ip_adapter")}
        for key, value in flat.items():
            part, _, name = key.partition(".")
            adapter[part][name] = value.float()
        unet._load_ip_adapter_weights([adapter], low_cpu_mem_usage=False)
        encoder = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder", **local_only)
        networks.unet.load_state_dict(unet.state_dict())
        networks.style_encoder.load_state_dict(encoder.state_dict())
        codec.load_state_dict(type(codec).from_pretrained(folder / "vae", **local_only).state_dict())
    except (*FAULTS, SafetensorError) as error:
        raise ModelError(
            "cannot start from this model",
            where=folder,
            got=first_line(error),
            expected=f"{STARTABLE}, with networks of the same sizes",
        ) from error


def _origin(module: torch.nn.Module) -> list[str]:
    """How model_index.json names a class."""
    kind = type(module)
    return ["diffusers" if kind is UNet2DConditionModel else kind.__module__, kind.__name__]


def _save_as(module: torch.nn.Module, folder: Path, dtype: torch.dtype) -> None:
    copy.deepcopy(module).to("cpu", dtype).save_pretrained(folder, safe_serialization=True)


def _split_ip_adapter(unet: UNet2DConditionModel) -> tuple[UNet2DConditionModel, dict[str, torch.Tensor]]:
    """A plain UNet (as SDXL ships it) and the IP-Adapter tensors under IP-Adapter's own key names."""
    config = dict(unet.config) | {"encoder_hid_dim_type": None}
    with _initialized_from(0):
        plain = type(unet).from_config(config)
    state = unet.state_dict()
    kept = set(plain.state_dict())
    plain.load_state_dict({k: v for k, v in state.items() if k in kept})
    projection = "encoder_hid_proj.image_projection_layers.0."
    renamed = {"image_embeds.weight": "proj.weight", "image_embeds.bias": "proj.bias"}
    adapter = {}
    for key, value in state.items():
        if key.startswith(projection):
            tail = key.removeprefix(projection)
            adapter[f"image_proj.{renamed.get(tail, tail)}"] = value
    for i, name in _cross_attentions(unet):
        for part in ("to_k_ip", "to_v_ip"):
            adapter[f"ip_adapter.{i}.{part}.weight"] = state[f"{name}.{part}.0.weight"]
    missing = set(state) - kept
    if len(missing) != len(adapter):
        raise ValueError(f"IP-Adapter split lost tensors: {sorted(missing)[:4]} ...")
    return plain, adapter
