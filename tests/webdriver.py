"""A headless Chromium, driven by chromedriver over the W3C's WebDriver protocol, and the exported
page in it."""

import base64
import contextlib
import functools
import http.server
import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request

import numpy as np

# Of the page: it has found points; it waits for a person.
FOUND = "return document.body.dataset.state === 'found'"
SETTLED = "return ['ready', 'failed', 'found'].includes(document.body.dataset.state)"

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name of an element's number
_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--force-prefers-reduced-motion",
    "--window-size=1280,860",
]


class Browser:
    """A window of 1280 x 860 px. `profile` is an empty folder of its own."""

    def __init__(self, profile):
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        port = next(
            found.group(1)
            for line in self._driver.stdout
            if (found := re.search(r"successfully on port (\d+)", line))
        )
        self._url = f"http://127.0.0.1:{port}/session"
        capabilities = {
            "goog:chromeOptions": {"args": [*_ARGUMENTS, f"--user-data-dir={profile}"]},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = self._call("", {"capabilities": {"alwaysMatch": capabilities}})
        self._url += f"/{session['sessionId']}"

    def close(self):
        try:
            self._call("", method="DELETE")
        finally:
            self._driver.terminate()
            self._driver.communicate()

    def open(self, url):
        self._call("/url", {"url": url})

    def run(self, script, *arguments):
        """The value that the body of a function returns, with `arguments`."""
        return self._call("/execute/sync", {"script": script, "args": arguments})

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent.trim()", selector)

    def click(self, selector):
        self._call(f"/element/{self._find(selector)}/click", {})

    def type(self, selector, text):
        """Replaces what a field holds, or names the file of a file field, as keys would."""
        if not self.run("return document.querySelector(arguments[0]).type === 'file'", selector):
            self.run("document.querySelector(arguments[0]).select()", selector)
        self._call(f"/element/{self._find(selector)}/value", {"text": text})

    def drag(self, start, end):
        """The left button goes down at one place of the window and up at another."""
        steps = [
            {"type": "pointerMove", "x": round(start[0]), "y": round(start[1])},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerMove", "x": round(end[0]), "y": round(end[1]), "duration": 100},
            {"type": "pointerUp", "button": 0},
        ]
        mouse = {"type": "pointer", "id": "mouse", "actions": steps}
        self._call("/actions", {"actions": [mouse]})

    def wait(self, script, *arguments, seconds=60):
        """Until the script's value is true; AssertionError with the page's text otherwise."""
        end = time.monotonic() + seconds
        while not self.run(script, *arguments):
            assert time.monotonic() < end, (script, self.text("body"), self.log())
            time.sleep(0.05)

    def log(self):
        """Everything that the console was told since the last call."""
        return [entry["message"] for entry in self._call("/se/log", {"type": "browser"})]

    def screenshot(self):
        return base64.b64decode(self._call("/screenshot", method="GET"))

    def _find(self, selector):
        return self._call("/element", {"using": "css selector", "value": selector})[_ELEMENT]

    def _call(self, path, body=None, method="POST"):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(folder):
    """The address of a static server for the folder."""
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def type_box(browser, box):
    """Types a box into the page's fields and waits for its points."""
    for name, side in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
        browser.type(f"#{name}", f"{side}\n")
    browser.wait(FOUND)


def points_of(browser):
    """The points in the page's table, f64[98, 2]: what a person reads."""
    browser.run("document.getElementById('coordinates').open = true")
    browser.wait("return document.getElementById('points').rows.length === 98")
    rows = browser.run(
        "return [...document.getElementById('points').rows]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    assert [row[0] for row in rows] == [str(i) for i in range(98)]
    return np.array([[float(row[2]), float(row[3])] for row in rows])
