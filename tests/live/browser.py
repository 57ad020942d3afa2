"""A headless Chromium driven by the WebDriver protocol: JSON over HTTP to chromedriver, no library
between.

https://www.w3.org/TR/webdriver2/ has the endpoints; `cdp` is Chromium's own.
"""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TAB, ENTER = "\ue004", "\ue007"
_ELEMENT = (
    "element-6066-11e4-a52e-4f735466cecf"  # the key of an element reference, fixed by the standard
)
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --force-device-scale-factor=1"
).split()
_GONE = ("stale element", "does not belong to the document")


class Browser:
    """One session."""

    def __init__(self, driver: str, profile: Path) -> None:
        self.session = driver
        options = {"args": [*_FLAGS, f"--user-data-dir={profile}"]}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"{driver}/session/{made['sessionId']}"
        self._call(
            "POST", "/timeouts", {"implicit": 10_000}
        )  # milliseconds: a page may still be coming

    def _call(self, method: str, path: str, value: Any = None) -> Any:
        body = None if method == "GET" else json.dumps(value or {}).encode()
        request = urllib.request.Request(
            self.session + path, body, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, url: str) -> None:
        self._call("POST", "/url", {"url": url})

    @property
    def url(self) -> str:
        return str(self._call("GET", "/url"))

    @property
    def title(self) -> str:
        return str(self._call("GET", "/title"))

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of a function in the page; return what it returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, css: str = "main") -> str:
        """What an element shows."""
        return str(self._on("css selector", css, "GET", "/text"))

    def click(self, link: str) -> None:
        """Click the link of that text."""
        self._on("link text", link, "POST", "/click")

    def press(self, css: str) -> None:
        self._on("css selector", css, "POST", "/click")

    def type(self, css: str, text: str) -> None:
        """Replace what an input holds."""
        self._on("css selector", css, "POST", "/clear")
        self._on("css selector", css, "POST", "/value", {"text": text})

    def keys(self, *keys: str) -> None:
        """Press keys where the focus is, as a keyboard does."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call(
            "POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}
        )

    def cdp(self, command: str, **parameters: Any) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def scheme(self, name: str) -> None:
        """Prefer colours that are `dark` or `light`."""
        self.cdp(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}]
        )

    def size(self, width: int, height: int) -> None:
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def screenshot(self, path: Path) -> bytes:
        """Write the whole page as a PNG."""
        found = self.cdp("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(octets := base64.b64decode(found["data"]))
        return octets

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last look: `browser` (the console) or `performance`
        (requests)."""
        return list(self._call("POST", "/se/log", {"type": kind}))

    def requests(self) -> list[str]:
        """The URLs that pages asked for since the last look."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [
            m["params"]["request"]["url"]
            for m in messages
            if m["method"] == "Network.requestWillBeSent"
        ]

    def until(self, what: Callable[[], bool], words: str) -> None:
        """Wait for something of the page, at most ten seconds."""
        deadline = time.monotonic() + 10
        while not what():
            assert time.monotonic() < deadline, f"{words}: not within 10 s"
            time.sleep(0.02)

    def forget(self) -> None:
        """Drop all cookies, and what was logged."""
        self._call("DELETE", "/cookie")
        for kind in ("browser", "performance"):
            self.log(kind)

    @property
    def cookies(self) -> list[dict[str, Any]]:
        return list(self._call("GET", "/cookie"))

    @property
    def focused(self) -> str:
        """What has the focus: its text, else its id."""
        return str(
            self.run("const e = document.activeElement; return (e.innerText || '').trim() || e.id")
        )

    def close(self) -> None:
        self._call("DELETE", "")

    def _on(self, how: str, which: str, method: str, path: str, value: Any = None) -> Any:
        """Do something with an element; again when another page took the place of its page
        meanwhile."""
        for left in reversed(range(5)):
            try:
                found = self._call("POST", "/element", {"using": how, "value": which})[_ELEMENT]
                return self._call(method, f"/element/{found}{path}", value)
            except AssertionError as error:
                if not left or not any(words in str(error) for words in _GONE):
                    raise
                time.sleep(0.05)
        raise AssertionError("unreachable")


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser with a new profile, gone at the end."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["chromedriver", "--port=0"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as driver:
            assert driver.stdout is not None
            try:
                port = next(
                    line.split()[-1].rstrip(".")
                    for line in driver.stdout
                    if "successfully on port" in line
                )
                browser = Browser(f"http://127.0.0.1:{port}", Path(folder, "profile"))
                try:
                    yield browser
                finally:
                    browser.close()
            finally:
                driver.terminate()
