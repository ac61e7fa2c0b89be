"""A headless Chromium, driven over its DevTools protocol by Tornado's WebSocket client."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tornado.websocket import websocket_connect

__all__ = ["CHROMIUM", "Browser"]

CHROMIUM = next((p for n in ("chromium", "chromium-browser") if (p := shutil.which(n))), None)

QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-port=0", "--hide-scrollbars", "about:blank"),
)

TEXTS = """(() => {
  const found = {};
  const look = (root) => {
    for (const node of root.querySelectorAll('*')) {
      if (node.dataset && node.dataset.name) found[node.dataset.name] = node.textContent;
      if (node.shadowRoot) look(node.shadowRoot);
    }
  };
  look(document);
  return JSON.stringify(found);
})()"""
"""All elements with ``data-name``, those in shadow roots too, by their text."""


class Browser:
    """One page in a browser of its own."""

    def __init__(self) -> None:
        assert CHROMIUM is not None, "chromium is missing; install it with your system's packages"
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [CHROMIUM, f"--user-data-dir={self._folder.name}", *QUIET]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        place = Path(self._folder.name) / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not place.exists() or not place.read_text().strip():
            assert time.monotonic() < end, "the browser does not start"
            time.sleep(0.1)
        port = place.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
            pages = [p for p in json.load(answer) if p["type"] == "page"]
        self._loop = asyncio.new_event_loop()
        self._socket = self._wait(
            lambda: websocket_connect(pages[0]["webSocketDebuggerUrl"], max_message_size=1 << 28)
        )
        self._number = 0
        self.requests: list[str] = []
        self.call("Network.enable")
        self.call("Page.enable")

    def _wait(self, work: Callable[[], Any]) -> Any:
        async def bounded() -> Any:
            return await asyncio.wait_for(work(), 60)

        return self._loop.run_until_complete(bounded())

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._wait(lambda: self._socket.write_message(json.dumps(message)))
        while True:
            answer = json.loads(self._wait(lambda: self._socket.read_message()))
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url: str, width: int = 1280, height: int = 1000) -> None:
        """Goes to a page."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """The value of an expression."""
        return self.call("Runtime.evaluate", expression=script)["result"].get("value")

    def texts(self) -> dict[str, str]:
        """What stands in the elements that have a name."""
        return json.loads(self.evaluate(TEXTS) or "{}")

    def wait_for(self, name: str, seconds: float = 60) -> dict[str, str]:
        """Waits until an element of this name is there."""
        end = time.monotonic() + seconds
        while name not in (found := self.texts()):
            assert time.monotonic() < end, f"no '{name}' on the page: {found}"
            time.sleep(0.2)
        return found

    def picture(self, path: str | Path) -> None:
        """A picture of the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """Ends the browser."""
        self._socket.close()
        self._process.terminate()
        self._process.wait(30)
        self._loop.close()
        self._folder.cleanup()
