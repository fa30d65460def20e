"""What `stdcli eval` may be told: what to stylize, by which methods, what to measure and what to demand.

Knows nothing of files, layers or torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from stdcli.config.check import check
from stdcli.config.quantities import split_threshold, split_weights
from stdcli.config.schema import (
    Count,
    Device,
    Dtype,
    Guidance,
    Prompt,
    Section,
    Seed,
    Steps,
    StylizeConfig,
    Text,
    Texts,
    split_numbers,
    wrap_text,
)

PLAIN_METRICS = ("palette", "texture", "edges", "ssim", "sharpness", "warping", "flicker")
"""Metrics that need no weights."""
SHARED = ("style", "seed", "device", "dtype", "offline", "start", "duration", "fps", "max_size")
"""Settings of `stylize` that belong to the suite, not to one of its methods."""
ITS_OWN = ("sampler", "final", "gamma", "timesteps", "num_solver_steps")
"""Settings that a student's own recipe should decide."""


def _check_threshold(value: str) -> str:
    split_threshold(value)
    return value


def _check_weights(value: str) -> str:
    split_weights(value)
    return value


StepCounts = Annotated[tuple[Steps, ...], BeforeValidator(split_numbers)]
Guidances = Annotated[tuple[Guidance, ...], BeforeValidator(split_numbers)]
Thresholds = Annotated[
    tuple[Annotated[Text, AfterValidator(_check_threshold)], ...], BeforeValidator(wrap_text)
]
WeightFiles = Annotated[
    tuple[Annotated[Text, AfterValidator(_check_weights)], ...], BeforeValidator(wrap_text)
]


class MethodSection(Section):
    """One way of stylizing; with several step counts or guidances, one method for each."""

    name: Text
    """Shown in reports; step count and guidance are added where there are several."""
    steps: StepCounts = ()
    """Step counts to go through; empty: that of the settings, or the model's own."""
    guidance: Guidances = ()
    """Guidances to go through."""
    settings: StylizeConfig = StylizeConfig()
    """Anything else that `stdcli stylize` takes: model, student, strength, temporal ..."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        for name in ("steps", "guidance"):
            if getattr(self, name) and getattr(self.settings, name) is not None:
                yield name, f"given twice; leave settings.{name} out"
        if self.steps and self.settings.timesteps is not None:
            yield "steps", "settings.timesteps already says the steps"
        default = StylizeConfig()
        for name in SHARED:
            if getattr(self.settings, name) != getattr(default, name):
                yield f"settings.{name}", "belongs to the suite, the same for all methods"


class WarpingSection(Section):
    """How warping errors are counted; a part of their protocol."""

    norm: Literal["rmse", "mse", "l1"] = "rmse"
    occlusion: Literal["none", "forward-backward", "forward-backward+boundaries"] = "forward-backward"
    """Which pixels are left out, beside those that leave the frame."""
    white: Literal[1, 255] = 1
    """Value of a white pixel: 1, or 255 as in some papers."""
    flow: Text | None = None
    """Folder of .flo files of the source clip, `forward/00000.flo` and `backward/00000.flo`; of several,
    one folder for each clip in it, named as the clip without its suffix. By default OpenCV's DIS flow."""


class EvalConfig(Section):
    """`stdcli eval`: stylize a grid, measure, report."""

    title: Text = "stdcli eval"
    contents: Texts = ()
    """Photos and clips: files, folders, globs; empty: the sample photos of `stdcli demo`."""
    styles: Texts = ()
    """Style pictures likewise; empty: the sample styles."""
    grid: Literal["all", "pairs"] = "all"
    """'all': every content in every style; 'pairs': the first in the first, the second in the second ..."""
    size: Annotated[int, Field(ge=32)] | None = 256
    """Longer side that contents are shrunk to before anything else, in pixels; null leaves them."""
    frames: Count = 24
    """Frames of a clip that are used, from its beginning."""
    methods: tuple[MethodSection, ...] = ()
    metrics: Annotated[tuple[Text, ...], BeforeValidator(split_numbers)] = PLAIN_METRICS
    """What to measure: names, or 'all'; see `stdcli eval metrics`."""
    best_by: Text | None = None
    """Metric by which the best guidance of every method and step count is chosen; null leaves that out."""
    weights: WeightFiles = ()
    """Files of networks that metrics use, each 'name=path'."""
    warping: WarpingSection = WarpingSection()
    require: bool = False
    """Whether a metric without its weights is an error rather than n/a."""
    threshold: Thresholds = ()
    """What must hold, such as 'palette<=5' (every method) or 'student:edges>=0.6' (this one)."""
    prompt: Prompt | None = None
    """What the results should show, for metrics that compare with a text."""
    seed: Seed = 0
    device: Device = "auto"
    dtype: Dtype = "auto"
    offline: bool = False

    def conflicts(self) -> Iterator[tuple[str, str]]:
        names = [method.name for method in self.methods]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield "methods", f"two are called {name!r}"


def add_methods(config: EvalConfig, students: Iterable[tuple[str, str]]) -> EvalConfig:
    """The same with more methods: other students, like the last method but for what is theirs to decide.

    Args:
        config: with at least one method, whose model, step counts and other settings are taken.
        students: (name, student) of each.

    Raises:
        ConfigError: a name is there already.
    """
    data = config.model_dump()
    like = data["methods"][-1] if data["methods"] else MethodSection(name="student").model_dump()
    for name, student in students:
        settings = like["settings"] | dict.fromkeys(ITS_OWN) | {"student": student}
        data["methods"] = [*data["methods"], like | {"name": name, "settings": settings}]
    return check(EvalConfig, data)
