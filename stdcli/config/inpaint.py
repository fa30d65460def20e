"""What `stdcli inpaint` may be told: all that `stylize` takes, and what to repaint.

Knows nothing of files, layers or torch.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stdcli.config.schema import StylizeConfig, Text

FROM_ALPHA = "alpha"


class InpaintConfig(StylizeConfig):
    """`stdcli inpaint`: repaint a part of a picture or clip."""

    mask: Text | None = None
    """White where to repaint: a picture, for clips also a clip or numbered pictures; 'alpha' for what is
    transparent in the input."""
    resize_mask: bool = False
    """Take a mask of another size, resized."""
    feather: Annotated[int, Field(ge=0, le=256)] = 8
    """Pixels over which the result fades in, from the mask's border inwards."""
    crop: bool = False
    """Compute only a box around the mask."""
