"""diffusers' UNets as denoisers: what they are called with, where they are adapted and looked into.

Legend: B batch, C latent channels, h w latent cells, C_k and T_k channels and tokens of feature map k.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from stdcli.errors import ModelError
from stdcli.models import target_time as target_times
from stdcli.models.condition import Condition
from stdcli.models.denoiser import Denoiser, FeatureTaps
from stdcli.models.folder import SD2_WIDTH, ModelFolder
from stdcli.models.inpainting import sees_mask
from stdcli.models.painter_unet import PainterUNet

UNET_CLASSES = ("UNet2DConditionModel", PainterUNet.__name__)
LORA_TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
)
"""Ends of the names of modules that get an adapter: those of LCM-LoRA."""


class UNetDenoiser(Denoiser):
    """A UNet2DConditionModel, which is told where a step aims by diffusers' `timestep_cond`."""

    part: ClassVar[str] = "unet"
    target_embedder: ClassVar[str] = target_times.PROJECTION

    @property
    def multiple(self) -> int:
        """So that every level of the UNet halves evenly."""
        return 2 ** (len(self.network.config.block_out_channels) - 1)

    @property
    def sees_mask(self) -> bool:
        """By its number of input channels."""
        return sees_mask(self.network.config)

    @property
    def sees_photo(self) -> bool:
        """As painters do."""
        return isinstance(self.network, PainterUNet)

    def arguments(
        self, x: Tensor, t: Tensor | float, condition: Condition, target_time: Tensor | float | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """See `Denoiser.arguments`."""
        dtype = self.network.dtype
        added: dict[str, Tensor | list[Tensor]] = {
            k: v if k == "time_ids" else v.to(dtype)  # half precision cannot represent every pixel count
            for k, v in condition.added.items()
        }
        if "image_embeds" in added:
            added["image_embeds"] = [added["image_embeds"]]  # diffusers: one entry per loaded adapter
        tokens = condition.encoder_hidden_states.to(dtype)
        inputs = {"encoder_hidden_states": tokens, "added_cond_kwargs": added, "return_dict": False}
        if self.has_target_time:
            target = target_times.embed_target_time(target_time, x)
            is_beside = isinstance(self.network.time_embedding.cond_proj, target_times.TargetTimeEmbedder)
            inputs["timestep_cond"] = target if is_beside else target.to(dtype)
        return (x.to(dtype), t), inputs

    def lora_targets(self) -> list[str]:
        """Of `LORA_TARGETS`; none inside a style adapter."""
        return lora_targets(self.network)

    def is_frozen(self, name: str) -> bool:
        """The style adapter's."""
        return _is_style(name)

    def feature_taps(self) -> FeatureTaps:
        """The down blocks and the mid block: the encoder.

        Source: Wang 2024 (PCM), adversarial loss on the features of the teacher's encoder.
        """
        unet = self.network
        widths = unet.config.block_out_channels
        return FeatureTaps(unet, (*unet.down_blocks, unet.mid_block), (*widths, widths[-1]), _read_map)

    def add_target_time(self) -> None:
        """See `Denoiser.add_target_time`."""
        target_times.add_projection(self.network)

    def add_target_embedder(self) -> target_times.TargetTimeEmbedder:
        """See `Denoiser.add_target_embedder`."""
        return target_times.add_embedder(self.network)

    def plain_config(self) -> dict[str, Any]:
        """Without the style adapter."""
        return super().plain_config() | {"encoder_hid_dim_type": None}


def check_unet(folder: ModelFolder) -> None:
    """Refuse a folder with an inpainting, refiner, guidance-embedded or otherwise unknown UNet.

    Raises:
        ModelError: it has one.
    """
    config = folder.config("unet")
    channels, latent = config.get("in_channels", 4), config.get("out_channels", 4)
    for value in (channels, latent):
        if not isinstance(value, int) or value < 1:
            where = folder.path / "unet" / "config.json"
            raise ModelError("a UNet's channels are whole numbers", where=where, got=value)
    has_photo = folder.components["unet"] == PainterUNet.__name__ and channels == 2 * latent
    if channels != latent and not sees_mask(config) and not has_photo:
        raise ModelError(
            "this UNet takes more than a latent (an edit model)",
            where=folder.path / "unet",
            got=f"{channels} input channels",
            expected=f"{latent}, or {2 * latent + 1} for inpainting",
        )
    if config.get("cross_attention_dim") == SD2_WIDTH and "text_encoder" in folder.components:
        raise ModelError("Stable Diffusion 2 is not a supported family", where=folder.path)
    if config.get("time_cond_proj_dim") is not None:
        raise ModelError(
            "UNets with an embedded guidance value (LCM) are not supported", where=folder.path / "unet"
        )
    if folder.options.get("requires_aesthetics_score"):
        raise ModelError("this is SDXL's refiner, not its base model", where=folder.path)


def lora_targets(unet: nn.Module) -> list[str]:
    """Full names of the modules that get an adapter, in the UNet's order; none inside a style adapter."""
    ends = tuple(f".{end}" for end in LORA_TARGETS)
    return [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and name.endswith(ends) and not _is_style(name)
    ]


def _read_map(output: Tensor | tuple) -> Tensor:
    """[B, C_k, T_k] of what a block returns."""
    return (output[0] if isinstance(output, tuple) else output).flatten(2)


def _is_style(name: str) -> bool:
    """Whether a parameter or module belongs to an IP-Adapter."""
    return ".processor." in name or name.startswith("encoder_hid_proj.")
