"""Distance of layouts: what in a picture is like what else in it. Legend: F frames, T tokens, D width."""

from __future__ import annotations

from torch import Tensor, stack
from torch.nn.functional import normalize

from stdcli.metrics.metric import Backbones, Metric, Subject
from stdcli.metrics.preparation import in_batches, square_input


def structure(subject: Subject, backbones: Backbones) -> float:
    """Mean squared difference of the self-similarities of result and content, from 0 to 4; mean over frames.

    Source: Tumanyan 2022 (Splicing ViT Features for Semantic Appearance Transfer) section 3, the structure
        loss as the mean over the matrix; omerbt/Splice `util/losses.py`.
    """
    backbone = backbones.get("dino")
    side = backbone.network.size

    def distances(pairs: Tensor) -> Tensor:
        result, content = (self_similarity(backbone.network(pictures)) for pictures in pairs.unbind(1))
        return (result - content).square().mean(dim=(1, 2))

    frames = zip(subject.frames, subject.content, strict=True)
    pairs = (stack([square_input(picture, side) for picture in pair]) for pair in frames)
    return float(in_batches(pairs, distances, backbone.device).mean())


def self_similarity(keys: Tensor) -> Tensor:
    """Cosines [F, T, T] between all keys [F, T, D] of a picture."""
    unit = normalize(keys, dim=-1)
    return unit @ unit.mT


METRIC = Metric(
    name="structure",
    title="structure distance (DINO)",
    group="content",
    better="lower",
    lowest=0.0,
    highest=4.0,
    needs=("content",),
    cite="Tumanyan et al. 2022, Splicing ViT Features for Semantic Appearance Transfer",
    protocol="DINO ViT-B/8, whole picture as 224x224 bilinear, keys of the last layer with the class token, "
    "cosine self-similarity, mean squared difference",
    measure=structure,
    backbones=("dino",),
)
