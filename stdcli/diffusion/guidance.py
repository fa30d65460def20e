"""Classifier-free guidance in the two forms of the papers; outside this module there is only the Imagen form.

Imagen (diffusers) form: uncond + guidance (cond - uncond), 1 = off.
Omega form: cond + omega (cond - uncond), 0 = off, omega = guidance - 1.
"""

from __future__ import annotations

from torch import Tensor

from stdcli.diffusion.combine import Scale, combine


def to_omega(guidance: Scale) -> Scale:
    """Guidance in the Imagen form -> the omega of LCM's, TCD's and STD's papers."""
    return guidance - 1


def from_omega(omega: Scale) -> Scale:
    """Omega of LCM's, TCD's and STD's papers -> guidance in the Imagen form."""
    return omega + 1


def guide(cond: Tensor, uncond: Tensor | None, guidance: Scale) -> Tensor:
    """Guided prediction: uncond + guidance (cond - uncond).

    Holds for any kind of prediction, because all are linear in each other.

    Args:
        cond: [B, ...], the network's output with the condition.
        uncond: same shape, its output without; None where guidance is off.
        guidance: >= 0, number or [B]; 1 returns `cond` exactly, 0 returns `uncond` exactly.

    Returns:
        [B, ...], float32 or the wider dtype of the two (`cond` itself where `uncond` is None).

    Raises:
        ValueError: guidance is on, and there is no unconditional prediction.
    Source: Ho 2022 (classifier-free guidance) eq. 6, w = omega; Saharia 2022 (Imagen) eq. 2.
    """
    if uncond is not None:
        return combine((guidance, cond), (-to_omega(guidance), uncond))
    if isinstance(guidance, Tensor) or guidance != 1:
        raise ValueError(f"guidance {guidance} needs an unconditional prediction")
    return cond
