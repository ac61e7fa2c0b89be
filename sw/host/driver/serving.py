"""A driver's statistics over HTTP, for ``stillnet monitor`` and whoever else wants to look.

``GET /state?after=N`` gives :meth:`Watch.document` as JSON. ``GET /steps?count=N`` waits for the
state before a step and for N steps from there, and gives them as a NumPy archive. There is no
password: the server listens on this computer only, unless it is told otherwise.

``POST /deploy`` brings an image to the board, ``/rollback`` goes back, ``/confirm`` ends the
watchdog; ``GET /deploy`` tells how far it is. These are for this computer only, whoever may look
on, and they need a header that no page in a browser sends.
"""

from __future__ import annotations

import io
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from stillnet.sw.contract.errors import StillnetError

from .deployment import Slots
from .watch import Watch

__all__ = ["DEFAULT_PORT", "HEADER", "PATIENCE", "Server"]

DEFAULT_PORT = 4001
PATIENCE = 10.0
"""Seconds to wait for steps that were asked for."""
MOST_STEPS = 1024
MOST_BYTES = 1 << 28
"""Of an image."""
HEADER = "X-Stillnet"
"""In requests that change something; a page in a browser cannot send it unasked."""
_NUMBERS = {"watchdog": 0.0, "share": 0.5}


class _Handler(BaseHTTPRequestHandler):
    watch: Watch
    slots: Slots | None = None
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answers one request."""
        place = urlsplit(self.path)
        try:
            values = {k: int(v[0]) for k, v in parse_qs(place.query).items()}
        except ValueError:
            return self._send(400, "text/plain", b"parameters must be whole numbers\n")
        if place.path == "/state":
            text = json.dumps(self.watch.document(values.get("after", 0)), separators=(",", ":"))
            return self._send(200, "application/json", text.encode())
        if place.path == "/steps":
            return self._steps(min(max(values.get("count", 1), 1), MOST_STEPS))
        if place.path == "/deploy" and self.slots is not None:
            return self._report(200)
        return self._send(404, "text/plain", b"there are /state, /steps and /deploy\n")

    def do_POST(self) -> None:
        """Carries out a request of the one who looks after the board."""
        place = urlsplit(self.path)
        size = self.headers.get("Content-Length", "0")
        data = self.rfile.read(int(size)) if size.isdigit() and int(size) <= MOST_BYTES else b""
        if self.slots is None or self.headers.get(HEADER) is None or not self._near():
            return self._send(403, "text/plain", b"only programs on the board's computer may ask")
        query = {k: v[0] for k, v in parse_qs(place.query).items()}
        try:
            if place.path == "/deploy":
                image = self.slots.image(data)
                watchdog, share = (float(query.get(k, d)) for k, d in _NUMBERS.items())
                state = query.get("state", "clear")
                self.slots.deploy(image, state=state, watchdog=watchdog, share=share)
            elif place.path == "/rollback":
                if not self.slots.back(query.get("reason", "asked for")).wait(PATIENCE):
                    return self._send(503, "text/plain", b"no steps are running")
            elif place.path == "/confirm":
                self.slots.confirm()
            else:
                return self._send(404, "text/plain", b"there are /deploy, /rollback and /confirm\n")
        except (StillnetError, ValueError) as error:
            return self._send(409, "text/plain", str(error).encode())
        return self._report(202)

    def _near(self) -> bool:
        """The request comes from this computer."""
        return ip_address(self.client_address[0]).is_loopback

    def _report(self, status: int) -> None:
        current = None if self.slots is None else self.slots.current
        text = json.dumps(None if current is None else current.report())
        self._send(status, "application/json", text.encode())

    def _steps(self, count: int) -> None:
        wanted = self.watch.ask(count)
        there = wanted.done.wait(PATIENCE)
        if not there or wanted.reason:
            self.watch.withdraw(wanted)
            reason = wanted.reason or "no steps are running"
            return self._send(503, "text/plain", reason.encode())
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f"state/{k}": v for k, v in wanted.state.items()}
        arrays["facts"] = np.array([wanted.first, wanted.seconds])
        arrays |= {"x": np.stack(wanted.x), "y": np.stack(wanted.y)}
        np.savez(buffer, **arrays)
        return self._send(200, "application/octet-stream", buffer.getvalue())

    def _send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the program has a terminal of its own."""


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of one who left before the answer came."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Server:
    """Serves a watch in threads of its own.

    Parameters
    ----------
    watch : Watch
    port : int
        0 for any free one.
    host : str
    slots : Slots, optional
        For those who may deploy.

    Attributes
    ----------
    address : str
        ``HOST:PORT``, as ``stillnet monitor --attach`` takes it.
    """

    def __init__(
        self,
        watch: Watch,
        port: int = DEFAULT_PORT,
        host: str = "127.0.0.1",
        slots: Slots | None = None,
    ) -> None:
        handler = type("Handler", (_Handler,), {"watch": watch, "slots": slots})
        try:
            self._server = _Listener((host, port), handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StillnetError(
                f"cannot serve on {host}:{port}: {reason}; choose another port"
            ) from error
        self.address = f"{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops; may be called twice."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
