"""Similarity of result and prompt by CLIP."""

from __future__ import annotations

import torch
from torch.nn.functional import cosine_similarity

from stdcli.metrics.clip_image import embed_pictures
from stdcli.metrics.metric import Backbones, Metric, Subject
from stdcli.metrics.preparation import CLIP_PROTOCOL


def clip_text(subject: Subject, backbones: Backbones) -> float:
    """Cosine between the embeddings of result and prompt, from -1 to 1; mean over frames.

    Source: Radford 2021 (CLIP); the cosine of Hessel 2021 (CLIPScore) eq. 1, not scaled and not cut at 0.
    """
    backbone = backbones.get("clip")
    with torch.inference_mode():
        prompt = backbone.network.embed_texts([subject.prompt]).cpu()
    return float(cosine_similarity(embed_pictures(subject.frames, backbone), prompt).mean())


METRIC = Metric(
    name="clip-t",
    title="prompt similarity (CLIP-T)",
    group="content",
    better="higher",
    lowest=-1.0,
    highest=1.0,
    needs=("prompt",),
    cite="Hessel et al. 2021, CLIPScore: A Reference-free Evaluation Metric for Image Captioning",
    protocol=f"CLIP ViT-L/14, {CLIP_PROTOCOL}, cosine, prompt as it is, cut at 77 tokens",
    measure=clip_text,
    backbones=("clip",),
)
