"""The methods of a suite, one for each step count and guidance asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stdcli.config.evaluate import EvalConfig, MethodSection
from stdcli.config.schema import StylizeConfig
from stdcli.evaluate.ids import make_ids


@dataclass(frozen=True)
class SuiteMethod:
    """One way of stylizing, everything settled but the style.

    Attributes:
        id: unique in the suite, fit for file names.
        title: as reports show it.
        family: what the suite calls it; methods that differ in steps or guidance alone share it.
        config: settings for `stylize`.
    """

    id: str
    title: str
    family: str
    config: StylizeConfig


def expand_methods(config: EvalConfig) -> list[SuiteMethod]:
    """All methods of a suite, in its order; steps vary slowest."""
    found = [method for section in config.methods for method in _expand(section, config)]
    ids = make_ids(title for title, _, _ in found)
    return [SuiteMethod(name, *parts) for name, parts in zip(ids, found, strict=True)]


def _expand(section: MethodSection, config: EvalConfig) -> Iterator[tuple[str, str, StylizeConfig]]:
    """(title, family, settings) of each."""
    shared = {name: getattr(config, name) for name in ("seed", "device", "dtype", "offline", "prompt")}
    if shared["prompt"] is None:
        del shared["prompt"]
    for steps in section.steps or (None,):
        for guidance in section.guidance or (None,):
            swept = {"steps": steps, "guidance": guidance}
            given = {name: value for name, value in swept.items() if value is not None}
            title = section.name
            if steps is not None:
                title += f", {steps} step{'' if steps == 1 else 's'}"
            if len(section.guidance) > 1:
                title += f", guidance {guidance:g}"
            yield title, section.name, section.settings.model_copy(update=shared | given)
