"""Metrics by name; a metric's module is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from stdcli.config.names import near_misses
from stdcli.errors import ConfigError
from stdcli.metrics.metric import Metric

METRICS: dict[str, str] = {
    "palette": "stdcli.metrics.palette",
    "texture": "stdcli.metrics.texture",
    "gram": "stdcli.metrics.gram",
    "csd": "stdcli.metrics.csd",
    "aesthetic": "stdcli.metrics.aesthetic",
    "edges": "stdcli.metrics.edges",
    "ssim": "stdcli.metrics.ssim",
    "lpips": "stdcli.metrics.lpips",
    "structure": "stdcli.metrics.structure",
    "clip-i": "stdcli.metrics.clip_image",
    "clip-t": "stdcli.metrics.clip_text",
    "sharpness": "stdcli.metrics.sharpness",
    "warping": "stdcli.metrics.warping",
    "flicker": "stdcli.metrics.flicker",
}
"""Name -> module with a `METRIC`; also the order in reports."""


def find_metric(name: str) -> Metric:
    """The metric called `name`.

    Raises:
        ConfigError: there is none; names near misses.
    """
    if name not in METRICS:
        raise ConfigError("no such metric", [("metrics", f"{name!r}: {near_misses(name, METRICS)}")])
    return import_module(METRICS[name]).METRIC
