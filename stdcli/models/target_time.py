"""The time that a step aims at, as an input of a diffusers UNet.

Both ways go through `timestep_cond`; what `time_embedding.cond_proj` makes of it is added to the sines and
cosines of the UNet's own time. A student of full weights has diffusers' linear projection there, in its own
files; beside adapters it is a `TargetTimeEmbedder`, in a file of its own. Both begin at zero.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stdcli.errors import ModelError
from stdcli.models.diffusers_api import UNet2DConditionModel, get_timestep_embedding
from stdcli.models.weights import is_finite, read_shapes

TARGET_TIME_WIDTH = 256
"""Width of the embedding of a step's target."""
PROJECTION = "time_embedding.cond_proj"
"""Name of the module that takes it."""


class TargetTimeEmbedder(nn.Module):
    """Two linear layers with SiLU between, in float32; all zero until its first layer is drawn.

    Args:
        width: of what is embedded.
        hidden: of the layer between.
        like: a weight of the layer that follows: [.., width of the result], and its dtype and device.
    """

    def __init__(self, width: int, hidden: int, *, like: Tensor) -> None:
        super().__init__()
        self.linear_1 = _zero_linear(width, hidden, device=like.device)
        self.linear_2 = _zero_linear(hidden, like.shape[1], device=like.device)
        self.result_dtype = like.dtype

    def forward(self, embedded: Tensor) -> Tensor:
        """[B, width] float32 -> [B, width of the result]."""
        return self.linear_2(nn.functional.silu(self.linear_1(embedded))).to(self.result_dtype)


def embed_target_time(target_time: Tensor | float | None, x: Tensor) -> Tensor:
    """The time that a step aims at, as a network that sees its target is told: sines and cosines.

    Args:
        target_time: a number or [B].
        x: [B, ...]; decides batch and device.

    Returns:
        [B, TARGET_TIME_WIDTH] float32.

    Raises:
        ValueError: no time.
    Source: Ho 2020 (DDPM) appendix B, the time embedding of the UNet itself.
    """
    if target_time is None:
        raise ValueError("this network is told where a step aims, and no time was given")
    times = torch.as_tensor(target_time, dtype=torch.float32, device=x.device).expand(x.shape[0])
    return get_timestep_embedding(times, TARGET_TIME_WIDTH, flip_sin_to_cos=True, downscale_freq_shift=0)


def add_projection(unet: UNet2DConditionModel) -> None:
    """Let a UNet be told where a step aims; what it gives does not change until the projection is trained.

    The projection is diffusers' own, from zeros, so that plain diffusers reloads it.

    Args:
        unet: changed in place; has no `time_cond_proj_dim` yet.
    """
    embedding, config = unet.time_embedding, unet.config
    like = embedding.linear_1.weight
    projection = nn.Linear(TARGET_TIME_WIDTH, like.shape[1], bias=False, device="meta")
    projection.weight = nn.Parameter(like.new_zeros(like.shape[1], TARGET_TIME_WIDTH), requires_grad=False)
    embedding.cond_proj = projection
    # upstream keeps an installed style adapter in an attribute that a plain update of the config would lose
    unet.register_to_config(
        time_cond_proj_dim=TARGET_TIME_WIDTH, encoder_hid_dim_type=config.encoder_hid_dim_type
    )


def add_embedder(unet: UNet2DConditionModel) -> TargetTimeEmbedder:
    """The same beside a UNet's own weights: its config and files stay as they are.

    Args:
        unet: changed in place; has no `time_cond_proj_dim`.

    Returns:
        The module that was added, all zero.
    """
    like = unet.time_embedding.linear_1.weight
    embedder = TargetTimeEmbedder(TARGET_TIME_WIDTH, like.shape[0], like=like)
    unet.time_embedding.cond_proj = embedder
    return embedder


@torch.no_grad()
def load_embedder(embedder: nn.Module, path: Path) -> None:
    """Give an embedder its stored values; nothing but checks on the meta device.

    Args:
        embedder: of `Denoiser.add_target_embedder`; changed in place.
        path: its safetensors file.

    Raises:
        ModelError: damaged, not of this network, or a value is NaN or infinite.
    """
    stored, current = read_shapes(path), dict(embedder.named_parameters())
    expected = {name: tuple(value.shape) for name, value in current.items()}
    if stored != expected:
        name = min(n for n in stored.keys() | expected.keys() if stored.get(n) != expected.get(n))
        raise ModelError(
            "this embedder of the target time does not fit the model",
            where=path,
            got=f"{name} {stored.get(name, 'missing')}",
            expected=str(expected.get(name, "no such tensor")),
        )
    if any(value.is_meta for value in current.values()):
        return
    for name, value in load_file(path).items():
        if not is_finite(value):
            raise ModelError("this embedder of the target time holds NaN or infinity", where=path, got=name)
        current[name].copy_(value)


def _zero_linear(width: int, out: int, *, device: torch.device) -> nn.Linear:
    layer = nn.Linear(width, out, device="meta")
    layer.weight = nn.Parameter(torch.zeros(out, width, device=device), requires_grad=False)
    layer.bias = nn.Parameter(torch.zeros(out, device=device), requires_grad=False)
    return layer
