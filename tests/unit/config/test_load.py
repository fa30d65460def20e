"""Layering: precedence, provenance, and all problems of all layers together."""

import json
from pathlib import Path

import pytest

from stdcli.config import presets
from stdcli.config.load import resolve
from stdcli.config.tasks import TASKS
from stdcli.errors import ConfigError


@pytest.fixture(autouse=True)
def preset_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of presets with `stylize/soft` alone."""
    root = tmp_path / "presets"
    (root / "stylize").mkdir(parents=True)
    (root / "stylize" / "soft.yaml").write_text("# soft\ntask: stylize\nsteps: 2\nstrength: 0.5\nseed: 1\n")
    monkeypatch.setattr(presets, "presets_root", lambda: root)
    return root


def config_file(folder: Path, content: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(content)
    return path


def test_defaults_alone() -> None:
    resolved = resolve("stylize")
    assert resolved.config == TASKS["stylize"]()
    assert set(resolved.origins.values()) == {"default"}


def test_each_layer_wins_over_the_ones_below(tmp_path: Path) -> None:
    path = config_file(tmp_path, "strength: 0.6\nseed: 2\nguidance: 2\nbatch: 3\n")
    resolved = resolve(
        "stylize",
        preset="soft",
        config_file=path,
        sets=["seed=3", "guidance=3", "seed=4"],
        flags={"guidance": 4.0, "strength": None, "style": []},
    )
    config = resolved.config
    assert (config.steps, config.strength, config.batch, config.seed, config.guidance) == (2, 0.6, 3, 4, 4.0)
    layers = {name: layer for name, layer in resolved.origins.items() if layer != "default"}
    assert layers == {
        "steps": "preset stylize/soft",
        "strength": f"--config {path}",
        "batch": f"--config {path}",
        "seed": "--set",
        "guidance": "flag",
    }


def test_rows_follow_the_schema() -> None:
    rows = resolve("stylize", preset="stylize/soft").rows()
    assert [row[0] for row in rows] == list(TASKS["stylize"].model_fields)
    assert ("steps", 2, "preset stylize/soft") in rows


def test_false_and_zero_are_given() -> None:
    config = resolve("stylize", sets=["seed=5"], flags={"seed": 0, "match_style_statistics": False}).config
    assert (config.seed, config.match_style_statistics) == (0, False)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("steps=8", "steps", 8),
        ("max-size=512", "max_size", 512),
        ("prompt=no", "prompt", "no"),
        ("prompt=a=b", "prompt", "a=b"),
        ("prompt=", "prompt", ""),
        ("prompt=12", "prompt", "12"),
        ("prompt=null", "prompt", None),
        ("timesteps=[9, 5]", "timesteps", (9, 5)),
        ("timesteps=9,5", "timesteps", (9, 5)),
        ("style=a.jpg", "style", ("a.jpg",)),
        ("offline=yes", "offline", True),
        ("strength=1e-1", "strength", 0.1),
    ],
)
def test_values_of_set(text: str, name: str, value: object) -> None:
    assert getattr(resolve("stylize", sets=[text]).config, name) == value


def test_all_problems_of_all_layers_with_their_layers(tmp_path: Path) -> None:
    path = config_file(tmp_path, "strenght: 0.5\nguidance: no\n")
    with pytest.raises(ConfigError) as caught:
        resolve(
            "stylize",
            config_file=path,
            sets=["steps=0", "nonsense", "=3", "timesteps=[1"],
            flags={"batch": 0},
        )
    found = dict(caught.value.problems)
    assert found["--set nonsense"] == found["--set =3"] == "must look like key=value"
    assert found["timesteps"] == "'[1' is not a list or mapping that YAML can read"
    assert found["steps"] == "must be greater than or equal to 1, got '0' (from --set)"
    assert found["batch"] == "must be greater than or equal to 1, got 0 (from flag)"
    assert found["strenght"] == f"unknown key; did you mean strength? (from --config {path})"
    assert found["guidance"].endswith(f"(from --config {path})")
    assert len(found) == 7


def test_a_problem_inside_a_list_names_the_layer_of_the_list() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("stylize", sets=["timesteps=9,x"])
    ((path, message),) = caught.value.problems
    assert path == "timesteps.1"
    assert message.endswith("(from --set)")


def test_a_run_is_replayed_from_its_json_file(tmp_path: Path) -> None:
    first = resolve("stylize", preset="soft", flags={"style": ["a.jpg"], "gamma": 0.2})
    data = {"stdcli": "0.1.0", "config": first.config.model_dump()}
    path = config_file(tmp_path, json.dumps(data), "out.std.png.json")
    again = resolve("stylize", config_file=path)
    assert again.config == first.config
    assert again.origins["gamma"] == f"--config {path}"


def test_plain_json_is_a_config_too(tmp_path: Path) -> None:
    assert resolve("stylize", config_file=config_file(tmp_path, '{"steps": 7}', "c.json")).config.steps == 7


def test_a_file_of_another_task_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "other", TASKS["stylize"])
    with pytest.raises(ConfigError, match="belongs to another task"):
        resolve("stylize", config_file=config_file(tmp_path, "task: other\n"))
    with pytest.raises(ConfigError, match="unknown task"):
        resolve("stylize", config_file=config_file(tmp_path, "task: nothing\n"))


def test_unknown_presets_name_near_misses(preset_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no preset is called 'sotf'; did you mean stylize/soft\?"):
        resolve("stylize", preset="sotf")
    with pytest.raises(ConfigError, match="is a file, not the name of a preset") as caught:
        resolve("stylize", preset=str(preset_folder / "stylize" / "soft.yaml"))
    assert caught.value.hint.startswith("--config ")


def test_nested_keys_merge_key_by_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from stdcli.config.recipe import Recipe

    monkeypatch.setitem(TASKS, "recipe", Recipe)
    path = config_file(tmp_path, "steps: 3\nstart: {transform: adain}\n")
    resolved = resolve("recipe", config_file=path)
    assert resolved.config.start.transform == "adain"
    assert resolved.origins["start.transform"] == f"--config {path}"
    resolved = resolve("recipe", config_file=path, sets=["start.transform=none"])
    assert resolved.config.start.transform == "none"
    assert (resolved.origins["start.transform"], resolved.origins["steps"]) == ("--set", f"--config {path}")
    with pytest.raises(ConfigError) as caught:
        resolve("recipe", sets=["steps.x=1", "start=3"])
    assert {name for name, _ in caught.value.problems} == {"steps", "start"}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 3000,
        "? [1]\n: 2",
        "{{1: 2}: 3}",
        'steps: !!int ""',
        'steps: !!bool "x"',
        'steps: !!timestamp "x"',
        "style: &x [*x]",
        "a: &a [1, 2]\nb: [*a, *a]",
        "task: [1]",
        "task: {}",
    ],
)
def test_strange_yaml_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = config_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        resolve("stylize", config_file=path)
    assert str(path) in str(caught.value)
