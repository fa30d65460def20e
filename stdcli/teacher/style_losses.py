"""How far pictures are from a style and a content, in features that know brushwork (`vgg.py`).

Of each of four layers the Gram matrix and the means and deviations of channels are compared, relative to the
style's own, so that no layer outweighs the others.

Legend: B batch, C channels, H W pixels, h w cells of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stdcli.teacher.vgg import VggFeatures

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")


@dataclass(frozen=True)
class StyleStatistics:
    """What a style is to the loss.

    Attributes:
        grams: per layer [B, C, C], mean products of channels over cells.
        means: per layer [B, C].
        deviations: per layer [B, C].
    """

    grams: tuple[Tensor, ...]
    means: tuple[Tensor, ...]
    deviations: tuple[Tensor, ...]

    def rows(self, chosen: Tensor) -> StyleStatistics:
        """Those of chosen pictures of the batch."""
        return StyleStatistics(*(tuple(layer[chosen] for layer in part) for part in self._parts()))

    def moments(self) -> Tensor:
        """Means and logarithms of deviations of all layers: [B, 2 sum C]."""
        logs = [torch.log(layer + 1) for layer in (*self.means, *self.deviations)]
        return torch.cat(logs, dim=1)

    def _parts(self) -> tuple[tuple[Tensor, ...], ...]:
        return self.grams, self.means, self.deviations


def style_statistics(network: VggFeatures, pictures: Tensor) -> StyleStatistics:
    """Statistics of pictures [B, 3, H, W] in [0, 1], H and W at least 16."""
    layers = network(pictures, STYLE_LAYERS)
    flat = [layer.flatten(2) for layer in layers]
    return StyleStatistics(
        tuple(x @ x.transpose(1, 2) / x.shape[2] for x in flat),
        tuple(x.mean(2) for x in flat),
        tuple(x.var(2, correction=0).add(1e-6).sqrt() for x in flat),
    )


def style_distance(ours: StyleStatistics, style: StyleStatistics, *, balanced: bool = False) -> Tensor:
    """Mean over layers of the relative squared distances of Gram matrices and of means and deviations.

    Args:
        ours: of the results.
        style: of the styles, the same batch.
        balanced: the root of each of the two terms of a layer instead: none outweighs the others in training.

    Returns:
        [B], 0 for equal statistics.
    """
    total = torch.zeros(len(style.grams[0]), device=style.grams[0].device)
    layers = zip(*ours._parts(), *style._parts(), strict=True)
    for gram, mean, deviation, gram_s, mean_s, deviation_s in layers:
        texture = _square(gram - gram_s) / _square(gram_s)
        spread = _square(mean - mean_s) + _square(deviation - deviation_s)
        moments = spread / (_square(mean_s) + _square(deviation_s))
        terms = (texture, moments)
        total = total + sum((term + 1e-8).sqrt() if balanced else term for term in terms)
    return total / len(ours.grams)


def content_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared difference of features [B, C, h, w] relative to the mean square of theirs: [B]."""
    return (ours - theirs).square().mean((1, 2, 3)) / theirs.square().mean((1, 2, 3)).clamp(min=1e-6)


def _square(x: Tensor) -> Tensor:
    return x.square().flatten(1).sum(1)
