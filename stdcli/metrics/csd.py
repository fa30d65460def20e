"""Style similarity by CSD. Legend: F frames, S styles, D width of an embedding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from stdcli.metrics.metric import Backbone, Backbones, Metric, Subject
from stdcli.metrics.preparation import CLIP_PROTOCOL, clip_input, in_batches


def csd(subject: Subject, backbones: Backbones) -> float:
    """Cosine between the style embeddings of result and style, from -1 to 1; mean over frames and styles.

    Source: Somepalli 2024 (Measuring Style Similarity in Diffusion Models) section 4.
    """
    backbone = backbones.get("csd")
    result, style = (embed_styles(pictures, backbone) for pictures in (subject.frames, subject.styles))
    return float((result @ style.T).mean())


def embed_styles(pictures: Sequence[np.ndarray], backbone: Backbone) -> Tensor:
    """Style embeddings of length 1, [F, D], of uint8 pictures [h, w, 3] of any size."""
    side = backbone.network.size
    inputs = (clip_input(picture, side) for picture in pictures)
    return in_batches(inputs, lambda pixels: backbone.network(pixels)[0], backbone.device)


METRIC = Metric(
    name="csd",
    title="style similarity (CSD)",
    group="style",
    better="higher",
    lowest=-1.0,
    highest=1.0,
    needs=("style",),
    cite="Somepalli et al. 2024, Measuring Style Similarity in Diffusion Models",
    protocol=f"CSD ViT-L, {CLIP_PROTOCOL}, cosine of style embeddings",
    measure=csd,
    backbones=("csd",),
)
