"""`stdcli eval` from the command line: a grid, files, comparisons, thresholds; nothing is mocked."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stdcli.cli.main import main
from stdcli.evaluate.inputs import read_contents, read_styles
from stdcli.evaluate.report import read_report
from stdcli.media.image import Picture, read_image, write_image
from stdcli.metrics.metric import Subject
from stdcli.metrics.optical_flow import dis_flows, write_flo
from stdcli.metrics.registry import find_metric
from stdcli.metrics.warping import WarpProtocol, warping_error

pytestmark = pytest.mark.usefixtures("one_load")

TIMES = ("created", "seconds")
SUITE = """
task: eval
title: Two methods
size: 64
metrics: [palette, texture, edges, ssim]
methods:
  - name: teacher
    steps: [3, 2]
    settings: {student: none}
  - name: student
    steps: 2
"""


def picture(path: Path, seed: int, *, height: int = 64, width: int = 96) -> Path:
    """Coloured waves and a bright square, so that every metric has something to see."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(3, 9) + y / rng.uniform(3, 9) + channel) for channel in range(3)]
    rgb = 128 + 70 * np.stack(waves, 2) + rng.normal(0, 12, (height, width, 3))
    rgb[20:40, 30:60] = rng.integers(0, 256, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, Picture(rgb.clip(0, 255).astype(np.uint8)))
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    for seed, name in enumerate(("photos/one.png", "photos/two.png", "art/a.png", "art/b.png")):
        picture(root / name, seed)
    (root / "suite.yaml").write_text(SUITE)
    return root


def run(inputs: Path, out: Path, *options: str) -> int:
    named = ["--content", str(inputs / "photos"), "--style", str(inputs / "art")]
    return main(["eval", "run", "--suite", str(inputs / "suite.yaml"), *named, "-o", str(out), *options])


@pytest.fixture(scope="module")
def done(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    assert run(inputs, out) == 0
    return out


def load(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def without_times(data: dict[str, Any]) -> dict[str, Any]:
    timed = {column["id"] for column in data["metrics"] if column["group"] == "speed"}
    kept = {key: value for key, value in data.items() if key not in (*TIMES, "command")}
    kept["table"] = [row for row in data["table"] if row["metric"] not in timed]
    return kept


def test_every_method_restyles_every_cell(done: Path) -> None:
    data = load(done)
    assert [m["id"] for m in data["methods"]] == ["teacher-3-steps", "teacher-2-steps", "student-2-steps"]
    cells = {(r["method"], r["content"], r["style"]) for r in data["results"]}
    assert len(cells) == len(data["results"]) == 3 * 2 * 2
    assert [m["settings"]["evaluations"] for m in data["methods"]] == [3, 2, 2]
    assert [m["settings"]["student"] for m in data["methods"]] == [None, None, "embedded"]
    assert len({m["hashes"]["unet"] for m in data["methods"]}) == 1
    assert "student" in data["methods"][2]["hashes"] and "student" not in data["methods"][0]["hashes"]
    page = (done / "report.html").read_text()
    assert "Two methods" in page and "teacher, 3 steps" in page


def test_results_are_those_of_stylize(inputs: Path, done: Path, tmp_path: Path) -> None:
    content = load(done)["contents"][1]
    small = done / "pictures" / "content" / f"{content['id']}.png"
    made = tmp_path / "made.png"
    command = [
        "stylize",
        str(small),
        "--style",
        str(inputs / "art" / "b.png"),
        "--steps",
        "2",
        "-o",
        str(made),
    ]
    assert main(command) == 0
    kept = done / "pictures" / "result" / "student-2-steps" / content["id"] / "b.png"
    assert np.array_equal(read_image(made).rgb, read_image(kept).rgb)


def test_numbers_are_those_of_the_metrics(inputs: Path, done: Path) -> None:
    data = load(done)
    contents = {c.id: c for c in read_contents([inputs / "photos"], size_px=64, frames=1)}
    styles = {s.id: s for s in read_styles([inputs / "art"])}
    for result in data["results"]:
        subject = Subject(
            frames=read_image(done / result["file"]).rgb[None],
            content=contents[result["content"]].frames,
            styles=(styles[result["style"]].rgb,),
        )
        for name, value in result["values"].items():
            assert value == pytest.approx(find_metric(name).measure(subject, None), rel=1e-9)
    for row in data["table"]:
        values = [r["values"].get(row["metric"]) for r in data["results"] if r["method"] == row["method"]]
        if row["metric"] in ("palette", "texture", "edges", "ssim"):
            assert row["mean"] == pytest.approx(np.mean(values)) and row["count"] == 4
            assert row["sd"] == pytest.approx(np.std(values, ddof=1))


def test_speed_is_there_and_counts_what_ran(done: Path) -> None:
    rows = {(row["method"], row["metric"]): row["mean"] for row in load(done)["table"]}
    for method, steps in (("teacher-3-steps", 3), ("student-2-steps", 2)):
        assert rows[method, "evaluations"] == rows[method, "forwards"] == steps
        stages = [rows[method, f"{stage}-ms"] for stage in ("encode", "denoise", "decode")]
        assert all(ms > 0 for ms in stages)
        assert sum(stages) <= 1000 / rows[method, "fps"] * 1.001
        assert rows[method, "peak-mib"] > 100


def test_a_second_run_says_the_same(inputs: Path, done: Path, tmp_path: Path, capsys) -> None:
    capsys.readouterr()
    assert run(inputs, tmp_path, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == load(tmp_path)
    assert without_times(printed) == without_times(load(done))


@pytest.mark.slow
def test_the_order_of_files_changes_nothing(inputs: Path, done: Path, tmp_path: Path) -> None:
    named = []
    for name in ("two", "one"):
        named += ["--content", str(inputs / "photos" / f"{name}.png")]
    for name in ("b", "a"):
        named += ["--style", str(inputs / "art" / f"{name}.png")]
    suite = ["--suite", str(inputs / "suite.yaml")]
    assert main(["eval", "run", *suite, *named, "-o", str(tmp_path)]) == 0
    ours, theirs = (
        {(r["method"], r["content"], r["style"]): r["values"] for r in load(out)["results"]}
        for out in (done, tmp_path)
    )
    assert ours.keys() == theirs.keys()
    for cell, values in ours.items():
        assert values == pytest.approx(theirs[cell], abs=1e-4)


def test_files_are_measured_like_the_grid(inputs: Path, done: Path, tmp_path: Path, capsys) -> None:
    kept = done / "pictures" / "result" / "teacher-3-steps" / "one" / "a.png"
    content = done / "pictures" / "content" / "one.png"
    capsys.readouterr()
    options = [
        "--content",
        str(content),
        "--style",
        str(inputs / "art" / "a.png"),
        "--metrics",
        "palette,edges",
    ]
    assert main(["eval", "measure", str(kept), *options, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)["results"][0]["values"]
    (result,) = (
        r
        for r in load(done)["results"]
        if (r["method"], r["content"], r["style"]) == ("teacher-3-steps", "one", "a")
    )
    assert values == {name: result["values"][name] for name in ("palette", "edges")}
    assert main(["eval", "measure", str(kept), *options, "-o", str(tmp_path / "m"), "-q"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "m" / "report.html")
    assert load(tmp_path / "m")["results"][0]["values"] == values


def test_what_a_result_lacks_is_not_measured(inputs: Path, capsys) -> None:
    photo, style = str(inputs / "photos" / "one.png"), str(inputs / "art" / "a.png")
    capsys.readouterr()
    for options, measured in (
        (["--content", photo], {"edges", "ssim"}),
        (["--style", style], {"palette", "texture"}),
    ):
        assert (
            main(["eval", "measure", photo, *options, "--metrics", "palette,texture,edges,ssim", "--json"])
            == 0
        )
        (result,) = json.loads(capsys.readouterr().out)["results"]
        assert {name for name, value in result["values"].items() if value is not None} == measured


def test_a_result_of_another_size_is_refused(inputs: Path, tmp_path: Path, capsys) -> None:
    odd = picture(tmp_path / "odd.png", 5, height=40)
    content, style = str(inputs / "photos" / "one.png"), str(inputs / "art" / "a.png")
    assert main(["eval", "measure", str(odd), "--content", content, "--style", style]) == 5
    assert "got 96x40, expected 96x64" in capsys.readouterr().err
    both = ["--content", content, "--content", content, "--style", style]
    assert main(["eval", "measure", str(odd), *both]) == 5
    assert "1 results and 2 contents" in capsys.readouterr().err


def test_reports_side_by_side(inputs: Path, done: Path, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other"
    suite = tmp_path / "other.yaml"
    suite.write_text("task: eval\nsize: 64\nmetrics: [palette]\nmethods: [{name: student, steps: [2, 1]}]\n")
    named = ["--content", str(inputs / "photos" / "two.png"), "--style", str(inputs / "art")]
    assert main(["eval", "run", "--suite", str(suite), *named, "-o", str(other)]) == 0
    both = tmp_path / "both"
    assert main(["eval", "compare", str(done), str(other), "-o", str(both)]) == 0
    assert "6 results have no counterpart" in capsys.readouterr().err
    data = load(both)
    names = [method["id"] for method in data["methods"]]
    assert names == [
        "teacher-3-steps",
        "teacher-2-steps",
        "student-2-steps",
        "student-2-steps-2",
        "student-1-step",
    ]
    assert [content["id"] for content in data["contents"]] == ["two"]
    kept = [entry["file"] for kind in ("contents", "styles", "results") for entry in data[kind]]
    assert len(kept) == 1 + 2 + 5 * 2
    shown = (both / "report.html").read_text().count("<img")
    for entry in data["results"]:
        name = f"pictures/result/{entry['method']}/two/{entry['style']}.png"
        source = other if entry["method"] in ("student-2-steps-2", "student-1-step") else done
        original = source / name.replace("student-2-steps-2", "student-2-steps")
        assert entry["file"] == name
        assert np.array_equal(read_image(both / name).rgb, read_image(original).rgb)
    assert shown >= len(kept)
    assert read_report(both)[0] == data
    rows = {(row["method"], row["metric"]): row for row in data["table"]}
    assert rows["student-2-steps", "palette"]["mean"] == rows["student-2-steps-2", "palette"]["mean"]
    assert rows["student-2-steps", "palette"]["count"] == 2
    assert rows.get(("student-2-steps-2", "texture"), {"mean": None})["mean"] is None


def test_other_protocols_and_weights_get_columns_of_their_own(done: Path, tmp_path: Path, capsys) -> None:
    data = load(done)
    for column in data["metrics"]:
        if column["name"] == "palette":
            column["protocol"] += ", twice as fine"
        if column["name"] == "edges":
            column["weights"] = {"net": "abc"}
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "report.json").write_text(json.dumps(data))
    assert main(["eval", "compare", str(done), str(changed), "-o", str(tmp_path / "both")]) == 0
    assert capsys.readouterr().err.count("in a column of its own") == 2
    both = load(tmp_path / "both")
    assert {"palette", "palette-2", "edges", "edges-2", "texture"} <= {c["id"] for c in both["metrics"]}
    measured = {(row["method"], row["metric"]) for row in both["table"] if row["mean"] is not None}
    assert ("teacher-3-steps", "palette") in measured and ("teacher-3-steps", "palette-2") not in measured
    assert ("teacher-3-steps-2", "palette-2") in measured and ("teacher-3-steps-2", "palette") not in measured


def test_the_same_photo_at_another_size_is_another(inputs: Path, done: Path, tmp_path: Path, capsys) -> None:
    sized = ["--set", "size=48", "--set", "methods=[{name: student, steps: 1}]", "--metrics", "ssim"]
    assert run(inputs, tmp_path / "small", *sized) == 0
    assert main(["eval", "compare", str(done), str(tmp_path / "small"), "-o", str(tmp_path / "both")]) == 5
    assert "no content in the same style in common" in capsys.readouterr().err


def test_a_comparison_never_replaces_its_reports(done: Path, tmp_path: Path, capsys) -> None:
    before = (done / "report.json").read_bytes()
    assert main(["eval", "compare", str(done), str(done), "-o", str(done), "--overwrite"]) == 5
    assert "would replace one of its reports" in capsys.readouterr().err
    assert (done / "report.json").read_bytes() == before
    data = load(done)
    data["results"].append(data["results"][0])
    (tmp_path / "report.json").write_text(json.dumps(data))
    assert main(["eval", "compare", str(done), str(tmp_path), "-o", str(tmp_path / "both")]) == 5
    assert "twice, or not at all" in capsys.readouterr().err


def test_results_find_their_contents_by_name(inputs: Path, tmp_path: Path, capsys) -> None:
    for seed, name in enumerate(("a", "a_b")):
        picture(tmp_path / "in" / f"{name}.png", seed + 20)
        picture(tmp_path / "out" / f"{name}_std.png", seed + 20)  # the same picture
    picture(tmp_path / "other" / "x.png", 20)
    picture(tmp_path / "other" / "y.png", 21)
    command = ["eval", "measure", "--metrics", "ssim", "--json", str(tmp_path / "out")]
    capsys.readouterr()
    assert main([*command, "--content", str(tmp_path / "in")]) == 0
    out, err = capsys.readouterr()
    assert {r["content"]: r["values"]["ssim"] for r in json.loads(out)["results"]} == {
        "a_b_std": 1,
        "a_std": 1,
    }
    assert "in order" not in err
    assert main([*command, "--content", str(tmp_path / "other")]) == 0
    assert "taken in order: a_b_std of x, a_std of y" in capsys.readouterr().err


def test_nothing_in_common_is_refused(inputs: Path, done: Path, tmp_path: Path, capsys) -> None:
    data = load(done)
    for entry in data["contents"]:
        entry["sha256"] = entry["sha256"][::-1]
    (tmp_path / "report.json").write_text(json.dumps(data))
    assert main(["eval", "compare", str(done), str(tmp_path), "-o", str(tmp_path / "both")]) == 5
    assert "no content in the same style in common" in capsys.readouterr().err


def test_a_threshold_that_fails_is_8_and_the_report_is_there(
    inputs: Path, done: Path, tmp_path: Path, capsys
) -> None:
    kept = str(done / "pictures" / "result" / "student-2-steps" / "one" / "a.png")
    content = str(done / "pictures" / "content" / "one.png")
    command = ["eval", "measure", kept, "--content", content, "--metrics", "ssim", "-o", str(tmp_path / "m")]
    assert main([*command, "--threshold", "ssim>=-1"]) == 0
    assert main([*command, "--threshold", "ssim>=0.999"]) == 5  # a finished report stays
    command.append("--overwrite")
    assert main([*command, "--threshold", "ssim>=0.999"]) == 8
    assert "ssim>=0.999, got" in capsys.readouterr().err
    assert [gate["passed"] for gate in load(tmp_path / "m")["gates"]] == [False]
    assert main([*command, "--threshold", "palette<=1"]) == 2
    assert "palette is not measured" in capsys.readouterr().err


def test_missing_weights_are_told_and_may_be_required(done: Path, tmp_path: Path, capsys) -> None:
    kept = str(done / "pictures" / "result" / "student-2-steps" / "one" / "a.png")
    style = str(done / "pictures" / "style" / "a.png")
    command = ["eval", "measure", kept, "--style", style, "--metrics", "palette,csd"]
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    (column,) = (column for column in data["metrics"] if column["name"] == "csd")
    assert data["results"][0]["values"]["csd"] is None and data["results"][0]["values"]["palette"] > 0
    assert "csd" in column["missing"]["fetch"].lower() and column["missing"]["fetch"] in err
    assert main([*command[:-1], "clip-i,clip-t"]) == 0
    assert capsys.readouterr().err.count("hf download openai/clip") == 1  # one network, one line
    assert main([*command, "--require"]) == 4
    assert "metrics lack their weights" in capsys.readouterr().err


def test_what_is_wrong_is_told_before_anything_is_loaded(inputs: Path, tmp_path: Path, capsys) -> None:
    assert run(inputs, tmp_path / "a", "--metrics", "palete") == 2
    assert "did you mean palette" in capsys.readouterr().err
    assert run(inputs, tmp_path / "a", "--threshold", "csd>0.5") == 2
    assert run(inputs, tmp_path / "a", "--set", "methods=[]") == 2
    assert run(inputs, tmp_path / "a", "--set", "grid=pairs", "--content", str(inputs / "art")) == 2
    assert "make no pairs" in capsys.readouterr().err
    assert run(inputs, inputs) == 5
    assert "the folder is not empty" in capsys.readouterr().err
    assert not (tmp_path / "a" / "report.json").exists()


@pytest.mark.parametrize(("package", "name"), [("matplotlib", "matplotlib"), ("skimage", "scikit-image")])
def test_a_missing_package_is_told_before_any_work(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, package: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert run(inputs, tmp_path / "a") == 7
    assert f"needs {name}, which is not installed" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    photo, style = str(inputs / "photos" / "one.png"), str(inputs / "art" / "a.png")
    made = ["-o", str(tmp_path / "made.png"), "--report", str(tmp_path / "b")]
    assert main(["stylize", photo, "--style", style, *made]) == 7
    assert "pip install 'stdcli[eval]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_what_would_be_done(inputs: Path, tmp_path: Path, capsys) -> None:
    assert run(inputs, tmp_path / "a", "--dry-run", "--method", "lcm=runs/lcm") == 0
    assert "4 methods · 2 contents · 2 styles · 16 results" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_stylize_reports_what_it_made(inputs: Path, tmp_path: Path, capsys) -> None:
    photos, style = (
        [str(inputs / "photos" / f"{name}.png") for name in ("two", "one")],
        str(inputs / "art" / "a.png"),
    )
    out, report = tmp_path / "out", tmp_path / "report"
    command = ["stylize", *photos, "--style", style, "--steps", "1", "-o", f"{out}/", "--report", str(report)]
    assert main(command) == 0
    data = load(report)
    assert [result["content"] for result in data["results"]] == ["two.std", "one.std"]
    for result, photo in zip(data["results"], photos, strict=True):
        subject = Subject(
            frames=read_image(out / f"{result['content']}.png").rgb[None],
            content=read_image(Path(photo)).rgb[None],
            styles=(read_image(Path(style)).rgb,),
        )
        assert result["values"]["edges"] == pytest.approx(find_metric("edges").measure(subject, None))
        assert result["values"]["palette"] == pytest.approx(find_metric("palette").measure(subject, None))
    assert (report / "report.html").stat().st_size > 1000
    fresh = ["stylize", *photos, "--style", style, "-o", f"{tmp_path / 'fresh'}/"]
    assert main([*fresh, "--report", str(tmp_path / "second"), "--start", "1"]) == 2
    assert "leave --start out" in capsys.readouterr().err
    assert main([*fresh, "--report", str(inputs / "art")]) == 5
    assert "the folder is not empty" in capsys.readouterr().err
    assert not (tmp_path / "fresh").exists() and not (tmp_path / "second").exists()


def moving(path: Path) -> Path:
    """Seven frames of a texture that moves two pixels to the right at each."""
    wide = read_image(picture(path.parent / "wide.png", 11, height=48, width=96)).rgb
    for index in range(7):
        write_image(
            path.parent / f"{index:03d}.png", Picture(np.ascontiguousarray(wide[:, 20 - 2 * index :][:, :64]))
        )
    return path


def test_clips_are_followed_along_their_own_motion(inputs: Path, tmp_path: Path) -> None:
    clip = moving(tmp_path / "shot" / "%03d.png")
    suite = tmp_path / "clips.yaml"
    suite.write_text(
        "task: eval\nframes: 6\nmetrics: [edges, warping, flicker]\n"
        'methods: [{name: "off", steps: 1, settings: {temporal: "off"}}]\n'
    )
    style = str(inputs / "art" / "a.png")
    command = ["eval", "run", "--suite", str(suite), "--content", str(clip), "--style", style]
    out, made = tmp_path / "out", tmp_path / "made" / "%03d.png"
    assert main([*command, "-o", str(out)]) == 0
    data = load(out)
    (result,) = data["results"]
    frames = np.stack([read_image(out / (result["file"] % index)).rgb for index in range(6)])
    source = np.stack([read_image(tmp_path / "shot" / f"{index:03d}.png").rgb for index in range(6)])
    whole = [
        "stylize",
        str(clip),
        "--style",
        style,
        "--steps",
        "1",
        "--temporal",
        "off",
        "--duration",
        "0.24",
    ]
    assert main([*whole, "-o", str(made), "--no-metadata"]) == 0
    assert np.array_equal(frames, np.stack([read_image(made.parent / f"{n:03d}.png").rgb for n in range(6)]))
    flows, protocol = dis_flows(source), WarpProtocol()
    assert result["values"]["warping"] == pytest.approx(warping_error(frames, flows, protocol))
    baselines = {baseline["metric"]: baseline["value"] for baseline in data["floors"]}
    assert baselines["warping"] == pytest.approx(warping_error(source, flows, protocol))
    assert baselines["flicker"] <= 2 / 255 and {baseline["content"] for baseline in data["floors"]} == {
        "shot"
    }
    assert baselines["warping"] < result["values"]["warping"]
    assert 'data-key="error/off-1-step/shot/a/' in (out / "report.html").read_text()

    exact = tmp_path / "flows"
    for direction, shift in (("forward", 2), ("backward", -2)):
        for index in range(5):
            (exact / direction).mkdir(parents=True, exist_ok=True)
            flow = np.zeros((48, 64, 2), np.float32) + np.array([shift, 0], np.float32)
            write_flo(exact / direction / f"{index:05d}.flo", flow)
    assert (
        main([*command, "--flow", str(exact), "--set", "warping.norm=l1", "-o", str(tmp_path / "exact")]) == 0
    )
    other = load(tmp_path / "exact")
    assert other["floors"][0]["value"] == 0  # whole pixels, nothing new but at the edge
    column, plain = (next(c for c in d["metrics"] if c["id"] == "warping") for d in (other, data))
    assert "flow files sha256:" in column["protocol"] and column["protocol"].startswith("l1")
    assert "flow opencv-dis-medium" in plain["protocol"]
    errors = np.abs(frames[1:, :, 2:].astype(float) - frames[:-1, :, :-2])
    expected = np.mean([gap.mean() for gap in errors]) / 255
    assert other["results"][0]["values"]["warping"] == pytest.approx(expected, rel=1e-6)


def test_a_clip_of_another_length_or_rate_is_refused(inputs: Path, tmp_path: Path, capsys) -> None:
    clip = moving(tmp_path / "shot" / "%03d.png")
    (tmp_path / "cut").mkdir()
    for index in range(5):
        shutil.copy(tmp_path / "shot" / f"{index:03d}.png", tmp_path / "cut")
    measured = ["--content", str(clip), "--metrics", "ssim", "--set", "frames=4"]
    assert main(["eval", "measure", str(tmp_path / "cut" / "%03d.png"), *measured]) == 5
    assert "got 64x48, 5 frames, 25 per second, expected 64x48, 7 frames" in capsys.readouterr().err
    assert main(["eval", "measure", str(clip), *measured]) == 0
    assert "shot: the first 4 of 7 frames" in capsys.readouterr().err


def test_missing_optical_flow_is_told_before_any_work(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    clip, style = str(moving(tmp_path / "shot" / "%03d.png")), str(inputs / "art" / "a.png")
    monkeypatch.setitem(sys.modules, "cv2", None)
    command = ["eval", "run", "--suite", str(inputs / "suite.yaml"), "--content", clip, "--style", style]
    assert main([*command, "--metrics", "warping", "-o", str(tmp_path / "a")]) == 7
    made = ["-o", str(tmp_path / "made" / "%03d.png"), "--report", str(tmp_path / "b")]
    assert main(["stylize", clip, "--style", style, *made]) == 7
    assert capsys.readouterr().err.count("optical flow needs OpenCV") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shot"]


def test_a_grid_of_pairs(inputs: Path, tmp_path: Path) -> None:
    suite = ["--set", "grid=pairs", "--set", "methods=[{name: s, steps: 1}]", "--metrics", "ssim"]
    assert run(inputs, tmp_path, *suite) == 0
    assert [(r["content"], r["style"]) for r in load(tmp_path)["results"]] == [("one", "a"), ("two", "b")]
