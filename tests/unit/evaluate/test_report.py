"""Tables, best guidances, pictures kept, folders claimed, reports read again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stdcli.errors import MediaError
from stdcli.evaluate.report import (
    MARKER,
    Report,
    best_guidances,
    check_folder,
    dump,
    keep_pictures,
    make_table,
    prepare_folder,
    read_report,
)
from stdcli.media.image import read_image
from tests.tiny_reports import make_report


def test_means_deviations_and_counts() -> None:
    values = [("a", 1.0, None), ("a", 2.0, 5.0), ("a", 6.0, None), ("b", 7.0, None)]
    results = [{"method": m, "values": {"x": x, "y": y}} for m, x, y in values]
    rows = {(row["method"], row["metric"]): row for row in make_table(["a", "b"], results, ["x", "y"])}
    assert rows["a", "x"] == {
        "method": "a",
        "metric": "x",
        "mean": pytest.approx(3.0),
        "sd": pytest.approx(7**0.5),  # (4 + 1 + 9) / 2
        "count": 3,
    }
    assert (rows["a", "y"]["mean"], rows["a", "y"]["sd"], rows["a", "y"]["count"]) == (5.0, None, 1)
    assert rows["b", "y"]["mean"] is None and rows["b", "y"]["count"] == 0


@pytest.mark.parametrize(("better", "expected"), [("higher", [4, 2]), ("lower", [2, 4])])
def test_the_best_guidance_of_every_family_and_step_count(better: str, expected: list[int]) -> None:
    methods, table = [], []
    for steps, best in ((8, 4), (4, 2)):
        for guidance in (2, 4):
            name = f"s-{steps}-{guidance}"
            settings = {"steps": steps, "guidance": guidance}
            methods.append({"id": name, "family": "s", "settings": settings})
            table.append({"method": name, "metric": "csd", "mean": 1.0 if guidance == best else 0.5})
    data = {"methods": methods, "table": table, "metrics": [{"id": "csd", "name": "csd", "better": better}]}
    found = best_guidances(data, "csd")
    assert [(row["steps"], row["guidance"]) for row in found] == list(zip((8, 4), expected, strict=True))
    assert {row["value"] for row in found} == {1.0 if better == "higher" else 0.5}


def test_a_picture_is_kept_losslessly_and_shown(tmp_path: Path) -> None:
    report = Report({})
    frames = np.random.default_rng(0).integers(0, 256, (1, 9, 7, 3), dtype=np.uint8)
    file = keep_pictures(report, tmp_path, "result/m/c/s", frames=frames, is_clip=False)
    assert file == "pictures/result/m/c/s.png"
    assert np.array_equal(read_image(tmp_path / file).rgb, frames[0])
    assert np.array_equal(report.images["result/m/c/s"], frames[0])


def test_a_clip_is_kept_whole_and_shown_in_parts(tmp_path: Path) -> None:
    report = Report({})
    frames = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    error_map = np.arange(11, dtype=np.float32)[:, None, None] * np.ones((11, 8, 8), np.float32)
    file = keep_pictures(report, tmp_path, "result/m/c/s", frames=frames, is_clip=True, error_map=error_map)
    for index, frame in enumerate(frames):
        assert np.array_equal(read_image(tmp_path / (file % index)).rgb, frame)
    assert sorted(report.images) == [
        *(f"error/m/c/s/{index:04d}" for index in (1, 5, 9)),
        *(f"result/m/c/s/{index:04d}" for index in (1, 5, 9)),
    ]
    assert np.array_equal(report.images["result/m/c/s/0005"], frames[5])
    assert (report.images["error/m/c/s/0005"] == 5).all()  # against frame 6
    assert keep_pictures(report, tmp_path, "content/one", frames=frames[:1], is_clip=True).endswith(
        "%05d.png"
    )
    assert "content/one/0000" in report.images


def test_a_folder_with_other_things_is_not_taken(tmp_path: Path) -> None:
    fresh, mine = tmp_path / "new" / "deep", tmp_path / "mine"
    check_folder(fresh, overwrite=False)
    assert not fresh.exists()
    prepare_folder(fresh)
    (fresh / "pictures").mkdir()
    (fresh / "pictures" / "old.png").touch()
    (fresh / "report.html").touch()
    check_folder(fresh, overwrite=False)  # cut short
    (fresh / "report.json").touch()
    with pytest.raises(MediaError, match="the folder is not empty"):
        check_folder(fresh, overwrite=False)
    check_folder(fresh, overwrite=True)
    prepare_folder(fresh)
    assert [path.name for path in fresh.iterdir()] == [MARKER]  # nothing of the old one stays beside the new
    mine.mkdir()
    check_folder(mine, overwrite=False)
    (mine / "thesis.txt").write_text("")
    with pytest.raises(MediaError, match="the folder is not empty"):
        check_folder(mine, overwrite=False)
    check_folder(mine, overwrite=True)
    (mine / "pictures").mkdir()
    prepare_folder(mine)
    assert (mine / "thesis.txt").exists() and (mine / "pictures").exists()
    with pytest.raises(MediaError, match="not a folder"):
        check_folder(mine / "thesis.txt", overwrite=True)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "stdcli-report", "version": 2}', '{"format": 1}']
)
def test_what_is_no_report(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(MediaError, match="not a report"):
        read_report(tmp_path)


def test_a_report_is_read_by_folder_or_by_name(tmp_path: Path) -> None:
    data = make_report() | {"title": "ä\udce9", "value": float("nan")}
    (tmp_path / "report.json").write_bytes(dump(data))
    for path in (tmp_path, tmp_path / "report.json"):
        assert read_report(path) == (data | {"value": None}, tmp_path)
    with pytest.raises(MediaError, match="no report here"):
        read_report(tmp_path / "elsewhere")
    assert '"title": "ä\\udce9",'.encode() in dump(data)


def put(value: object, *keys: str | int) -> Callable[[dict[str, Any]], None]:
    """A change of a report: another value under some keys; None takes it away."""

    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        if value is None:
            del data[keys[-1]]
        else:
            data[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (put("/etc/a.png", "results", 0, "file"), "leads out of its folder"),
        (put("../a.png", "results", 0, "file"), "leads out of its folder"),
        (put("pictures/../../a.png", "contents", 0, "file"), "leads out of its folder"),
        (put("linked/a.png", "styles", 0, "file"), "a link, where"),
        (put("a/b", "contents", 0, "id"), "contents.0.id"),
        (put("..", "methods", 0, "id"), "methods.0.id"),
        (put("nobody", "results", 0, "method"), "method nobody"),
        (put({"none": 1.0}, "results", 0, "values"), "metric none"),
        (put("none", "floors", 0, "content"), "content none"),
        (put(None, "machine"), "machine"),
        (put([], "metrics", 0, "weights"), "metrics.0.weights"),
        (put([1], "contents", 0, "size"), "contents.0.size"),
        (put({}, "table"), "table"),
        (put("1", "results", 0, "values", "palette"), "results.0.values.palette"),
    ],
)
def test_a_strangers_report_is_checked_whole(tmp_path: Path, change, told: str) -> None:
    (tmp_path / "linked").symlink_to(tmp_path.parent)
    data = make_report()
    change(data)
    (tmp_path / "report.json").write_bytes(dump(data))
    with pytest.raises(MediaError) as caught:
        read_report(tmp_path)
    assert told in str(caught.value)
