"""Which pictures a report shows, and each as a JPEG inside the page, small enough together."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from stdcli.evaluate.page.figure import color_error_map
from stdcli.media.arrays import fit_max_size

SIDES_PX = (384, 320, 256, 192, 128, 96)  # longer side; the first with which all fit
BUDGET_BYTES = 5_000_000  # of all JPEGs; base64 makes 6.7 MB of it
QUALITY = 82
MAX_PICTURES = 600
MAX_FRAMES = 6  # of a clip
TOP_QUANTILE = 0.995  # of all errors, what gets the brightest colour


@dataclass(frozen=True)
class ContentStylePair:
    """A source and a style that some methods made a result of.

    Attributes:
        content, style: ids.
        frames: numbers of the frames shown; none for a picture.
    """

    content: str
    style: str
    frames: tuple[str, ...] = ()

    def keys(self, owner: str) -> list[str]:
        """Keys of the pictures of `content` or of a method's `result` or `error`, one per frame."""
        place = "" if owner == "content" else f"/{self.style}"
        stem = f"{owner}/{self.content}{place}"
        return [f"{stem}/{frame}" for frame in self.frames] if self.frames else [stem]


def find_pairs(report: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> list[ContentStylePair]:
    """Pairs with any picture of a result, in the report's order; of too many, evenly chosen ones."""
    kinds = {content["id"]: content["kind"] for content in report["contents"]}
    names = [method["id"] for method in report["methods"]]
    pairs = []
    for content, style in _pairs_in_order(report):
        pair = ContentStylePair(content, style, _frames(images, names, f"{content}/{style}"))
        if (kinds.get(content) != "clip" or pair.frames) and any(
            key in images for name in names for key in pair.keys(f"result/{name}")
        ):
            pairs.append(pair)
    return _spread(pairs, max(1, MAX_PICTURES // (len(names) + 2)))


def _pairs_in_order(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    places = [
        {item["id"]: place for place, item in enumerate(report[kind])} for kind in ("contents", "styles")
    ]
    pairs = {(result["content"], result["style"] or "") for result in report["results"]}
    return sorted(
        pairs, key=lambda pair: [*(ids.get(name, -1) for ids, name in zip(places, pair, strict=True)), pair]
    )


def _frames(images: Mapping[str, np.ndarray], names: Sequence[str], end: str) -> tuple[str, ...]:
    """A few of the frames there are, those with an error where any has one."""
    for owner in ("error", "result"):
        stems = tuple(f"{owner}/{name}/{end}/" for name in names)
        found = {key.rpartition("/")[2] for key in images if key.startswith(stems)}
        found = {frame for frame in found if frame.isdecimal()}
        if found:
            return tuple(_spread(sorted(found), MAX_FRAMES))
    return ()


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    if len(items) <= count:
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, count)]


class Gallery:
    """The pictures of some pairs as JPEG.

    Args:
        images: as given to `render`.
        pairs: what is shown.
        methods: ids.

    Attributes:
        top: the error that heat maps show brightest, the same in all of them.
    """

    def __init__(
        self, images: Mapping[str, np.ndarray], pairs: Iterable[ContentStylePair], methods: Sequence[str]
    ) -> None:
        pairs = list(pairs)
        owners = ["content", *(f"result/{name}" for name in methods)]
        shown = [key for pair in pairs for owner in owners for key in pair.keys(owner)]
        shown += [f"style/{pair.style}" for pair in pairs]
        errors = [key for pair in pairs for name in methods for key in pair.keys(f"error/{name}")]
        errors = [key for key in dict.fromkeys(errors) if key in images]
        self.top = _top([images[key] for key in errors])
        pictures = {key: images[key] for key in dict.fromkeys(shown) if key in images}
        pictures |= {key: color_error_map(images[key], top=self.top) for key in errors}
        self._jpegs = _encode_all(pictures)

    def source(self, key: str) -> str | None:
        """A data URI; None where there is no such picture."""
        jpeg = self._jpegs.get(key)
        return None if jpeg is None else "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _top(errors: Sequence[np.ndarray]) -> float:
    values = np.concatenate([error[np.isfinite(error)] for error in errors]) if errors else np.ones(1)
    top = float(np.quantile(values, TOP_QUANTILE)) if values.size else 1.0
    return top if math.isfinite(top) and top > 0 else 1.0


def _encode_all(pictures: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    jpegs: dict[str, bytes] = {}
    for side_px in SIDES_PX:
        jpegs = {key: encode(picture, side_px) for key, picture in pictures.items()}
        if sum(map(len, jpegs.values())) <= BUDGET_BYTES:
            break
    return jpegs


def encode(picture: np.ndarray, side_px: int) -> bytes:
    """A JPEG whose longer side is at most `side_px`.

    Args:
        picture: uint8 [H, W, 3].
        side_px: at least 1.

    Returns:
        The file, without metadata.

    Raises:
        ValueError: another shape or dtype.
    """
    file = BytesIO()
    Image.fromarray(fit_max_size(picture, side_px)).save(file, "JPEG", quality=QUALITY, optimize=True)
    return file.getvalue()
