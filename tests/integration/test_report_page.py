"""A report in a real browser: it is seen, it answers, it asks for nothing and does not complain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from stdcli.evaluate.html import render
from tests.chromium import Browser, chromium, find_chromium
from tests.tiny_reports import make_images, make_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium: apt-get install chromium"),
]
STAGE = "document.querySelector('.stage').getBoundingClientRect()"
IS_OPEN = "document.querySelector('.viewer').open"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser")
    path = folder / "report.html"
    path.write_text(render(make_report(), make_images()), "utf-8")
    with chromium(folder / "profile") as browser:
        browser.resize(1280, 800)
        browser.open(path)
        yield browser
        # whatever the tests did
        assert browser.complaints() == []
        far = [url for url in browser.requests() if not url.startswith("data:")]
        assert far == [path.as_uri()]


def stage(browser: Browser) -> np.ndarray:
    """The pictures of the slider as they are seen, float [H, W, 3]."""
    browser.run("document.querySelector('.stage').scrollIntoView({block: 'center', behavior: 'instant'})")
    browser.resolve_sampling()
    x, y, width, height = browser.run(f"(({{x, y, width, height}}) => [x, y, width, height])({STAGE})")
    return browser.screenshot()[round(y) : round(y + height), round(x) : round(x + width)].astype(float)


def test_the_page_is_drawn_and_fits(browser: Browser) -> None:
    browser.run("window.scrollTo(0, 0)")
    browser.resolve_sampling()
    light = browser.screenshot()
    assert light.shape == (800, 1280, 3)
    assert light.mean() > 200 and light.std() > 10 and len(np.unique(light.reshape(-1, 3), axis=0)) > 50
    browser.resize(1280, 800, dark=True)
    browser.resolve_sampling()
    dark = browser.screenshot()
    assert dark.mean() < 60 and dark.std() > 10
    for width in (390, 1280):
        browser.resize(width, 800)
        browser.resolve_sampling()
        assert browser.run("document.documentElement.scrollWidth") == width


def test_every_picture_is_there(browser: Browser) -> None:
    missing = "[...document.images].filter(i => i.src && !i.naturalWidth).length"
    assert browser.run(missing) == 0
    unseen = "[...document.querySelectorAll('.grid img')].filter(i => !i.naturalWidth).length"
    assert browser.run(unseen) == 0
    assert browser.run("document.querySelectorAll('img[data-copy]').length") > 5


def test_the_slider_moves(browser: Browser) -> None:
    browser.run("document.querySelector('.stage input').value = 50")
    browser.run("document.querySelector('.stage input').dispatchEvent(new Event('input'))")
    browser.click(".stage input", at=(0.8, 0.5))
    right = stage(browser)
    browser.click(".stage input", at=(0.2, 0.5))
    left = stage(browser)
    middle = slice(int(0.3 * left.shape[1]), int(0.7 * left.shape[1]))
    assert np.abs(right - left)[:, middle].mean() > 10  # the one method's picture, then the other's
    edge = slice(0, int(0.1 * left.shape[1]))
    assert np.abs(right - left)[:-40, edge].mean() < 1
    assert browser.run("Number(document.querySelector('.stage input').value)") == pytest.approx(20, abs=0.5)
    browser.press("ArrowRight")
    assert browser.run("Number(document.querySelector('.stage input').value)") == pytest.approx(20.5, abs=0.5)


def test_the_slider_shows_what_is_chosen(browser: Browser) -> None:
    browser.run("document.querySelector('.stage input').focus()")
    images = make_images()
    for side, method in (("left", "teacher-4"), ("right", "lcm-4")):
        browser.run(f"document.querySelector('select[name={side}]').value = 'result/{method}'")
    browser.run("document.querySelector('select[name=right]').dispatchEvent(new Event('change'))")
    browser.click('.grid .compare[data-content="astronaut"][data-style="night"]')
    browser.click(".stage input", at=(0.5, 0.5))
    seen = stage(browser)
    height, width = seen.shape[:2]
    for at, method in ((0.25, "teacher-4"), (0.75, "lcm-4")):
        truth = images[f"result/{method}/astronaut/night"][24, round(at * 64)]
        assert np.abs(seen[height // 2, round(at * width)] - truth).max() < 25, method
    browser.run("document.querySelector('select[name=content]').value = 'walk'")
    browser.run("document.querySelector('select[name=content]').dispatchEvent(new Event('change'))")
    assert browser.run("document.querySelector('.gap').hidden")  # of clips the middle frame


def test_a_picture_is_enlarged_and_closed(browser: Browser) -> None:
    assert browser.run(IS_OPEN) is False
    shot = '[data-key="result/student-4/cat/ink"]'
    before = browser.run(f"document.querySelector('{shot}').getBoundingClientRect().width")
    browser.click(shot)
    assert browser.run(IS_OPEN) is True
    image = "document.querySelector('.viewer img')"
    assert browser.run(f"{image}.src === document.querySelector('{shot}').src")
    assert browser.run(f"{image}.getBoundingClientRect().width") > 3 * before
    assert "palette" in browser.run("document.querySelector('.viewer .facts').textContent")
    browser.press("ArrowRight")
    assert "LCM" in browser.run("document.querySelector('.viewer strong').textContent")
    browser.press("Escape")
    assert browser.run(IS_OPEN) is False
    browser.click(shot)
    browser.click(".viewer .close")
    assert browser.run(IS_OPEN) is False
