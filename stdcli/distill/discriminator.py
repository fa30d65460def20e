"""Heads that judge feature maps token by token, under a condition.

One small head per feature map: spectrally normalised 1-D convolutions over the tokens, and a last layer whose
direction the condition chooses (projection discriminator). Knows neither where features come from nor losses.

Legend: B batch, C channels of a feature map, T its tokens, D width of the condition's vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdcli.config.distill import VIRTUAL_BATCH
from stdcli.models.condition import Condition
from stdcli.runtime.seeding import fold

Norm = Literal["group", "local-batch"]

JUDGED = 64  # width of the space in which features and condition meet
MOST_CHANNELS = 384  # of a head inside; DINOv2 ViT-S has as many
REACH = 9  # tokens that one token is mixed with
SLOPE = 0.2
GROUPS = 8
FIRST_ITERATIONS = 15  # of the power method, when weights are made


class SpectralConv1d(nn.Module):
    """Convolution over a ring of tokens whose weight is divided by its largest singular value.

    That value is estimated by the power method, whose vectors `u` and `v` are buffers. A forward leaves them
    alone: `iterate` moves them, once per step of the optimiser.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        kernel: odd number of tokens.
        generator: draws the weights and `u`.

    Source: Miyato 2018 (spectral normalisation), algorithm 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        weight = torch.randn(out_channels, in_channels, kernel, generator=generator)
        self.weight = nn.Parameter(weight / math.sqrt(in_channels * kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("u", torch.randn(out_channels, generator=generator))
        self.register_buffer("v", torch.zeros(in_channels * kernel))
        for _ in range(FIRST_ITERATIONS):
            self.iterate()

    @torch.no_grad()
    def iterate(self) -> None:
        """One iteration of the power method, in place."""
        matrix = self.weight.flatten(1)
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C', T]."""
        u, v = self.u.clone(), self.v.clone()  # a graph outlives the next `iterate`
        weight = self.weight / (u @ self.weight.flatten(1) @ v)
        return F.conv1d(_wrap(x, self.weight.shape[2] // 2), weight, self.bias)


class LocalBatchNorm(nn.Module):
    """Batch normalisation over virtual batches of at most 8 consecutive samples, with no running statistics.

    Source: Sauer 2023 (StyleGAN-T), discriminator heads.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T].

        Raises:
            ValueError: B does not divide into equal virtual batches.
        """
        groups = math.ceil(len(x) / VIRTUAL_BATCH)
        if len(x) % groups:
            raise ValueError(
                f"a batch of {len(x)} does not divide into {groups} equal parts for local batch "
                f"normalisation; take at most {VIRTUAL_BATCH}, a multiple of it, or group normalisation"
            )
        parts = x.unflatten(0, (groups, -1))
        variance, mean = torch.var_mean(parts, dim=(1, 3), correction=0, keepdim=True)
        normed = (parts - mean) * (variance + 1e-5).rsqrt()
        return normed.flatten(0, 1) * self.weight + self.bias


class Head(nn.Module):
    """Judges one feature map.

    Args:
        channels: C.
        cond_dim: D.
        norm: what normalises activations.
        generator: draws all weights.

    Source: Sauer 2023 (StyleGAN-T), discriminator heads; Miyato 2018 (projection discriminator).
    """

    def __init__(self, channels: int, cond_dim: int, *, norm: Norm, generator: torch.Generator) -> None:
        super().__init__()
        inner = min(channels, MOST_CHANNELS)
        self.enter = _block(channels, inner, kernel=1, norm=norm, generator=generator)
        self.mix = _block(inner, inner, kernel=REACH, norm=norm, generator=generator)
        self.leave = SpectralConv1d(inner, JUDGED, kernel=1, generator=generator)
        weight = torch.randn(JUDGED, cond_dim, generator=generator)
        self.direction = nn.Parameter(weight / math.sqrt(cond_dim))
        self.offset = nn.Parameter(torch.zeros(JUDGED))

    def forward(self, features: Tensor, vector: Tensor) -> Tensor:
        """[B, C, T] under conditions [B, D] -> logits [B, T]."""
        x = self.enter(features)
        x = self.leave((x + self.mix(x)) / math.sqrt(2))
        direction = F.linear(vector, self.direction, self.offset)
        return torch.einsum("bct,bc->bt", x, direction) / math.sqrt(JUDGED)


class Discriminator(nn.Module):
    """One head per feature map.

    Args:
        channels: C of every feature map.
        cond_dim: D, width of `condition_vector`.
        norm: "group", or "local-batch" as in the paper, for batches of at most 8 or multiples of it.
        seed: of all weights, which take nothing from the global generator.

    Source: STD, discriminator of the released code.
    """

    def __init__(self, channels: Sequence[int], cond_dim: int, *, norm: Norm = "group", seed: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            Head(width, cond_dim, norm=norm, generator=fold(seed, "discriminator", index))
            for index, width in enumerate(channels)
        )

    def forward(self, features: Sequence[Tensor], vector: Tensor) -> Tensor:
        """Judge feature maps.

        Args:
            features: one [B, C, T] per head, float32; T may differ.
            vector: [B, D] float32.

        Returns:
            Logits [B, sum of T]; the higher, the more real.

        Raises:
            ValueError: not one feature map per head, or a batch that local batch normalisation cannot divide.
        """
        pairs = zip(self.heads, features, strict=True)
        return torch.cat([head(maps, vector) for head, maps in pairs], dim=1)

    def update_spectral_norm(self) -> None:
        """One iteration of the power method everywhere. Call once after every step of the optimiser.

        The same on all ranks, since the weights are.
        """
        for module in self.modules():
            if isinstance(module, SpectralConv1d):
                module.iterate()


def condition_vector(condition: Condition) -> Tensor:
    """A condition as one vector per sample: pooled text, or the mean of the tokens; and the mean style.

    Returns:
        [B, D] float32; D is the same for all conditions of one model.
    """
    pooled = condition.added.get("text_embeds")
    parts = [condition.encoder_hidden_states.float().mean(1) if pooled is None else pooled.float()]
    if "image_embeds" in condition.added:
        parts.append(condition.added["image_embeds"].float().flatten(1, -2).mean(1))
    return torch.cat(parts, dim=1)


def _block(
    in_channels: int, out_channels: int, *, kernel: int, norm: Norm, generator: torch.Generator
) -> nn.Sequential:
    if norm == "group":
        layer = nn.GroupNorm(math.gcd(out_channels, GROUPS), out_channels)
    else:
        layer = LocalBatchNorm(out_channels)
    conv = SpectralConv1d(in_channels, out_channels, kernel=kernel, generator=generator)
    return nn.Sequential(conv, layer, nn.LeakyReLU(SLOPE))


def _wrap(x: Tensor, reach: int) -> Tensor:
    """Tokens [B, C, T] with `reach` more at either end, as on a ring; rings may be shorter than the reach."""
    if reach == 0:
        return x
    ring = x.repeat(1, 1, math.ceil(reach / x.shape[2]))
    return torch.cat([ring[..., -reach:], x, ring[..., :reach]], dim=2)
