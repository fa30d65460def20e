"""Recolour a photo in closed form: the linear map between the Gaussians of two pictures' colours.

What training aims at, as far as content goes: the photo's drawing in the style's colours.
"""

from __future__ import annotations

import torch

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
