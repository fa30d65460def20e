"""The house as a whole: no module is needed by what it needs, and no package outgrows the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.architecture.rules import imports
from tests.architecture.test_tree import MODULES, name_of

BIGGEST_SHARE = 0.16
"""Of all lines, in one package."""


def needs(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Dotted name -> modules of the same sources that it imports, wherever in it.

    Args:
        sources: dotted name -> source.
    """
    return {name: set(_needed(source, sources)) - {name} for name, source in sources.items()}


def _needed(source: str, sources: Mapping[str, str]) -> list[str]:
    found = []
    for target, line, _ in imports(source):
        inside = [f"{target}.{word}" for word in _words(source, line)]
        modules = [name for name in inside if name in sources]
        found += modules or [target] * (target in sources)
    return found


def _words(source: str, line: int) -> list[str]:
    """What a line `from PACKAGE import a, b` takes."""
    _, _, taken = source.splitlines()[line - 1].partition(" import ")
    return [word.split()[0] for word in taken.strip("() ").split(",") if word.split()]


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """A circle of imports, if there is any."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def shares(sources: Mapping[str, str]) -> dict[str, float]:
    """Package -> its part of all lines."""
    lines: Counter[str] = Counter()
    for name, source in sources.items():
        lines[".".join(name.split(".")[:2])] += len(source.splitlines())
    return {package: count / lines.total() for package, count in lines.items()}


@pytest.fixture(scope="module")
def house() -> dict[str, str]:
    """Every module but the package's face, which hands names of others on when they are used."""
    return {name: path.read_text("utf-8") for path in MODULES if (name := name_of(path)) != "stdcli"}


def test_no_import_circle(house: dict[str, str]) -> None:
    assert circle(needs(house)) == []


def test_no_package_outgrows_the_others(house: dict[str, str]) -> None:
    package, share = max(shares(house).items(), key=lambda item: item[1])
    assert share < BIGGEST_SHARE, f"{package} has {share:.1%} of the lines"


@pytest.mark.parametrize(
    "back", ["from stdcli.a import x", "def f():\n    from stdcli import a", "import stdcli.a"]
)
def test_a_planted_circle_is_seen(back: str) -> None:
    sources = {"stdcli.a": "from stdcli.p.b import f", "stdcli.p.b": "import stdcli.c", "stdcli.c": back}
    assert set(circle(needs(sources))) == set(sources)
    assert circle(needs(sources | {"stdcli.c": "import os"})) == []


def test_shares_are_of_lines() -> None:
    sources = {"stdcli.a.x": "1\n2\n3", "stdcli.a.b.y": "1\n2", "stdcli.c": "1\n" * 5}
    assert shares(sources) == {"stdcli.a": 0.5, "stdcli.c": 0.5}
