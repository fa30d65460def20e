"""Networks that are shown a mask and what it leaves of a picture, and repaint the rest.

Their input is the state, the mask and the latents of what is left: with four latent channels, nine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def sees_mask(unet_config: Mapping[str, Any]) -> bool:
    """Whether a UNet of such a config is shown masks."""
    latent = unet_config.get("out_channels", 4)
    return unet_config.get("in_channels", 4) == 2 * latent + 1
