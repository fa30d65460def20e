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


def test_long_names_and_many_alike() -> None:
    """Every id is fit for a file's name, and ten thousand of one name take no longer than others."""
    assert [len(f"{name}-2.png".encode()) < 255 for name in make_ids(["𐐨" * 200, "漢" * 80])] == [True, True]
    assert make_ids(["n" * 300, "n" * 299])[1].endswith("-2")
    assert make_ids(["a", "a-2", "a", "a"]) == ["a", "a-2", "a-3", "a-4"]
    many = make_ids(["a"] * 10_000)
    assert (many[-1], len(set(many))) == ("a-10000", 10_000)
