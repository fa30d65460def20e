"""What `import stdcli` gives: a few documented, typed names, each loaded when it is first used."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import stdcli
from stdcli.config.schema import StylizeConfig
from stdcli.console import Console
from stdcli.inference.stylizer import LOADED, StylizeSettings
from stdcli.reporter import LogReporter, Reporter

NAMES = ["Bank", "StdcliError", "Stylizer", "measure", "open_bank"]
SOURCE = Path(stdcli.__file__)
BUDGET_S = 0.05


def fresh(code: str) -> dict[str, object]:
    """What a fresh process prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=SOURCE.parent.parent, check=True
    )
    return json.loads(done.stdout)


def test_the_import_loads_nothing_and_is_quick() -> None:
    """The least of several processes, so that other jobs on the machine do not count."""
    code = "import sys, time, json; before = {*sys.modules}; began = time.perf_counter(); import stdcli\n"
    code += "took = time.perf_counter() - began; new = [*{*sys.modules} - before]\n"
    code += "print(json.dumps({'s': took, 'new': new}))"
    found = [fresh(code) for _ in range(4)]
    assert all(
        one["new"] in (["stdcli"], ["stdcli", "__future__"], ["__future__", "stdcli"]) for one in found
    )
    assert min(one["s"] for one in found) < BUDGET_S


def test_an_error_class_and_a_bank_need_no_network_code() -> None:
    code = "import sys, json; from stdcli import StdcliError; print(json.dumps([*sys.modules]))"
    assert {"torch", "numpy", "diffusers", "pydantic"} & {*fresh(code)} == set()
    code = "import sys, json; from stdcli import open_bank; print(json.dumps([*sys.modules]))"
    assert {"diffusers", "transformers"} & {*fresh(code)} == set()


def test_every_name_is_there_and_documented() -> None:
    assert sorted(stdcli.__all__) == sorted([*NAMES, "__version__"])
    assert {*NAMES, "__version__", "__all__"} <= {*dir(stdcli)}
    for name in NAMES:
        found = getattr(stdcli, name)
        assert found.__name__ == name
        assert inspect.getdoc(found), name


def test_a_star_import_brings_them_all() -> None:
    code = "import json; from stdcli import *; print(json.dumps(sorted(n for n in globals() if n[0] != '_')))"
    assert fresh(code) == sorted([*NAMES, "json"])


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'stdcli' has no attribute 'stylise'"):
        stdcli.stylise  # noqa: B018
    assert not hasattr(stdcli, "__path_of__")


def test_type_checkers_see_what_is_loaded() -> None:
    """The stub imports, name by name, what `__getattr__` does."""
    stub = ast.parse(SOURCE.with_suffix(".pyi").read_text("utf-8")).body
    seen = [
        (alias.name, alias.asname, node.module)
        for node in stub
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(seen) == [(name, name, module) for name, module in sorted(stdcli._MODULES.items())]
    assert ast.literal_eval(stub[-1].value) == stdcli.__all__
    assert (SOURCE.parent / "py.typed").is_file()


def test_every_public_signature_is_typed_and_its_arguments_are_explained() -> None:
    functions = [stdcli.open_bank, stdcli.measure, *_methods(stdcli.Stylizer)]
    assert len(functions) > 5
    for function in functions:
        parameters = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]
        hints = get_type_hints(function)
        assert {*parameters, "return"} <= {*hints}, function
        if parameters and function.__name__ != "__init__" and len(parameters) > 2:
            assert all(f"{name}: " in function.__doc__ for name in parameters), function


def _methods(kind: type) -> list[object]:
    return [
        getattr(value, "__func__", value)
        for name, value in vars(kind).items()
        if (inspect.isfunction(value) or isinstance(value, classmethod))
        and (not name.startswith("_") or name in ("__init__", "__call__"))
    ]


def test_settings_are_those_of_the_command() -> None:
    assert {*StylizeSettings.__annotations__} == {*StylizeConfig.model_fields} - {"model", "style"}
    assert {*LOADED} <= {*StylizeConfig.model_fields}


def test_console_and_log_are_reporters(caplog: pytest.LogCaptureFixture) -> None:
    told = [name for name in vars(Reporter) if not name.startswith("_")]
    assert told == ["note", "detail", "warning", "progress", "stage"]
    for kind in (Console, LogReporter):
        assert all(callable(getattr(kind, name)) for name in told)
    with caplog.at_level("DEBUG", logger="stdcli"):
        reporter = LogReporter()
        reporter.note("a", "b")
        reporter.detail("c")
        reporter.warning(stdcli.StdcliError("d 100%", hint="e"))
        with reporter.progress("f", 3) as progress, reporter.stage("g") as tell:
            progress.advance(2)
            tell("h")
    found = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert {name for name, _, _ in found} == {"stdcli"}
    assert [(level, text) for _, level, text in found] == [
        ("INFO", "a"),
        ("INFO", "b"),
        ("DEBUG", "c"),
        ("WARNING", "error: d 100%\n  hint: e"),
        ("DEBUG", "g"),
        ("DEBUG", "h"),
    ]
