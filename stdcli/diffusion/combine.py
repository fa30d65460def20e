"""The one piece of arithmetic of this package: sums of tensors with a coefficient per batch or per sample.

Coefficients are worked out in float64, tensors are combined in float32 at least: at the top of SD's schedule
1/alpha is 15, so a conversion in half precision would multiply its rounding by 15.
"""

from __future__ import annotations

import torch
from torch import Tensor

Scale = float | Tensor
"""A number, or float64 [B] with one value per sample."""


def combine(*terms: tuple[Scale, Tensor]) -> Tensor:
    """Sum of scale x tensor.

    Args:
        terms: (scale, tensor) pairs; scale a number or [B], tensors [B, ...] of one shape and device.

    Returns:
        [B, ...], float32 or the wider dtype among the tensors.

    Raises:
        ValueError: a scale has neither no dimension nor one value per sample.
    """
    dtype = torch.float32
    for _, tensor in terms:
        dtype = torch.promote_types(dtype, tensor.dtype)
    first, *others = (_fit(scale, tensor.to(dtype)) * tensor.to(dtype) for scale, tensor in terms)
    return sum(others, start=first)


def _fit(scale: Scale, tensor: Tensor) -> Scale:
    """`scale` in a form that multiplies `tensor` [B, ...] sample by sample."""
    if not isinstance(scale, Tensor):
        return scale
    if scale.ndim == 0:
        return scale.to(tensor.dtype).to(tensor.device)
    if scale.shape != tensor.shape[:1]:
        raise ValueError(f"scales {list(scale.shape)} do not fit a batch of shape {list(tensor.shape)}")
    return scale.to(tensor.dtype).to(tensor.device).reshape(-1, *[1] * (tensor.ndim - 1))
