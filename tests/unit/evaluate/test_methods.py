"""A suite's methods, one for each step count and guidance."""

from stdcli.config.check import check
from stdcli.config.evaluate import EvalConfig
from stdcli.evaluate.suite_methods import expand_methods


def test_sweeps_become_methods_of_one_family() -> None:
    data = {
        "seed": 7,
        "device": "cpu",
        "methods": [
            {"name": "T", "steps": [30, 4], "guidance": [1, 2.5], "settings": {"student": "none"}},
            {"name": "S", "settings": {"steps": 1}},
        ],
    }
    methods = expand_methods(check(EvalConfig, data))
    assert [method.title for method in methods] == [
        "T, 30 steps, guidance 1",
        "T, 30 steps, guidance 2.5",
        "T, 4 steps, guidance 1",
        "T, 4 steps, guidance 2.5",
        "S",
    ]
    assert [method.family for method in methods] == ["T"] * 4 + ["S"]
    assert [method.id for method in methods][1::3] == ["t-30-steps-guidance-2.5", "s"]
    assert [(m.config.steps, m.config.guidance) for m in methods] == [
        (30, 1),
        (30, 2.5),
        (4, 1),
        (4, 2.5),
        (1, None),
    ]
    assert {m.config.seed for m in methods} == {7} and {m.config.device for m in methods} == {"cpu"}
    assert [m.config.student for m in methods] == ["none"] * 4 + [None]


def test_one_step_is_one_step() -> None:
    (method,) = expand_methods(check(EvalConfig, {"methods": [{"name": "S", "steps": 1}]}))
    assert method.title == "S, 1 step"
