"""Chromium, driven by its own chromedriver over plain HTTP, so that no package is needed."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


class Browser:
    """One window."""

    def __init__(self, port):
        self._port = port
        self._path = ""
        options = {"binary": CHROMIUM, "args": ARGUMENTS}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._start({"capabilities": {"alwaysMatch": wanted}})
        self._path = f"/session/{session['sessionId']}"

    def _start(self, wanted):
        """On a busy machine Chromium may take longer than its driver waits: try again."""
        for _ in range(2):
            with suppress(urllib.error.HTTPError):
                return self._call("/session", wanted)
        return self._call("/session", wanted)

    def open(self, url):
        self._call("/url", {"url": url})

    def run(self, script):
        """What the body of a function gives on the page."""
        return self._call("/execute/sync", {"script": script, "args": []})

    def wait(self, expression, seconds=15.0):
        """Until a JavaScript expression is true."""
        end_s = time.monotonic() + seconds
        while not self.run(f"return Boolean({expression})"):
            assert time.monotonic() < end_s, f"never true: {expression}"
            time.sleep(0.05)

    def press(self, key):
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._call("/actions", {"actions": [{"type": "key", "id": "keys", "actions": keys}]})

    def look_like(self, width, height, theme, scale=1, mobile=False):
        """A screen of that size, and the colours that its owner likes."""
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=mobile,
        )
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self._command("Emulation.setEmulatedMedia", features=features)

    def screenshot(self):
        """A PNG of what can be seen."""
        return base64.b64decode(self._call("/screenshot"))

    def complaints(self):
        """What the page's console says."""
        return [entry["message"] for entry in self._call("/se/log", {"type": "browser"})]

    def close(self):
        self._call("", method="DELETE")

    def _command(self, name, **parameters):
        self._call("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def _call(self, path, body=None, method=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{self._path}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=180) as answer:
            return json.load(answer)["value"]


@contextmanager
def open_browser():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port)
        browser = Browser(port)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait()


def _wait_for(port):
    end_s = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < end_s, "chromedriver does not start"
            time.sleep(0.05)
