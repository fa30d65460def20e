"""Methods by name: found by their files, known without torch, and all of a kind."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import stdcli
from stdcli.config import distill_methods
from stdcli.config.distill import DistillConfig
from stdcli.config.distill_methods import find_method, method_names
from stdcli.config.presets import list_presets, read_task_file
from stdcli.config.recipe import Recipe
from stdcli.config.schema import Section
from stdcli.config.tasks import TASKS, register_method
from stdcli.distill.method import Method
from stdcli.errors import ConfigError

FOLDER = Path(stdcli.__file__).parent / "distill/methods"
FILES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def test_every_file_is_a_method_and_the_default_comes_first() -> None:
    assert sorted(method_names()) == [name.replace("_", "-") for name in FILES]
    assert method_names()[0] == DistillConfig().method == "std"


def test_the_list_of_methods_is_one_table_with_a_row_each() -> None:
    lines = (FOLDER / "README.md").read_text().splitlines()
    rows = [number for number, line in enumerate(lines) if line.startswith("|")]
    assert rows == list(range(rows[0], rows[0] + len(FILES) + 2))  # its head and the line below that first
    assert sorted(lines[n].split("](")[1].split(")")[0] for n in rows[2:]) == [f"{file}.py" for file in FILES]


@pytest.mark.parametrize("name", method_names())
def test_a_method_says_all_that_is_asked_of_it(name: str) -> None:
    method = find_method(name)
    assert issubclass(method, Method) and not inspect.isabstract(method)
    assert (
        method.name == name and method.title and method.citation and method.states in ("path", "data", "own")
    )
    Recipe(steps=4, strength=0.75, **method.sampling)
    others = {f"{other}.{field}" for other in TASKS["distill"].model_fields for field in _fields(other)}
    assert method.borrows <= others
    assert f"[`{name}`]({name.replace('-', '_')}.py)" in (FOLDER / "README.md").read_text()
    named = [
        read_task_file(preset.path)[1].get("method") for preset in list_presets() if "distill/" in preset.name
    ]
    assert name in named, "has no preset"


def _fields(section: str) -> list[str]:
    annotation = TASKS["distill"].model_fields[section].annotation
    return (
        list(annotation.model_fields)
        if inspect.isclass(annotation) and issubclass(annotation, Section)
        else []
    )


def test_settings_of_all_methods_are_known_without_torch() -> None:
    code = (
        "import sys; from stdcli.config.load import resolve\n"
        "for name in ('std', 'lcm', 'tcd'): resolve('distill', flags={'method': name, 'bank': 'b'})\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_comes_with_near_misses() -> None:
    with pytest.raises(ConfigError) as told:
        find_method("sdt")
    assert told.value.problems == [("method", "'sdt': did you mean std?")]


def test_a_registered_method_brings_its_section(monkeypatch: pytest.MonkeyPatch) -> None:
    class Extra(Section):
        """Its own."""

        share: float = 0.5

    class Added(find_method("std")):
        name, section, borrows = "half-way", Extra, frozenset({"std.window"})

        @classmethod
        def conflicts(cls, config):
            if config.section_of(cls).share > 1:
                yield "half_way.share", "is more than there is"

    monkeypatch.setattr(distill_methods, "_registered", {})
    monkeypatch.setitem(TASKS, "distill", TASKS["distill"])
    register_method(Added)
    assert method_names()[0] == "std" and "half-way" in method_names()
    assert find_method("half-way") is Added
    schema = TASKS["distill"]
    fields = list(schema.model_fields)
    sections = fields[fields.index("init") + 1 : fields.index("student")]
    assert sections[0] == "std" and "half_way" in sections
    config = schema(method="half-way", half_way={"share": 0.25}, std={"window": 3})
    assert config.section_of(Added).share == 0.25
    for wrong, what in (
        ({"half_way": {"share": 2}}, "half_way.share: is more than there is"),
        ({"std": {"gamma": 0.1}}, "std.gamma: belongs to method std; half-way does not use it"),
        ({"half_way": {"shore": 1}}, "half_way.shore"),
    ):
        with pytest.raises(ValueError, match=what):
            schema(method="half-way", **wrong)
    with pytest.raises(ValueError, match=r"half_way\.share: belongs to method half-way"):
        schema(half_way={"share": 0.25})
    assert "half_way" not in DistillConfig.model_fields
