"""How much people would like the result, by LAION's predictor."""

from __future__ import annotations

import torch

from stdcli.metrics.clip_image import embed_pictures
from stdcli.metrics.metric import Backbones, Metric, Subject
from stdcli.metrics.preparation import CLIP_PROTOCOL


def aesthetic(subject: Subject, backbones: Backbones) -> float:
    """The predicted mark, from about 1 to about 10; mean over frames.

    Source: christophschuhmann/improved-aesthetic-predictor `simple_inference.py`.
    """
    embeds = embed_pictures(subject.frames, backbones.get("clip"))
    head = backbones.get("aesthetic")
    with torch.inference_mode():
        return float(head.network(embeds.to(head.device)).mean())


METRIC = Metric(
    name="aesthetic",
    title="aesthetic mark (LAION v2)",
    group="looks",
    better="higher",
    lowest=1.0,
    highest=10.0,
    needs=(),
    cite="Schuhmann et al. 2022, LAION-5B (improved aesthetic predictor, v2)",
    protocol=f"CLIP ViT-L/14, {CLIP_PROTOCOL}, embedding of length 1, linear head; not VBench's",
    measure=aesthetic,
    backbones=("clip", "aesthetic"),
)
