"""Style pictures drawn by formulas, so that a first try needs no file and no licence.

Each function paints one square picture from a seed with plain numpy and PIL. Drawn at twice the size and
reduced, for smooth edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

SIDE_PX = 512
SCALE = 2  # supersampling

Rgb = tuple[int, int, int]


def _field(rng: np.random.Generator, side: int, waves: int = 6, cycles: float = 3.0) -> np.ndarray:
    """A smooth random field in [0, 1], [side, side]: a sum of plane waves."""
    y, x = np.mgrid[0:side, 0:side] / side
    total = np.zeros((side, side))
    for _ in range(waves):
        fx, fy = rng.uniform(-cycles, cycles, 2)
        total += np.sin(2 * math.pi * (fx * x + fy * y) + rng.uniform(0, 2 * math.pi))
    return (total - total.min()) / np.ptp(total)


def _shade(palette: np.ndarray, value: float, rng: np.random.Generator, jitter: float) -> Rgb:
    """A colour of a palette [K, 3] at place `value` in [0, 1], varied by `jitter` (0 to 255)."""
    position = value * (len(palette) - 1)
    low = min(int(position), len(palette) - 2)
    color = palette[low] * (1 - position + low) + palette[low + 1] * (position - low)
    return tuple(int(c) for c in np.clip(color + rng.normal(0, jitter, 3), 0, 255))


def _finish(image: Image.Image) -> Image.Image:
    return image.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)


def night(seed: int = 0) -> Image.Image:
    """Thick brush strokes along swirls, in blues and yellows."""
    rng = np.random.default_rng(seed)
    side = SIDE_PX * SCALE
    palette = np.array(
        [[12, 22, 68], [24, 60, 130], [60, 120, 170], [150, 190, 190], [240, 205, 90], [250, 235, 160]]
    )
    angle, tone = _field(rng, side, cycles=2.0) * 4 * math.pi, _field(rng, side, waves=4, cycles=2.5)
    image = Image.new("RGB", (side, side), (20, 40, 100))
    draw = ImageDraw.Draw(image)
    for _ in range(9000):
        x, y = rng.integers(0, side, 2)
        path = [(float(x), float(y))]
        for _ in range(6):
            at = angle[int(path[-1][1]) % side, int(path[-1][0]) % side]
            path.append((path[-1][0] + 11 * math.cos(at), path[-1][1] + 11 * math.sin(at)))
        draw.line(
            path, fill=_shade(palette, tone[y, x], rng, 14), width=int(rng.integers(6, 13)), joint="curve"
        )
    return _finish(image)


def ink(seed: int = 1) -> Image.Image:
    """Cross-hatching in sepia ink on warm paper."""
    rng = np.random.default_rng(seed)
    side = SIDE_PX * SCALE
    tone = _field(rng, side, waves=5, cycles=2.5)
    image = Image.new("RGB", (side, side), (238, 226, 200))
    draw = ImageDraw.Draw(image)
    for layer, (angle, limit) in enumerate([(0.8, 0.62), (2.3, 0.45), (0.1, 0.3)]):
        for _ in range(5200 - 900 * layer):
            x, y = rng.integers(0, side, 2)
            if tone[y, x] > limit + rng.normal(0, 0.05):
                continue
            turn, length = angle + rng.normal(0, 0.06), rng.uniform(24, 52)
            dx, dy = length * math.cos(turn) / 2, length * math.sin(turn) / 2
            shade = int(rng.integers(30, 75))
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=(shade + 18, shade, shade - 20), width=3)
    return _finish(image)


def glass(seed: int = 2) -> Image.Image:
    """Stained glass: saturated cells between dark leads."""
    rng = np.random.default_rng(seed)
    side = SIDE_PX * SCALE
    points = rng.uniform(0, side, (240, 2))
    hues = np.array(
        [[190, 25, 40], [225, 120, 20], [245, 205, 60], [20, 120, 80], [25, 80, 170], [95, 40, 130]]
    )
    colors = hues[rng.integers(0, len(hues), len(points))] + rng.normal(0, 18, (len(points), 3))
    y, x = np.mgrid[0:side:2, 0:side:2]
    nearest = np.full(x.shape, np.inf)
    second, owner = nearest.copy(), np.zeros(x.shape, int)
    for index, (px, py) in enumerate(points):
        distance = np.hypot(x - px, y - py)
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        owner = np.where(closer, index, owner)
        nearest = np.where(closer, distance, nearest)
    edge = second - nearest
    light = 0.8 + 0.3 * _field(rng, x.shape[0], cycles=6)
    picture = colors[owner] * light[..., None]
    picture[edge < 9] = (22, 20, 26)
    return _finish(Image.fromarray(picture.clip(0, 255).astype(np.uint8)))


def waves(seed: int = 3) -> Image.Image:
    """Rows of overlapping arcs in indigo and cream, as on printed cloth."""
    rng = np.random.default_rng(seed)
    side, radius = SIDE_PX * SCALE, 84
    image = Image.new("RGB", (side, side), (232, 222, 200))
    draw = ImageDraw.Draw(image)
    deep, pale = np.array([24, 44, 96.0]), np.array([226, 216, 196.0])
    for row in range(-1, 2 * side // radius + 3):
        for column in range(-1, side // (2 * radius) + 2):
            cx = column * 2 * radius + (radius if row % 2 else 0)
            cy = row * radius // 2
            tint = np.array([0, 14, 26]) * rng.uniform(-1, 1.6)
            for ring, share in enumerate((1.0, 0.82, 0.66, 0.5, 0.34, 0.18)):
                color = (deep + tint if ring % 2 == 0 else pale).clip(0, 255)
                r = radius * share
                draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=tuple(int(c) for c in color))
    return _finish(image)


def dots(seed: int = 4) -> Image.Image:
    """Points of pure colour side by side: oranges and greens in the light, violets in the shade."""
    rng = np.random.default_rng(seed)
    side = SIDE_PX * SCALE
    light = np.array([[245, 160, 60], [250, 215, 110], [170, 190, 80], [240, 120, 90]])
    shade = np.array([[90, 60, 140], [50, 110, 150], [150, 70, 120], [40, 130, 110]])
    tone = _field(rng, side, waves=4, cycles=2.0)
    image = Image.new("RGB", (side, side), (235, 220, 190))
    draw = ImageDraw.Draw(image)
    for _ in range(26000):
        x, y = rng.integers(0, side, 2)
        family = light if tone[y, x] + rng.normal(0, 0.12) > 0.5 else shade
        color = family[rng.integers(0, 4)] + rng.normal(0, 12, 3)
        r = rng.uniform(4, 8)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(c) for c in color.clip(0, 255)))
    return _finish(image)


STYLES: dict[str, Callable[[], Image.Image]] = {
    "night": night,
    "ink": ink,
    "glass": glass,
    "waves": waves,
    "dots": dots,
}
