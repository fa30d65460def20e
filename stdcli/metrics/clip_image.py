"""Similarity of result and content by CLIP. Legend: F frames, D width of an embedding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn.functional import cosine_similarity

from stdcli.metrics.metric import Backbone, Backbones, Metric, Subject
from stdcli.metrics.preparation import CLIP_PROTOCOL, clip_input, in_batches


def clip_image(subject: Subject, backbones: Backbones) -> float:
    """Cosine between the embeddings of result and content, from -1 to 1; mean over frames.

    Source: Radford 2021 (CLIP); as CLIP-I in Ruiz 2023 (DreamBooth) section 4.2.
    """
    backbone = backbones.get("clip")
    result, content = (embed_pictures(frames, backbone) for frames in (subject.frames, subject.content))
    return float(cosine_similarity(result, content).mean())


def embed_pictures(pictures: Sequence[np.ndarray], backbone: Backbone) -> Tensor:
    """CLIP embeddings [F, D], not normalised, of uint8 pictures [h, w, 3] of any size."""
    side = backbone.network.size
    inputs = (clip_input(picture, side) for picture in pictures)
    return in_batches(inputs, backbone.network.embed_pictures, backbone.device)


METRIC = Metric(
    name="clip-i",
    title="content similarity (CLIP-I)",
    group="content",
    better="higher",
    lowest=-1.0,
    highest=1.0,
    needs=("content",),
    cite="Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision",
    protocol=f"CLIP ViT-L/14, {CLIP_PROTOCOL}, cosine",
    measure=clip_image,
    backbones=("clip",),
)
