"""Metrics over results: which can be measured, what they need, what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stdcli.config.evaluate import EvalConfig
from stdcli.config.quantities import split_threshold, split_weights
from stdcli.errors import ConfigError, MissingWeights, ModelError
from stdcli.evaluate.inputs import Content
from stdcli.evaluate.report import SPEED
from stdcli.metrics.metric import Backbones, Flows, Metric, NotMeasurable, Subject
from stdcli.metrics.optical_flow import dis_flows, folder_flows
from stdcli.metrics.optional_packages import load_extra
from stdcli.metrics.registry import METRICS, find_metric
from stdcli.metrics.warping import WarpProtocol, error_maps, warping_metric
from stdcli.models.perceptual.backbones import LoadedBackbones
from stdcli.runtime.devices import choose

WARPING, ALL = "warping", "all"


@dataclass
class Measures:
    """The metrics of one evaluation, with their networks.

    Attributes:
        metrics: in the order of reports.
        backbones: where networks come from.
        protocol: of warping errors.
        flow: folder of .flo files; None for OpenCV's DIS flow.
        prompt: what results should show.
        missing: metrics without their weights, and why.
        hashes: SHA-256 of each network's weights, by metric and network.
    """

    metrics: Sequence[Metric]
    backbones: Backbones
    protocol: WarpProtocol
    flow: Path | None = None
    prompt: str | None = None
    missing: dict[str, MissingWeights] = field(default_factory=dict)
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def open(cls, config: EvalConfig) -> Measures:
        """Find the metrics that a configuration names, and load their networks.

        Raises:
            ConfigError: an unknown metric.
            ModelError: given weights that do not fit; with `require`, weights that are not here.
        """
        flow = None if config.warping.flow is None else Path(config.warping.flow)
        section = config.warping
        protocol = WarpProtocol(norm=section.norm, occlusion=section.occlusion, white=section.white)
        names = metric_names(config)
        metrics = [warping_metric(protocol) if name == WARPING else find_metric(name) for name in names]
        choice = choose(config.device, "float32")
        weights = dict(split_weights(text) for text in config.weights)
        backbones = LoadedBackbones(weights, device=choice.device, offline=config.offline)
        measures = cls(metrics, backbones, protocol, flow, config.prompt)
        for metric in metrics:
            measures._load(metric)
        if config.require and measures.missing:
            raise _required(measures.missing)
        return measures

    def _load(self, metric: Metric) -> None:
        try:
            found = {name: self.backbones.get(name).sha256 for name in metric.backbones}
        except MissingWeights as error:
            self.missing[metric.name] = error
        else:
            self.hashes[metric.name] = found

    @property
    def wants_flow(self) -> bool:
        """Whether any metric looks at motion."""
        return any("flow" in metric.needs for metric in self.metrics)

    def flows(self, content: Content, *, among: int) -> Flows | None:
        """Motion of a source clip; None for a photo, and where nobody wants it.

        Args:
            content: photo or clip.
            among: number of clips; of several, each has a folder of .flo files of its name.

        Raises:
            MediaError: the .flo files are not those of this clip.
        """
        if not (content.is_clip and self.wants_flow and len(content.frames) > 1):
            return None
        if self.flow is None:
            try:
                return dis_flows(content.frames)
            except NotMeasurable:
                return None
        folder = self.flow if among == 1 else self.flow / content.name
        return folder_flows(folder, len(content.frames), content.frames.shape[1:3])

    def measure(self, subject: Subject) -> dict[str, float | None]:
        """Every metric on one result; None where it does not apply, or its weights are missing."""
        return {metric.name: self._measure(metric, subject) for metric in self.metrics}

    def _measure(self, metric: Metric, subject: Subject) -> float | None:
        if metric.name in self.missing or not applies(metric, subject):
            return None
        if metric.name == WARPING:
            metric = warping_metric(self._protocol(subject.flows))
        try:
            return float(metric.measure(subject, self.backbones))
        except NotMeasurable:
            return None

    def _protocol(self, flows: Flows) -> WarpProtocol:
        return replace(self.protocol, flow=flows.method)

    def source_baseline(self, source: Subject) -> dict[str, float]:
        """What the measures of motion say of a source clip itself: no result can be expected below."""
        found = {m.name: self._measure(m, source) for m in self.metrics if "clip" in m.needs}
        return {name: value for name, value in found.items() if value is not None}

    def error_map(self, subject: Subject) -> np.ndarray | None:
        """Warping error of every pixel, float32 [F - 1, H, W] in [0, 1]; None where there is none."""
        if subject.flows is None or not any(metric.name == WARPING for metric in self.metrics):
            return None
        try:
            return error_maps(subject.frames, subject.flows, self._protocol(subject.flows))
        except NotMeasurable:
            return None

    def columns(self, flows: Sequence[Flows]) -> list[dict[str, Any]]:
        """What the report says of each metric.

        Args:
            flows: those that were measured with; how they were found is part of the protocol.
        """
        methods = sorted({found.method for found in flows})
        return [_column(self._as_measured(metric, methods), self) for metric in self.metrics]

    def _as_measured(self, metric: Metric, methods: Sequence[str]) -> Metric:
        """A metric with the protocol that its numbers have: with the prompt, and the hash of flows' files."""
        if "prompt" in metric.needs and self.prompt is not None:
            return replace(metric, protocol=f"{metric.protocol}; prompt: {self.prompt}")
        if metric.name != WARPING or not methods:
            return metric
        return warping_metric(replace(self.protocol, flow=", ".join(methods)))


def applies(metric: Metric, subject: Subject) -> bool:
    """Whether a subject has what a metric needs."""
    has = {
        "content": subject.content is not None,
        "style": bool(subject.styles),
        "prompt": subject.prompt is not None,
        "clip": subject.fps is not None and len(subject.frames) > 1,
        "flow": subject.flows is not None,
    }
    return all(has[need] for need in metric.needs)


def _column(metric: Metric, measures: Measures) -> dict[str, Any]:
    missing = measures.missing.get(metric.name)
    return {
        "id": metric.name,
        "name": metric.name,
        "title": metric.title,
        "group": metric.group,
        "better": metric.better,
        "range": [metric.lowest, metric.highest],
        "unit": metric.unit,
        "protocol": metric.protocol,
        "weights": measures.hashes.get(metric.name, {}),
        "cite": metric.cite,
        "missing": missing and {"what": missing.what, "fetch": missing.fetch},
    }


def _required(missing: Mapping[str, MissingWeights]) -> ModelError:
    """One error for all weights that are not here."""
    what = "; ".join(f"{name}: {error.what}" for name, error in missing.items())
    lines = dict.fromkeys(error.fetch for error in missing.values())
    return ModelError("metrics lack their weights", got=what, hint="; ".join(lines))


def metric_names(config: EvalConfig) -> list[str]:
    """What is to be measured, each once; 'all' stands for every metric."""
    return list(dict.fromkeys(METRICS if ALL in config.metrics else config.metrics))


def check_motion(config: EvalConfig) -> None:
    """Find out before any work on clips whether their motion can be followed.

    Raises:
        ResourceError: OpenCV is not installed, and there are no .flo files.
    """
    wanted = any("flow" in find_metric(name).needs for name in metric_names(config))
    if wanted and config.warping.flow is None:
        load_extra("cv2")


def check_request(config: EvalConfig, *, timed: bool) -> None:
    """Refuse unknown metrics, missing packages and thresholds on nothing, before anything is loaded.

    Args:
        config: what is asked for.
        timed: whether speed will be measured.

    Raises:
        ConfigError: with every problem.
        ResourceError: a package that a metric uses is not installed.
    """
    names = metric_names(config)
    wanted = [find_metric(name) for name in dict.fromkeys((*config.metrics, *names)) if name != ALL]
    for package in dict.fromkeys(package for metric in wanted for package in metric.packages):
        load_extra(package)
    known = {*names, *(SPEED if timed else ())}
    problems = (
        [] if config.best_by in (None, *names) else [("best_by", f"{config.best_by!r} is not measured")]
    )
    problems += [
        ("threshold", f"{text!r}: {metric} is not measured")
        for text in config.threshold
        if (metric := split_threshold(text)[1]) not in known
    ]
    if problems:
        raise ConfigError("about nothing that is measured", problems, hint="--metrics names what is measured")
