"""Random procedural styles: palettes, hatching, strokes, halftone, mosaic, ink, drawn by plain formulas.

A style is a list of steps with fixed parameters; applied to two different pictures it gives a pair that
shares style and nothing else, which is what a style encoder must learn to see. It knows nothing of datasets.

Pictures are float32 [B, 3, H, W] in [0, 1] throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

Step = Callable[[torch.Tensor], torch.Tensor]
LUMA = (0.299, 0.587, 0.114)


class Dice:
    """Small draws from one generator."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * torch.rand(1, generator=self.generator).item()

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return int(torch.randint(low, high + 1, (1,), generator=self.generator).item())

    def colours(self, count: int) -> torch.Tensor:
        """`count` random colours [count, 3] in [0, 1]."""
        return torch.rand(count, 3, generator=self.generator)

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return self.uniform(0, 1) < p


def random_style(generator: torch.Generator) -> Step:
    """Draw a style: one colour step and one or two texture steps.

    Args:
        generator: source of randomness.

    Returns:
        A deterministic function from pictures to pictures of the same shape.
    """
    dice = Dice(generator)
    steps: list[Step] = []
    if dice.chance(0.85):
        steps.append(_pick(dice, COLOURINGS))
    for _ in range(dice.integer(1, 2)):
        steps.append(_pick(dice, TEXTURES))

    def apply(pictures: torch.Tensor) -> torch.Tensor:
        for step in steps:
            pictures = step(pictures).clamp(0, 1)
        return pictures

    return apply


def _pick(dice: Dice, makers: tuple[Callable[[Dice], Step], ...]) -> Step:
    return makers[dice.integer(0, len(makers) - 1)](dice)


def luma(pictures: torch.Tensor) -> torch.Tensor:
    """Luminance [B, 1, H, W] (Rec. 601 weights)."""
    return (pictures * pictures.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _wave(pictures: torch.Tensor, angle: float, period_px: float, phase: float) -> torch.Tensor:
    """A plane wave in [-1, 1], [1, 1, H, W]."""
    height, width = pictures.shape[-2:]
    y = torch.arange(height, dtype=torch.float32)[:, None]
    x = torch.arange(width, dtype=torch.float32)[None]
    along = x * math.cos(angle) + y * math.sin(angle)
    return torch.sin(along * (2 * math.pi / period_px) + phase)[None, None]


def _palette(dice: Dice) -> Step:
    """Luminance through a gradient of 3 to 6 random colours, ordered from dark to light."""
    colours = dice.colours(dice.integer(3, 6))
    if dice.chance(0.7):
        colours = colours[(colours * torch.tensor(LUMA)).sum(1).argsort()]
    strength = dice.uniform(0.6, 1)

    def step(pictures: torch.Tensor) -> torch.Tensor:
        place = luma(pictures)[:, 0].clamp(0, 1) * (len(colours) - 1)
        low = place.floor().clamp(max=len(colours) - 2).long()
        share = (place - low)[..., None]
        mapped = colours[low] * (1 - share) + colours[low + 1] * share
        return torch.lerp(pictures, mapped.permute(0, 3, 1, 2), strength)

    return step


def _colour_matrix(dice: Dice) -> Step:
    """A random affine map of colours around mid grey."""
    matrix = torch.eye(3) * dice.uniform(0.5, 1.3) + (dice.colours(3) - 0.5) * dice.uniform(0.3, 1.2)
    offset = (dice.colours(1)[0] - 0.5) * 0.5 + 0.5

    def step(pictures: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ij,bjhw->bihw", matrix, pictures - 0.5) + offset.view(1, 3, 1, 1)

    return step


def _tint(dice: Dice) -> Step:
    """Duotone: black and white, tinted between two colours."""
    dark, light = dice.colours(2)
    dark, light = dark * 0.5, 0.5 + light * 0.5

    def step(pictures: torch.Tensor) -> torch.Tensor:
        return torch.lerp(dark.view(1, 3, 1, 1), light.view(1, 3, 1, 1), luma(pictures))

    return step


def _posterize(dice: Dice) -> Step:
    """Few tones per channel."""
    tones = dice.integer(2, 5)
    return lambda pictures: (smooth(pictures, 3) * tones).round() / tones


def smooth(pictures: torch.Tensor, size: int) -> torch.Tensor:
    """Box blur of odd `size` pixels with reflected borders."""
    pad = size // 2
    return F.avg_pool2d(F.pad(pictures, (pad,) * 4, mode="reflect"), size, stride=1)


def _hatch(dice: Dice) -> Step:
    """Lines of ink that thicken where the picture is dark; sometimes crossed."""
    period, phase = dice.uniform(3, 9), dice.uniform(0, 6)
    angles = [dice.uniform(0, math.pi)]
    if dice.chance(0.4):
        angles.append(angles[0] + math.pi / 2)
    ink, depth = dice.colours(1)[0] * 0.4, dice.uniform(0.5, 1)

    def step(pictures: torch.Tensor) -> torch.Tensor:
        tone = luma(smooth(pictures, 5))
        for angle in angles:
            line = torch.sigmoid(6 * (_wave(pictures, angle, period, phase) - 2.2 * tone + 0.6)) * depth
            pictures = torch.lerp(pictures, ink.view(1, 3, 1, 1), line)
        return pictures

    return step


def _halftone(dice: Dice) -> Step:
    """Dots on a turned grid, larger where the picture is dark."""
    period, angle = dice.uniform(4, 10), dice.uniform(0, math.pi)
    paper, ink = 0.6 + dice.colours(1)[0] * 0.4, dice.colours(1)[0] * 0.5
    keep = dice.uniform(0, 0.7)

    def step(pictures: torch.Tensor) -> torch.Tensor:
        waves = _wave(pictures, angle, period, 0) + _wave(pictures, angle + math.pi / 2, period, 0)
        dot = torch.sigmoid(5 * (waves / 2 - 2 * luma(smooth(pictures, 5)) + 1))
        return torch.lerp(torch.lerp(paper.view(1, 3, 1, 1), ink.view(1, 3, 1, 1), dot), pictures, keep)

    return step


def _mosaic(dice: Dice) -> Step:
    """Square tiles of one colour, with or without grout."""
    side, grout, tone = dice.integer(4, 12), dice.chance(0.6), dice.uniform(0, 0.4)

    def step(pictures: torch.Tensor) -> torch.Tensor:
        height, width = pictures.shape[-2:]
        tiles = (
            F.avg_pool2d(pictures, side, ceil_mode=True).repeat_interleave(side, 2).repeat_interleave(side, 3)
        )
        tiles = tiles[..., :height, :width].clone()
        if grout:
            tiles[..., ::side, :] *= tone
            tiles[..., ::side] *= tone
        return tiles

    return step


def _strokes(dice: Dice) -> Step:
    """Brush strokes: colours dragged along one direction, over a ridged relief."""
    length, angle = dice.integer(7, 19), dice.uniform(0, math.pi)
    relief, seed = dice.uniform(0.1, 0.5), dice.integer(0, 2**31 - 1)
    steps = torch.linspace(-length / 2, length / 2, length)
    shifts = [(round(s * math.sin(angle)), round(s * math.cos(angle))) for s in steps.tolist()]

    def drag(pictures: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.roll(pictures, shift, (2, 3)) for shift in shifts]).mean(0)

    def step(pictures: torch.Tensor) -> torch.Tensor:
        noise = torch.rand(1, 1, *pictures.shape[-2:], generator=torch.Generator().manual_seed(seed))
        ridges = drag(noise)
        ridges = (ridges - ridges.mean()) / ridges.std()
        jittered = torch.roll(pictures, (2, -2), (2, 3)) * 0.5 + pictures * 0.5
        return drag(jittered) + relief * 0.25 * ridges

    return step


def _ink(dice: Dice) -> Step:
    """Outlines drawn over flattened colours."""
    gain, ink = dice.uniform(3, 9), dice.colours(1)[0] * 0.3

    def step(pictures: torch.Tensor) -> torch.Tensor:
        tone = luma(smooth(pictures, 3))
        dy = F.pad(tone[..., 2:, :] - tone[..., :-2, :], (0, 0, 1, 1))
        dx = F.pad(tone[..., 2:] - tone[..., :-2], (1, 1))
        edge = (gain * (dy.square() + dx.square()).sqrt() - 0.4).clamp(0, 1)
        return torch.lerp(smooth(pictures, 5), ink.view(1, 3, 1, 1), edge)

    return step


def _grain(dice: Dice) -> Step:
    """Coarse paper or canvas grain."""
    amount, cell, seed = dice.uniform(0.05, 0.25), dice.integer(1, 4), dice.integer(0, 2**31 - 1)

    def step(pictures: torch.Tensor) -> torch.Tensor:
        height, width = pictures.shape[-2:]
        rng = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, 1, -(-height // cell), -(-width // cell), generator=rng)
        return pictures + amount * F.interpolate(noise, size=(height, width), mode="bilinear")

    return step


def _weave(dice: Dice) -> Step:
    """Two crossed waves of light and dark, as of cloth."""
    amount, period, angle = dice.uniform(0.08, 0.25), dice.uniform(3, 8), dice.uniform(0, math.pi)

    def step(pictures: torch.Tensor) -> torch.Tensor:
        cloth = _wave(pictures, angle, period, 0) * _wave(pictures, angle + math.pi / 2, period, 0)
        return pictures + amount * cloth

    return step


COLOURINGS = (_palette, _colour_matrix, _tint)
TEXTURES = (_posterize, _hatch, _halftone, _mosaic, _strokes, _strokes, _ink, _grain, _weave)
