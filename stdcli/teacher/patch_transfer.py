"""Repaint a photo with patches of an artwork, in closed form: targets for "this photo in that style".

Colours first (the linear map between two Gaussians, Pitie 2007), then texture: every small patch of the
recoloured photo is replaced by the artwork's most similar one and overlapping patches are averaged. Crude as
a stylizer, but its errors are in the detail that noise hides, while its strokes and palette are the artwork's
own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

PATCH_PX = 8
STRIDE_PX = 4
KEYS_PER_SIDE = 45  # how densely an artwork's patches are sampled
EPSILON = 1e-4


def match_colours(pictures: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """Give pictures the mean and covariance of the styles' colours.

    T = S_p^-1/2 (S_p^1/2 S_s S_p^1/2)^1/2 S_p^-1/2, the optimal transport map between Gaussians.

    Args:
        pictures: [B, 3, H, W] in [0, 1].
        styles: [B, 3, h, w] in [0, 1].

    Returns:
        [B, 3, H, W], clamped to [0, 1].

    Source: Pitie and Kokaram 2007, "The linear Monge-Kantorovitch colour mapping", eq. 11.
    """
    x, y = pictures.flatten(2).double(), styles.flatten(2).double()
    mean_x, mean_y = x.mean(2, keepdim=True), y.mean(2, keepdim=True)
    root = _sqrt(_covariance(x - mean_x))
    inverse = torch.linalg.inv(root)
    transport = inverse @ _sqrt(root @ _covariance(y - mean_y) @ root) @ inverse
    return (transport @ (x - mean_x) + mean_y).view(pictures.shape).clamp(0, 1).to(pictures.dtype)


def _covariance(centred: torch.Tensor) -> torch.Tensor:
    eye = torch.eye(centred.shape[1], dtype=centred.dtype)
    return centred @ centred.transpose(1, 2) / centred.shape[2] + EPSILON * eye


def _sqrt(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag_embed(values.clamp(min=0).sqrt()) @ vectors.transpose(1, 2)


def repaint(photos: torch.Tensor, artworks: torch.Tensor) -> torch.Tensor:
    """Photos in the colours and patches of artworks.

    Args:
        photos: [B, 3, H, W] in [0, 1], H and W multiples of `STRIDE_PX`.
        artworks: [B, 3, h, w] in [0, 1]; photo i is repainted from artwork i.

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    recoloured = match_colours(photos, artworks)
    return torch.cat([_repaint_one(p[None], a[None]) for p, a in zip(recoloured, artworks, strict=True)])


def _repaint_one(photo: torch.Tensor, artwork: torch.Tensor) -> torch.Tensor:
    pad = PATCH_PX - STRIDE_PX
    padded = F.pad(photo, (pad,) * 4, mode="reflect")
    queries = _patches(padded, STRIDE_PX)
    keys = _patches(artwork, max(3, min(artwork.shape[-2:]) // KEYS_PER_SIDE))
    described = _describe(keys)
    affinity = _describe(queries) @ described.T - described.square().sum(1) / 2
    chosen = keys[affinity.argmax(1)]
    window = torch.hann_window(PATCH_PX + 2, periodic=False)[1:-1]
    window = (window[:, None] * window).expand(3, -1, -1).reshape(-1)
    fold = {"output_size": padded.shape[-2:], "kernel_size": PATCH_PX, "stride": STRIDE_PX}
    total = F.fold((chosen * window).T[None], **fold)
    weight = F.fold(window.expand_as(chosen).T[None], **fold)
    return (total / weight)[..., pad:-pad, pad:-pad]


def _patches(picture: torch.Tensor, stride: int) -> torch.Tensor:
    return F.unfold(picture, PATCH_PX, stride=stride)[0].T


def _describe(patches: torch.Tensor) -> torch.Tensor:
    """Compare contrast more than brightness: 4x4 averages, the mean weighted down."""
    cells = F.avg_pool2d(patches.view(-1, 3, PATCH_PX, PATCH_PX), 2)
    mean = cells.mean((2, 3), keepdim=True)
    return torch.cat([(cells - mean).flatten(1), 2 * mean.flatten(1)], 1)
