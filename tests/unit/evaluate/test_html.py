"""The page of a report: whole, closed in itself, nothing of a user's text taken for markup."""

from __future__ import annotations

import base64
import copy
import hashlib
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stdcli.errors import ResourceError
from stdcli.evaluate.html import render
from tests.tiny_reports import FETCH, MEANS, METHODS, METRICS, make_images, make_report, make_sweep

VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
FEW = ("palette", "csd", "warping")  # metrics, where plots are not what is looked at
NASTY = """<script>alert("x")</script>&'$title $nav <!--]]> {0} 漢"""
ODD = NASTY + "\x1b[2J\u202e\udce9\x00"


class Reader(HTMLParser):
    """Checks that elements nest, and keeps every start tag and all text outside of script and style."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"{tag}: an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


@pytest.fixture(scope="module")
def page() -> str:
    return render(make_report(), make_images())


@pytest.fixture(scope="module")
def reader(page: str) -> Reader:
    return Reader(page)


def numbers_of(page: str) -> dict[str, list[str]]:
    """Metric title -> the cells of its row, as markup."""
    body = re.search(r'<table class="numbers[^>]*>(.*?)</table>', page, re.DOTALL)[1]
    rows = re.findall(r"<tr[^>]*>(<th[^>]*>.*?)</tr>", body, re.DOTALL)
    lines = [re.split(r"<td", row) for row in rows]
    return {re.sub(r"<[^>]*>", "", head).split("\u00a0")[0]: cells for head, *cells in lines if cells}


def uris(reader: Reader) -> Iterator[str]:
    for tag, attributes in reader.tags:
        if tag == "img" and attributes.get("src"):
            yield attributes["src"]


def test_elements_nest_and_ids_are_unique(reader: Reader) -> None:
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 20


def test_links_inside_the_page_lead_somewhere(reader: Reader) -> None:
    ids = {attributes["id"] for _, attributes in reader.tags if "id" in attributes}
    wanted = {a["href"] for _, a in reader.tags if (a.get("href") or "").startswith("#")}
    wanted |= {"#" + name for _, a in reader.tags for name in re.findall(r"url\(#(\w+)\)", str(a))}
    assert len(wanted) > 10
    assert {target.removeprefix("#") for target in wanted} <= ids


def test_nothing_is_loaded_from_elsewhere(page: str, reader: Reader) -> None:
    for tag, attributes in reader.tags:
        for name in ("src", "href", "data", "poster", "srcset", "action", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert "http://" not in page and "https://" not in page


def test_only_the_pages_own_script_may_run(page: str, reader: Reader) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    policy = next(a["content"] for _, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)


def test_every_number_of_the_table_is_there(page: str) -> None:
    rows = numbers_of(page)
    for metric, means in MEANS.items():
        cells = rows[METRICS[metric][0]]
        assert len(cells) == len(METHODS)
        for cell, mean in zip(cells, means, strict=True):
            shown = re.search(r'<(b|span) title="([^"]*)">([^<]*)</', cell)
            assert float(shown[2]) == mean
            assert float(shown[3]) == pytest.approx(mean, abs=0.5 * 10 ** -len(shown[3].partition(".")[2]))
            count = 2 if metric == "warping" else 6
            assert f"n {count}</small>" in cell and "\u00b1 " in cell


def test_the_best_is_bold(page: str) -> None:
    for metric, cells in numbers_of(page).items():
        name = next(name for name, facts in METRICS.items() if facts[0] == metric)
        if name in MEANS:
            ideal = (min if METRICS[name][2] == "lower" else max)(MEANS[name])
            near = {"forwards": 0.0, "ms": 1.0}.get(name, 0.0)  # 197.8 and 198.3 both print 198
            assert ["<b " in cell for cell in cells] == [abs(m - ideal) <= near for m in MEANS[name]], name


def test_what_is_missing_says_so_and_how_to_get_it(page: str, reader: Reader) -> None:
    rows = numbers_of(page)
    for metric, (what, fetch) in FETCH.items():
        cells = rows[METRICS[metric][0]]
        assert all(">n/a</a>" in cell for cell in cells)
        assert what in reader.text and fetch in reader.texts


def test_protocols_citations_hashes_and_settings_are_there(reader: Reader) -> None:
    report = make_report()
    for metric in report["metrics"]:
        assert metric["protocol"] in reader.texts and metric["cite"] in reader.texts
        assert set(metric["weights"].values()) <= set(reader.texts)
    for item in (*report["contents"], *report["styles"]):
        assert item["sha256"] in reader.texts
    for method in report["methods"]:
        assert set(method["hashes"].values()) <= set(reader.texts)
    for name in ("command", "title", "machine"):
        assert report[name] in reader.text
    assert {"strength", "0.6", "temporal", "flow", "2.13.0"} <= set(reader.texts)


def test_gates_and_floors_are_there(reader: Reader) -> None:
    texts = reader.texts
    assert (
        texts.index("failed") < texts.index("ssim>=0.5") < texts.index("passed") < texts.index("palette<=4")
    )
    assert "1 of 2 failed." in texts and "0.0214" in texts


def test_best_guidances_are_there_where_they_were_asked_for() -> None:
    report = make_report()
    assert "Best guidance" not in render(report, {})
    row = {"family": "teacher", "steps": 30, "metric": "palette", "method": "teacher-30", "guidance": 2.5}
    page = render(report | {"best": [row | {"value": 4.3125}]}, {})
    section = page[page.index('id="best"') : page.index('id="gates"')]
    for text in (">teacher<", ">30<", ">2.5<", ">4.312<"):
        assert text in section


def test_pictures_are_jpegs_each_in_the_file_once(reader: Reader) -> None:
    sources = list(uris(reader))
    assert len(sources) == len(set(sources))
    images = make_images()
    shown = {a["data-key"]: a["src"] for tag, a in reader.tags if tag == "img" and "data-key" in a}
    assert {key for key in images if key.count("/") < 4 and not re.search(r"\d{4}$", key)} <= set(shown)
    for key, uri in shown.items():
        kind, _, data = uri.partition(",")
        picture = Image.open(BytesIO(base64.b64decode(data)))
        assert (kind, picture.format, picture.size) == ("data:image/jpeg;base64", "JPEG", (64, 48))
        if not key.startswith("error/"):
            difference = np.asarray(picture, dtype=float) - images[key]
            assert np.abs(difference).mean() < 4, key


def test_copies_are_of_pictures_that_are_there(reader: Reader) -> None:
    keys = [a["data-key"] for _, a in reader.tags if "data-key" in a]
    copies = {a["data-copy"] for _, a in reader.tags if "data-copy" in a}
    assert {"style/ink", "content/cat"} <= copies <= set(keys)


def test_the_same_report_gives_the_same_bytes(page: str) -> None:
    assert render(make_report(), make_images()) == page


def test_text_of_users_is_never_markup() -> None:
    report = make_report()
    images = make_images(size=(8, 8))
    report |= dict.fromkeys(("title", "command", "machine", "created"), ODD)
    for method in report["methods"]:
        method |= {"title": f"{ODD}{method['id']}", "family": ODD, "settings": {ODD: ODD}}
        method["hashes"] = {ODD: ODD}
    for metric in report["metrics"]:
        metric |= dict.fromkeys(("title", "unit", "protocol", "cite"), ODD) | {"weights": {ODD: ODD}}
        if metric["missing"]:
            metric["missing"] = {"what": ODD, "fetch": ODD}
    for gate in report["gates"]:
        gate["rule"] = ODD
    for result in report["results"]:
        result["file"] = "javascript:alert(1)//<b>"
        result["content"] = NASTY if result["content"] == "cat" else result["content"]
    report["contents"][0] |= {"id": NASTY, "sha256": NASTY}
    images = {key.replace("/cat", "/" + NASTY): image for key, image in images.items()}
    page = render(report, images)
    reader = Reader(page)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", page)
    assert r"\x1b[2J\u202e\udce9" in reader.text
    assert page.count("<script") == 1 and "alert(&quot;" in page
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert not any("javascript:" in str(value) for _, a in reader.tags for value in a.values())
    assert any(a.get("data-key") == f"result/student-4/{NASTY}/ink" for _, a in reader.tags)


def test_images_may_be_absent() -> None:
    images = make_images(size=(12, 16))
    some = {key: image for index, (key, image) in enumerate(sorted(images.items())) if index % 3}
    reader = Reader(render(make_report(FEW), some))
    assert "no picture" in reader.texts
    shown = {a["data-key"] for _, a in reader.tags if "data-key" in a}
    assert shown and shown <= set(some)
    bare = Reader(render(make_report(FEW), {}))
    assert not list(uris(bare))
    assert not {"Pictures", "Clips", "Compare"} & set(bare.texts) and "Numbers" in bare.texts


def test_a_report_of_nothing_is_still_a_page() -> None:
    report = make_report(FEW)
    for name in ("results", "table", "floors", "gates", "styles", "contents"):
        report[name] = []
    assert "n/a" in Reader(render(report, {})).texts
    report |= {"methods": [], "metrics": []}
    assert report["title"] in Reader(render(report, {})).texts


def test_a_large_report_stays_below_its_bound() -> None:
    rng = np.random.default_rng(3)
    noise = [rng.integers(0, 256, (256, 384, 3), dtype=np.uint8) for _ in range(2)]  # the worst for JPEG
    report = make_report(FEW)
    example = report["results"][0]
    report["contents"] = [report["contents"][0] | {"id": f"c{index}"} for index in range(4)]
    report["styles"] = [report["styles"][0] | {"id": f"s{index}"} for index in range(5)]
    triples = [
        (method, content["id"], style["id"])
        for method in METHODS
        for content in report["contents"]
        for style in report["styles"]
    ]
    report["results"] = [example | {"method": m, "content": c, "style": s} for m, c, s in triples]
    images = {f"result/{m}/{c}/{s}": noise[index % 2] for index, (m, c, s) in enumerate(triples)}
    assert len(triples) == 80
    page = render(report, images)
    assert len(page.encode()) < 8_000_000
    sizes = {Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))).size for uri in uris(Reader(page))}
    assert len(sizes) == 1 and 96 <= max(*sizes.pop()) < 384


def test_many_methods_go_down_the_side() -> None:
    page = render(make_sweep(), {})
    body = re.search(r'<table class="numbers"[^>]*>(.*?)</table>', page, re.DOTALL)[1]
    rows = re.findall(r'<tr><th scope="row".*?</tr>', body, re.DOTALL)
    assert len(rows) == 12
    assert all(row.count("<td") == len(METRICS) for row in rows)
    assert "Style against aesthetics over guidance" in page and "Quality against steps" in page


def test_plots_are_drawn_only_of_what_differs() -> None:
    report = make_sweep()
    few = ("palette", "edges", "aesthetic")
    report["metrics"] = [metric for metric in report["metrics"] if metric["id"] in few]
    for method in report["methods"]:
        method["settings"] = {"steps": 4, "guidance": 2.0}
    page = render(report, {})
    assert "Style against aesthetics" not in page and "Quality against steps" not in page
    assert "Style against content" in page
    for method, steps in zip(report["methods"], (4, 8) * 6, strict=True):
        method["settings"] = {"steps": steps, "guidance": 2.0}
    report["table"] = [row for row in report["table"] if row["metric"] != "aesthetic"]
    page = render(report, {})
    assert "Style against aesthetics" not in page and "Quality against steps" in page


def test_the_report_is_left_as_it_was() -> None:
    report: dict[str, Any] = make_report(FEW)
    before = copy.deepcopy(report)
    render(report, {})
    assert report == before


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ResourceError, match=r"pip install 'stdcli\[eval\]'"):
        render(make_report(), {})


def test_an_image_of_another_kind_is_refused() -> None:
    images = make_images(size=(8, 8)) | {"content/cat": np.zeros((8, 8, 3), np.float32)}
    with pytest.raises(ValueError, match="expected uint8"):
        render(make_report(FEW), images)
