"""Short names."""

from stdcli.evaluate.ids import make_ids


def test_names_are_plain_and_unique() -> None:
    names = ["Teacher, 30 steps", "a/b c", "a b/c", "..", "Größe", "a-b-c-2", "a b c"]
    assert make_ids(names) == [
        "teacher-30-steps",
        "a-b-c",
        "a-b-c-2",
        "unnamed",
        "größe",
        "a-b-c-2-2",
        "a-b-c-3",
    ]
