"""The page in a real browser: what it shows, by keyboard, on small screens, light and dark."""

import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, open_browser
from colours import INPUTS, frame, make_bundle, sound
from web_client import running, until

import mla_edge
from mla_edge.errors import CaptureError
from mla_edge.preprocess import Preprocessor
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.reloading import ReloadingModel
from mla_edge.runtime.routing import CascadeRouter
from mla_edge.signals import TensorSpec
from mla_edge.testing import FakeCamera, FakeEngine, FakeMicrophone

if not (CHROMIUM and DRIVER):
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)

PERIOD_S = 0.05
TAKES = (
    *(TensorSpec(spec.name, "float32", spec.shape) for spec in INPUTS),
    TensorSpec("present", "float32", (1, 2)),
)
LEFT = np.array([[9, 0]], np.float32)
SCREENS = {"desktop": (1280, 860, 1, False), "phone": (390, 844, 2, True)}


class Cable:
    """A source whose cable can be pulled out."""

    def __init__(self, source):
        self.drops = 0
        self.is_out = False
        self._source = source

    def read(self, timeout_s):
        if self.is_out:
            raise CaptureError("the cable is out")
        return self._source.read(timeout_s)

    def close(self):
        self._source.close()


@pytest.fixture(scope="module")
def camera():
    return Cable(FakeCamera([frame("red")] * 100_000, period_s=PERIOD_S))


@pytest.fixture(scope="module")
def shown(camera, tmp_path_factory):
    """A run whose graphs give gate and attention; they need no torch for that here."""
    bundle = make_bundle(tmp_path_factory.mktemp("page") / "colours-host")
    microphone = FakeMicrophone([sound("red")] * 100_000, period_s=PERIOD_S)
    with running(bundle.folder, camera, microphone, duration_s=600) as run:
        infer = run.model._engines[0].run

        def infer_and_show(inputs):
            gate = np.array([[0.75, 0.25]], np.float32) * inputs["present"]
            attention = np.zeros((1, 2, 2), np.float32)
            attention[0, 0, 0] = 1
            return {**infer(inputs), "gate": gate, "attention.image": attention}

        run.model._engines[0].run = infer_and_show
        yield run


@pytest.fixture(scope="module")
def browser(shown):
    with open_browser() as browser:
        browser.look_like(*SCREENS["desktop"][:2], "light")
        browser.open(shown.server.url)
        browser.wait("last && last.picture && last.sound && rows.length > 3", 60)
        yield browser
        complaints = browser.complaints()
    assert not [text for text in complaints if shown.server.url in text], complaints


def text(browser, name):
    return browser.run(f"return document.getElementById('{name}').innerText")


def test_it_shows_the_decision_the_picture_and_what_is_wrong(browser, camera):
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

    camera.is_out = True
    browser.wait("document.getElementById('faults').innerText.includes('the cable is out')")
    browser.wait("!document.getElementById('picture-masked').hidden")
    assert text(browser, "picture-masked") == "image is lost and is left out"
    assert "lost, left out" in text(browser, "senses")
    camera.is_out = False
    browser.wait("document.getElementById('faults').innerText.includes('is back')")
    browser.wait("document.getElementById('picture-masked').hidden")


def test_attention_lies_over_the_part_that_the_network_sees(browser):
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

    end_s = time.monotonic() + 10  # the picture may have just come back
    found = colours()
    while found["upper left"][1] <= 70 and time.monotonic() < end_s:
        found = colours()
    assert found["lower right"][0] > 200 and found["lower right"][1] < 30
    assert found["upper left"][1] > 70  # amber has green in it
    assert found["unseen"][0] < 160
    browser.press("a")
    browser.wait("overlaid === false")
    assert colours()["upper left"][1] < 30
    browser.press("a")


@pytest.mark.parametrize("screen", SCREENS)
def test_it_fits_screens_in_the_colours_that_are_liked(browser, screen):
    width, height, scale, mobile = SCREENS[screen]
    for theme in ("light", "dark"):
        browser.look_like(width, height, theme, scale, mobile)
        browser.wait(f"innerWidth === {width}")
        assert browser.run("return getComputedStyle(document.body).colorScheme") == theme
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
            assert contrast(browser, name) >= least, (name, theme)


def contrast(browser, name):
    def luminance(colour):
        values = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    colours = browser.run(
        f"const e = document.getElementById('{name}'), card = e.closest('section');"
        "return [getComputedStyle(e).color, getComputedStyle(card).backgroundColor]"
    )
    low, high = sorted(map(luminance, colours))
    return (high + 0.05) / (low + 0.05)


def test_it_works_by_keyboard(shown, browser):
    browser.look_like(*SCREENS["desktop"][:2], "light")
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


def test_after_a_reload_it_tells_of_the_bundle_that_decides_now(browser, tmp_path):
    bundle = make_bundle(tmp_path / "colours-host")

    def load_next():
        if not opened:
            opened.append(mla_edge.load(bundle.folder))
            return opened[0]
        fewer = replace(bundle, name="two-host", labels=("left", "right"))
        engines = {t.name: FakeEngine(TAKES, {"logits": LEFT}) for t in fewer.tiers}
        router = CascadeRouter(fewer.policy)
        return FusedModel(fewer, engines, router, Preprocessor(fewer.inputs), runs_on="fakes")

    opened = []
    eyes = FakeCamera([frame("red")] * 10_000, period_s=PERIOD_S)
    ears = FakeMicrophone([sound("red")] * 10_000, period_s=PERIOD_S)
    with running(
        bundle.folder,
        eyes,
        ears,
        duration_s=60,
        load=lambda _: ReloadingModel(load_next, lambda error: None),
    ) as run:
        browser.open(run.server.url)
        browser.wait("document.getElementById('label').innerText === 'red'")
        browser.wait("document.getElementById('best').children.length === 3")
        run.model.reload()
        browser.wait("document.getElementById('label').innerText === 'left'")
        assert text(browser, "bundle") == "two-host"
        assert text(browser, "runs-on") == "fakes"
        browser.wait("document.getElementById('best').children.length === 2")
        assert browser.run("return rows[0][0]") == 0.0  # what was before is still there
