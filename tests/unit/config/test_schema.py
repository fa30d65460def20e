"""Schemas: ranges, contradictions, and the traps of YAML for every field of every task."""

from typing import Any, get_args, get_origin

import pytest
import yaml

from stdcli.config.check import check, dotted_names
from stdcli.config.distill_methods import method_names
from stdcli.config.evaluate import EvalConfig, MethodSection, add_methods
from stdcli.config.load import value_at
from stdcli.config.recipe import Recipe, Trained
from stdcli.config.schema import Section, StylizeConfig
from stdcli.config.tasks import TASKS
from stdcli.errors import ConfigError

SCHEMAS = {**TASKS, "recipe": Recipe, "trained": Trained, "method": MethodSection}
FIELDS = [
    (task, name)
    for task, schema in SCHEMAS.items()
    for name in dotted_names(schema)
    # sections of their own here, or the same as a task's; a mapping
    if "trained." not in name and not name.startswith("settings.") and name not in ("methods", "base_sha256")
]
WHOLE = {  # sections of which no field may be missing
    "trained": {
        "method": "std",
        "strength": 0.75,
        "start_t": 739,
        "supported_steps": [4],
        "base": "embedded",
        "base_sha256": {"unet": "0"},
    },
    "method": {"name": "a"},
}
NEEDS = {  # a field that makes sense only beside another of its section
    "style_weights": {"style": ["a"]},
    "timesteps": {"steps": 1},
    "recipe.timesteps": {"steps": 1},
    "hyper_sd.shares": {"segments": [1]},
    "lightning.shares": {"counts": [4]},
}
PAIRS = {"dmd2.tau"}  # a lower and an upper number


def problems(schema: type[Section], data: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        check(schema, data)
    return dict(caught.value.problems)


def kinds(annotation: Any) -> set[Any]:
    """The plain types a field admits; "choice" for a literal."""
    if get_origin(annotation) is not None and annotation.__class__.__name__ == "_LiteralGenericAlias":
        return {"choice"}
    parts = get_args(annotation)
    found = set().union(*map(kinds, parts)) if parts else {annotation}
    return found & {bool, int, float, str, "choice"}


def kinds_of(task: str, name: str) -> set[Any]:
    schema: Any = SCHEMAS[task]
    *parents, last = name.split(".")
    for parent in parents:
        schema = schema.model_fields[parent].annotation
    return kinds(schema.model_fields[last].annotation)


def fields_with(*wanted: Any) -> list[tuple[str, str]]:
    return [field for field in FIELDS if kinds_of(*field) & set(wanted)]


FLOATS = fields_with(float)
INTEGERS = [field for field in fields_with(int) if field not in FLOATS]
FRAME_RATES = [("inpaint", "fps"), ("stylize", "fps")]
"""Text, lest 30000/1001 be rounded; whole numbers are exact anyway."""
TEXTS = [field for field in FIELDS if kinds_of(*field) == {str} and field not in FRAME_RATES]


def method_of(task: str, name: str) -> dict[str, str]:
    """The method whose section a field is in: others refuse what they do not use."""
    section = name.split(".")[0].replace("_", "-")
    return {"method": section} if task == "distill" and "." in name and section in method_names() else {}


def load(task: str, name: str, text: str) -> Any:
    """The value of a field written as `text` in a YAML file."""
    *parents, last = name.split(".")
    text = f"[{text}, {text}]" if name in PAIRS else text
    data = {**NEEDS.get(name, {}), **yaml.safe_load(f"{last}: {text}")}
    for parent in reversed(parents):
        data = {parent: data}
    value = value_at(check(SCHEMAS[task], {**WHOLE.get(task, {}), **method_of(task, name), **data}), name)
    return value[0] if isinstance(value, tuple) and value else value


def refusal(task: str, name: str, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(task, name, text)
    (path, message), *_ = caught.value.problems
    assert path == name or path.startswith(f"{name}.")
    return message


def test_every_field_is_of_a_kind_that_is_tested_below() -> None:
    assert [field for field in FIELDS if not kinds_of(*field)] == []
    assert len(FLOATS) > 5 and len(INTEGERS) > 5 and len(TEXTS) > 5


def test_the_traps_are_real() -> None:
    assert yaml.safe_load("[1e-4, no, 4:8]") == ["1e-4", False, 248]


@pytest.mark.parametrize(("task", "name"), FIELDS)
def test_a_truth_value_is_only_taken_where_it_belongs(task: str, name: str) -> None:
    if bool in kinds_of(task, name):
        assert load(task, name, "no") is False
        assert load(task, name, "yes") is True
        assert "bool" in refusal(task, name, "maybe")
    else:
        for word in ("no", "off", "yes", "[no]"):
            message = refusal(task, name, word)
            assert "truth value" in message or "must be" in message


@pytest.mark.parametrize(("task", "name"), FLOATS)
def test_a_float_may_be_written_with_an_exponent(task: str, name: str) -> None:
    accepted = []
    for text, number in (("5e-1", 0.5), ("1e-4", 1e-4), ("10e-1", 1.0), ("15e-1", 1.5), ("2e+1", 20.0)):
        try:
            value = load(task, name, text)
        except ConfigError as error:
            assert "must be a valid number" not in str(error)
        else:
            assert value == number
            assert type(value) is (
                int if name.endswith("timesteps") and number >= 1 and number % 1 == 0 else float
            )
            accepted.append(number)
    assert accepted


@pytest.mark.parametrize(("task", "name"), FLOATS + INTEGERS)
def test_a_number_is_finite_and_a_word_is_none(task: str, name: str) -> None:
    for text in (".nan", ".inf", "-.inf", "nan", "infinity", "some"):
        assert "must be" in refusal(task, name, text)


@pytest.mark.parametrize(("task", "name"), INTEGERS)
def test_an_integer_has_no_fraction(task: str, name: str) -> None:
    assert "must be a valid integer" in refusal(task, name, "64.5")
    assert "must be a valid integer" in refusal(task, name, "1e-4")


@pytest.mark.parametrize(("task", "name"), TEXTS)
def test_text_is_not_made_of_numbers_and_dates(task: str, name: str) -> None:
    for text in ("12", "2024-01-01", "1:30"):
        assert "must be a valid" in refusal(task, name, text)


@pytest.mark.parametrize(("task", "name"), FRAME_RATES)
def test_a_frame_rate_is_a_number_or_a_fraction(task: str, name: str) -> None:
    rates = [load(task, name, text) for text in ("25", "30000/1001", "'24'", "12.5", "29.97")]
    assert rates == ["25", "30000/1001", "24", "25/2", "2997/100"]
    for text in ("0", "-5", "1/0", "fast", "1e9", ".nan", "2024-01-01"):
        message = refusal(task, name, text)
        assert "must be" in message or "frames per second" in message


def test_all_problems_are_reported_at_once() -> None:
    data = {"steps": 0, "strength": 1.4, "sampler": "jum", "seeed": 3, "device": "gpu"}
    found = problems(StylizeConfig, data)
    assert set(found) == set(data)
    assert found["steps"] == "must be greater than or equal to 1, got 0"
    assert found["strength"] == "must be less than or equal to 1, got 1.4"
    assert found["sampler"] == "must be 'jump' or 'renoise', got 'jum'"
    assert found["seeed"] == "unknown key; did you mean seed?"


def test_unknown_keys_without_near_misses_list_the_valid_ones() -> None:
    message = problems(Recipe, {"zzz": 1})["zzz"]
    assert message.startswith("unknown key; valid: steps, timesteps, strength")
    assert problems(Recipe, {"start": {"zzz": 1}}) == {"start.zzz": "unknown key; valid: start.transform"}


def test_a_key_of_another_section_is_found_by_its_last_part() -> None:
    assert (
        problems(Recipe, {"transform": "adain"})["transform"] == "unknown key; did you mean start.transform?"
    )
    assert problems(Recipe, {"start": {"transfrom": "adain"}}) == {
        "start.transfrom": "unknown key; did you mean start.transform?"
    }


@pytest.mark.parametrize(
    ("values", "accepted"),
    [
        ({"strength": 1.0}, True),
        ({"strength": 0.0}, False),
        ({"steps": 1000}, True),
        ({"steps": 1001}, False),
        ({"guidance": 0.0}, True),
        ({"guidance": -0.1}, False),
        ({"gamma": 1.0}, True),
        ({"gamma": 1.1}, False),
        ({"seed": 2**63 - 1}, True),
        ({"seed": 2**63}, False),
        ({"seed": -1}, False),
        ({"timesteps": [999]}, True),
        ({"timesteps": []}, False),
        ({"timesteps": [5, 5]}, False),
        ({"timesteps": [5, 0]}, False),
        ({"device": "cuda:1"}, True),
        ({"device": "cuda:"}, False),
        ({"dtype": "bf16"}, True),
        ({"dtype": "int8"}, False),
        ({"lora": "a:nan"}, False),
        ({"model": ""}, False),
    ],
)
def test_ranges(values: dict[str, Any], accepted: bool) -> None:
    if accepted:
        check(StylizeConfig, values)
    else:
        ((path, _),) = problems(StylizeConfig, values).items()
        assert path.split(".")[0] in values


def test_lists_may_be_written_as_on_the_command_line() -> None:
    config = check(
        StylizeConfig,
        {"timesteps": "739, 559", "style": "a.jpg", "style_weights": "2", "lora": "x:0.5", "dtype": "fp16"},
    )
    assert config.timesteps == (739, 559)
    assert config.style == ("a.jpg",)
    assert config.style_weights == (2.0,)
    assert config.lora == ("x:0.5",)
    assert config.dtype == "float16"


@pytest.mark.parametrize(
    ("values", "path", "reason"),
    [
        ({"steps": 3, "timesteps": [9, 5]}, "timesteps", "2 timesteps cannot be 3 steps"),
        ({"gamma": 0.3, "sampler": "renoise"}, "gamma", "belongs to the sampler 'jump'"),
        ({"style": ["a", "b"], "style_weights": [1]}, "style_weights", "1 weights for 2 style pictures"),
        ({"style": ["a"], "style_weights": [-1]}, "style_weights", "a weight is negative"),
        ({"style": ["a"], "style_weights": [0]}, "style_weights", "all weights are 0"),
    ],
)
def test_contradictions_name_their_reason(values: dict[str, Any], path: str, reason: str) -> None:
    assert reason in problems(StylizeConfig, values)[path]


def test_two_contradictions_are_two_problems() -> None:
    values = {"steps": 3, "timesteps": [9, 5], "gamma": 0.3, "sampler": "renoise"}
    assert set(problems(StylizeConfig, values)) == {"timesteps", "gamma"}


def test_what_does_not_contradict() -> None:
    check(StylizeConfig, {"steps": 2, "timesteps": [9, 5], "gamma": 0.0, "sampler": "renoise"})
    check(StylizeConfig, {"style": ["a", "b"], "style_weights": [0, 1]})


def test_a_section_cannot_be_changed() -> None:
    config = StylizeConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 3


def test_methods_are_named_once_and_leave_to_the_suite_what_is_the_suites() -> None:
    told = problems(EvalConfig, {"methods": [{"name": "a"}, {"name": "b"}, {"name": "a"}]})
    assert told == {"methods": "two are called 'a'"}
    settings = {"steps": 4, "seed": 3, "style": "a.png", "strength": 0.3}
    told = problems(EvalConfig, {"methods": [{"name": "a", "steps": [4, 8], "settings": settings}]})
    assert told.keys() == {"methods.0.steps", "methods.0.settings.seed", "methods.0.settings.style"}
    told = problems(EvalConfig, {"methods": [{"name": "a", "steps": 2, "settings": {"timesteps": [9, 5]}}]})
    assert told == {"methods.0.steps": "settings.timesteps already says the steps"}


def test_an_unknown_key_of_a_method_names_its_near_misses() -> None:
    told = problems(EvalConfig, {"methods": [{"name": "a", "settings": {"strenght": 0.4}}]})
    assert told == {"methods.0.settings.strenght": "unknown key; did you mean settings.strength?"}
    told = problems(EvalConfig, {"methods": [{"name": "a", "step": 4}]})
    assert told == {"methods.0.step": "unknown key; did you mean steps?"}


def test_thresholds_and_weights_are_read_when_they_are_given() -> None:
    told = problems(EvalConfig, {"threshold": ["palette<=5", "palette=5", "edges>x"], "weights": ["csd"]})
    assert set(told) == {"threshold.1", "threshold.2", "weights.0"}
    assert "is not a threshold such as palette<=5" in told["threshold.1"]
    assert "is not NAME=FILE" in told["weights.0"]


def test_more_methods_are_like_the_last() -> None:
    settings = {"model": "m", "student": "none", "strength": 0.3}
    config = check(
        EvalConfig, {"methods": [{"name": "a"}, {"name": "b", "steps": [4], "settings": settings}]}
    )
    more = add_methods(config, [("c", "runs/c"), ("d", "none")])
    assert [method.name for method in more.methods] == ["a", "b", "c", "d"]
    assert more.methods[2].steps == (4,)
    assert more.methods[2].settings.model_dump(exclude_defaults=True) == settings | {"student": "runs/c"}
    renoised = {"name": "lcm", "settings": {"sampler": "renoise", "final": "x0", "strength": 0.3}}
    (_, std) = add_methods(check(EvalConfig, {"methods": [renoised]}), [("std", "runs/std")]).methods
    kept = std.settings.model_dump(exclude_defaults=True)
    assert kept == {"student": "runs/std", "strength": 0.3}  # its own recipe says how it is sampled
    assert add_methods(check(EvalConfig, {}), [("c", "s")]).methods[0].settings.student == "s"
    with pytest.raises(ConfigError, match="two are called 'a'"):
        add_methods(config, [("a", "x")])
