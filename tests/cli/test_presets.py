"""`stdcli presets`."""

import json
from pathlib import Path

import pytest

from stdcli.cli.main import main
from stdcli.config.presets import find_preset, list_presets

NAMES = [preset.name for preset in list_presets()]


def test_list(capsys) -> None:
    assert main(["presets", "list"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "purpose"]
    assert [line.split()[0] for line in lines] == NAMES
    assert all(len(line.split()) > 3 for line in lines)


def test_list_as_json_and_quiet(capsys) -> None:
    assert main(["presets", "list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["rows"]] == NAMES
    assert main(["presets", "list", "-q"]) == 0
    assert capsys.readouterr().out.split() == NAMES


def test_verbose_says_where_presets_come_from(capsys) -> None:
    assert main(["presets", "list", "-v"]) == 0
    assert "presets are read from" in capsys.readouterr().err


def test_show_prints_the_file(capsys) -> None:
    assert main(["presets", "show", "stylize/sd15-lcm"]) == 0
    assert capsys.readouterr().out == find_preset("stylize/sd15-lcm").text


def test_show_as_json_holds_the_file(capsys) -> None:
    assert main(["presets", "show", "stylize/sd15-lcm", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    preset = find_preset("stylize/sd15-lcm")
    assert shown == {"path": str(preset.path), "name": preset.name, "text": preset.text}


def test_show_resolved_names_the_layer_of_each_value(capsys) -> None:
    assert main(["presets", "show", "stylize/sd15-lcm", "--resolved", "--set", "steps=8"]) == 0
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["key"] == ["value", "from"]
    assert rows["steps"] == ["8", "--set"]
    assert rows["final"] == ["x0", "preset stylize/sd15-lcm"]
    assert rows["lora"] == ["latent-consistency/lcm-lora-sdv1-5", "preset stylize/sd15-lcm"]
    assert rows["prompt"] == ["-", "default"]
    assert rows["offline"] == ["false", "default"]


def test_show_resolved_as_json(capsys) -> None:
    assert main(["presets", "show", "stylize/sd15-lcm", "--resolved", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["preset"], shown["task"]) == ("stylize/sd15-lcm", "stylize")
    assert {"key": "strength", "value": 0.75, "from": "preset stylize/sd15-lcm"} in shown["rows"]
    assert {"key": "prompt", "value": None, "from": "default"} in shown["rows"]


def test_set_needs_resolved(capsys) -> None:
    assert main(["presets", "show", "stylize/sd15-lcm", "--set", "steps=8"]) == 2
    assert "--set needs --resolved" in capsys.readouterr().err


def test_an_unknown_name_is_2_with_near_misses(capsys) -> None:
    assert main(["presets", "show", "stylize/sd15lcm"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "did you mean stylize/sd15-lcm" in err
    assert "hint: stdcli presets list" in err


def test_copy_then_validate(tmp_path: Path, capsys) -> None:
    assert main(["presets", "copy", "stylize/embedded-fast", str(tmp_path), "-q"]) == 0
    path = tmp_path / "embedded-fast.yaml"
    assert capsys.readouterr().out == f"{path}\n"
    assert main(["presets", "validate", str(path)]) == 0
    assert "a valid stylize preset" in capsys.readouterr().out
    assert main(["presets", "copy", "stylize/embedded-fast", str(path)]) == 2
    assert "hint: --overwrite replaces it" in capsys.readouterr().err
    assert main(["presets", "copy", "stylize/embedded-fast", str(path), "--overwrite"]) == 0


def test_validate_without_files_checks_every_preset(capsys) -> None:
    assert main(["presets", "validate", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["valid"] is True
    assert len(report["rows"]) == len(NAMES)


@pytest.fixture
def wrong_files(tmp_path: Path) -> list[str]:
    """Four wrong files and a right one."""
    contents = {
        "a.yaml": "task: stylize\nsteps: 0\nstrenght: 0.5\n",
        "b.yaml": "task: stylise\n",
        "c.yaml": "steps: [\n",
        "d.yaml": "task: stylize\nsteps: 3\n",
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    return [str(tmp_path / name) for name in (*contents, "missing.yaml")]


def test_validate_reports_all_problems_of_all_files(wrong_files: list[str], capsys) -> None:
    assert main(["presets", "validate", *wrong_files]) == 2
    out, err = capsys.readouterr()
    a, b, c, d, missing = wrong_files
    outcomes = dict(line.split(maxsplit=1) for line in out.splitlines()[1:])
    assert outcomes == {a: "wrong", b: "wrong", c: "wrong", d: "a valid stylize preset", missing: "wrong"}
    assert err.splitlines()[0] == "error: 4 of 5 files are wrong"
    assert f"  {a}: steps: must be greater than or equal to 1, got 0" in err
    assert f"  {a}: strenght: unknown key; did you mean strength?" in err
    assert f"  {b}: unknown task, got 'stylise', expected one of bank, distill, eval, inpaint, stylize" in err
    assert f"  {c}:2: not YAML: " in err
    assert f"  {missing}: cannot be read: no such file" in err


def test_validate_as_json_when_files_are_wrong(wrong_files: list[str], capsys) -> None:
    assert main(["presets", "validate", *wrong_files, "--json"]) == 2
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["valid"] is False
    assert [row["outcome"] for row in report["rows"]] == ["wrong"] * 3 + ["a valid stylize preset", "wrong"]
    assert len(json.loads(err)["error"]["problems"]) == 5
