"""Matplotlib's SVG made part of a page: the page's type and colours, no ids twice, the same bytes every time.

Matplotlib knows no CSS, so it draws in colours that stand for the page's; afterwards these become CSS
variables, and one drawing serves light and dark pages. Matplotlib and not plotly: a drawing is some 10 kB of
plain SVG, where plotly's is a script of megabytes that every report would carry.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from stdcli.evaluate.page.markup import Markup
from stdcli.evaluate.page.numbers import COLORS
from stdcli.metrics.optional_packages import load_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, LINE = "#0e0f01", "#0e0f02", "#0e0f03"
VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)"} | {
    f"#0e0fa{number}": f"var(--c{number})" for number in range(COLORS)
}
STYLE = {
    "svg.fonttype": "none",  # text stays text, in the page's type
    "text.parse_math": False,  # a dollar in a title is a dollar
    "font.family": "sans-serif",
    "font.size": 11.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "savefig.transparent": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}


def family_color(number: int) -> str:
    """The colour to draw a family in, see `Numbers.families`."""
    return f"#0e0fa{number}"


@dataclass(frozen=True)
class Frame:
    """Size of a drawing and room around its axes, in points.

    Fixed, not what a layout engine finds: a third of the time, and drawings beside each other align.
    """

    width: float
    height: float
    left: float = 52
    bottom: float = 42
    right: float = 10
    top: float = 6

    def rectangle(self) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of the axes as fractions."""
        width, height = self.width - self.left - self.right, self.height - self.bottom - self.top
        return self.left / self.width, self.bottom / self.height, width / self.width, height / self.height


def draw_svg(draw: Callable[[Axes], None], *, name: str, frame: Frame) -> Markup:
    """A drawing as an `<svg>` element without references to anything.

    Args:
        draw: draws on the axes it is given.
        name: unlike that of every other drawing of the page: its ids derive from it.
        frame: its size.

    Returns:
        The element.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    matplotlib = _matplotlib()
    text = StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page's type may have it
        figure = matplotlib.figure.Figure(figsize=(frame.width / 72, frame.height / 72))
        draw(figure.add_axes(frame.rectangle()))
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    return _adopted(text.getvalue())


def color_error_map(error: np.ndarray, *, top: float) -> np.ndarray:
    """Colours of an error map: black through red to yellow, grey where a value is not finite.

    Args:
        error: float [H, W], at least 0.
        top: the error that gets the brightest colour, positive.

    Returns:
        uint8 [H, W, 3].
    """
    colors = _matplotlib().colormaps["inferno"](np.clip(error / top, 0, 1), bytes=True)[..., :3]
    return np.where(np.isfinite(error)[..., None], colors, np.uint8(128))


def _matplotlib() -> ModuleType:
    load_extra("matplotlib.figure")
    return load_extra("matplotlib")


def _adopted(svg: str) -> Markup:
    svg = svg[svg.index("<svg") :].rstrip()
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL
    )  # `*` would be all the page
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"#0e0f\w\w", lambda match: VARIABLES[match[0]], svg)
    return Markup(re.sub(r">\s*\n\s*<", "><", svg))
