"""A headless Chromium, driven over its DevTools pipe: no driver, no library, no port."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE_S = 120


def program() -> str | None:
    """Return the Chromium of this machine; None where there is none."""
    found = filter(None, map(shutil.which, PROGRAMS))
    return next(found, None)


class Browser:
    """One page of a browser, and everything that it says and asks for."""

    def __init__(self, program: str, profile: Path) -> None:
        # Chromium reads commands at 3 and answers at 4, each message ended by a zero byte.
        here_in, there_out = os.pipe()
        there_in, self._out = os.pipe()
        self._in = here_in
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update"]
        flags += ["--no-proxy-server", "about:blank"]
        wiring = f'exec "$0" "$@" 3<&{there_in} 4>&{there_out}'
        with (profile / "browser.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["/bin/bash", "-c", wiring, program, *flags],
                pass_fds=(there_in, there_out),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        os.close(there_in)
        os.close(there_out)
        self._rest = b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Send a command and return its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, url: str) -> None:
        """Go to a page."""
        self.call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """Return what a script in the page gives."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until a script in the page gives something true."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not self.evaluate(script):
            assert time.monotonic() < deadline_s, script
            time.sleep(0.05)

    def resize(self, width: int, height: int) -> None:
        """Make the window of another size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def screenshot(self) -> bytes:
        """Return the window as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def requested(self) -> set[str]:
        """Return every address that the page has asked for."""
        sent = (e for e in self.events if e["method"] == "Network.requestWillBeSent")
        return {event["params"]["request"]["url"] for event in sent}

    def complaints(self) -> list[str]:
        """Return what the page's console says of errors, broken policies among them."""
        told = [
            event["params"]["entry"]["text"]
            for event in self.events
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error"
        ]
        thrown = (e for e in self.events if e["method"] == "Runtime.exceptionThrown")
        return told + [event["params"]["exceptionDetails"]["text"] for event in thrown]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], PATIENCE_S)
            assert ready, "the browser says nothing"
            got = os.read(self._in, 1 << 20)
            assert got, "the browser has ended"
            self._rest += got
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Browser]:
    """Give a browser that is ended afterwards."""
    profile.mkdir()
    opened = Browser(program, profile)
    try:
        yield opened
    finally:
        opened.close()
