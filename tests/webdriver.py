"""A headless Chromium, driven by chromedriver over the W3C's WebDriver protocol."""

import base64
import json
import re
import subprocess
import time
import urllib.error
import urllib.request

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
]


class Browser:
    """A window of 1280 x 860 px. `profile` is an empty folder of its own."""

    def __init__(self, profile, *arguments):
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
        options = {
            "args": [
                *_ARGUMENTS,
                "--window-size=1280,860",
                f"--user-data-dir={profile}",
                *arguments,
            ]
        }
        capabilities = {
            "alwaysMatch": {
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL"},
            }
        }
        self._url += "/" + self._call("", {"capabilities": capabilities})["sessionId"]

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
