"""The page in a real browser: what it shows, by keyboard, on small screens, light and dark."""

import cv2
import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, open_browser
from colours import frame, sound
from web_client import running, until

from mla_edge.errors import CaptureError
from mla_edge.testing import FakeCamera, FakeMicrophone

if not (CHROMIUM and DRIVER):
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)

PERIOD_S = 0.05
SCREENS = {"desktop": (1280, 860, 1, False), "phone": (390, 844, 2, True)}


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def shown(small_bundle, browser):
    """A run whose camera is lost after a while and comes back, and the page on it."""
    gone = {number: CaptureError("the cable is out") for number in range(100, 140)}
    camera = FakeCamera([frame("red")] * 10_000, period_s=PERIOD_S, faults=gone)
    microphone = FakeMicrophone([sound("red")] * 10_000, period_s=PERIOD_S)
    with running(small_bundle.folder, camera, microphone, duration_s=60) as run:
        # Gate and attention, as a graph that has such outputs gives them.
        infer = run.model._engines[0].run

        def infer_and_show(inputs):
            gate = np.array([[0.75, 0.25]], np.float32) * inputs["present"]
            attention = np.zeros((1, 2, 2), np.float32)
            attention[0, 0, 0] = 1
            return {**infer(inputs), "gate": gate, "attention.image": attention}

        run.model._engines[0].run = infer_and_show
        browser.look_like(*SCREENS["desktop"][:2], "light")
        browser.open(run.server.url)
        browser.run("localStorage.clear()")
        browser.open(run.server.url)
        browser.wait("last && last.picture && last.sound && rows.length > 3")
        yield run
        browser.open("about:blank")
    complaints = browser.complaints()
    assert not [text for text in complaints if run.server.url in text], complaints


def text(browser, name):
    return browser.run(f"return document.getElementById('{name}').innerText")


def test_it_shows_the_decision_the_picture_and_what_is_wrong(shown, browser):
    assert text(browser, "bundle") == "colours-host"
    assert text(browser, "label") == "red"
    assert text(browser, "confidence").endswith(" %")
    assert text(browser, "tier") == "lite"
    assert "sure enough" in text(browser, "reason")
    assert text(browser, "status-text").startswith("live, ")
    browser.wait("document.getElementById('picture').naturalWidth === 32")
    browser.wait("document.getElementById('senses').innerText.includes('75 % weight')")
    assert not browser.run("return document.getElementById('split').hidden")
    assert "p50" in text(browser, "latency-note")

    until(lambda: any(told.fault.what == "lost" for told in shown.view.faults), 20)
    browser.wait("document.getElementById('faults').innerText.includes('the cable is out')")
    browser.wait("!document.getElementById('picture-masked').hidden")
    assert text(browser, "picture-masked") == "image is lost and left out"
    assert "lost, left out" in text(browser, "senses")
    browser.wait("document.getElementById('faults').innerText.includes('is back')", 30)
    browser.wait("document.getElementById('picture-masked').hidden")


def test_attention_lies_over_the_part_that_the_network_sees(shown, browser):
    """The upper left quarter of a square in the middle of a red picture is amber."""

    def colours():
        png = np.frombuffer(browser.screenshot(), np.uint8)
        image = cv2.cvtColor(cv2.imdecode(png, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        x, y, width, height = browser.run(
            "const r = document.getElementById('screen').getBoundingClientRect();"
            "return [r.x, r.y, r.width, r.height]"
        )
        places = {"unseen": (0.05, 0.5), "upper left": (0.2, 0.1), "lower right": (0.8, 0.9)}
        return {
            name: image[int(y + down * height), int(x + across * width)].astype(int)
            for name, (across, down) in places.items()
        }

    found = colours()
    assert found["lower right"][0] > 200 and found["lower right"][1] < 30
    assert found["upper left"][1] > 70  # amber has green in it
    assert found["unseen"][0] < 160
    browser.press("a")
    browser.wait("overlaid === false")
    assert colours()["upper left"][1] < 30
    browser.press("a")


def test_it_works_by_keyboard(shown, browser):
    browser.press("p")
    browser.wait("document.getElementById('status-text').innerText === 'paused'")
    until(lambda: not shown.model.shows)  # it costs the run nothing then
    assert browser.run("return document.getElementById('pause').ariaPressed") == "true"
    browser.press("p")
    browser.wait("document.getElementById('status-text').innerText.startsWith('live')")
    assert browser.run("return getComputedStyle(document.body).colorScheme") == "light"
    browser.press("t")
    assert browser.run("return getComputedStyle(document.body).colorScheme") == "dark"
    browser.open(shown.server.url)  # it is remembered
    assert browser.run("return document.documentElement.dataset.theme") == "dark"
    browser.press("\ue004")  # Tab
    assert browser.run("return document.activeElement.id") == "pause"
    browser.press("\ue007")  # Enter
    browser.wait("document.getElementById('status-text').innerText === 'paused'")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_it_fits_screens_in_the_colours_that_are_liked(shown, browser, screen, theme):
    width, height, scale, mobile = SCREENS[screen]
    browser.look_like(width, height, theme, scale, mobile)
    browser.open(shown.server.url)
    browser.wait("last && last.picture && rows.length > 3")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    outside = browser.run(
        "return [...document.querySelectorAll('section *, header *')].filter((e) => {"
        "const r = e.getBoundingClientRect();"
        f"return r.width && (r.left < -1 || r.right > {width} + 1); }}).map((e) => e.id)"
    )
    assert outside == []
    columns = browser.run(
        "return new Set([...document.querySelectorAll('section')].map((e) =>"
        "Math.round(e.getBoundingClientRect().left))).size"
    )
    assert columns == (1 if mobile else 2)
    # Text is readable: the contrast that WCAG wants of small print.
    for name, least in (("label", 7), ("picture-note", 4.5), ("reason", 4.5)):
        assert contrast(browser, name) >= least, name


def contrast(browser, name):
    def luminance(colour):
        values = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    colours = browser.run(
        f"const e = document.getElementById('{name}');"
        "return [getComputedStyle(e).color, getComputedStyle(e.closest('section')).backgroundColor]"
    )
    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)
