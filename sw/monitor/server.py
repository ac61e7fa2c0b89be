"""The live page and ``/metrics`` on one port, by Bokeh's server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from stillnet.sw.contract.errors import StillnetError

from .metrics import prometheus_text
from .monitor import Monitor
from .page import build_page

__all__ = ["DEFAULT_PORT", "serve_page"]

DEFAULT_PORT = 4002


def serve_page(
    monitor: Monitor,
    port: int = DEFAULT_PORT,
    host: str = "127.0.0.1",
    *,
    say: Callable[[str], None] = print,
    stop: threading.Event | None = None,
) -> None:
    """Serves until it is interrupted.

    Parameters
    ----------
    monitor : Monitor
        Its threads run already.
    port : int
        0 for any free one.
    host : str
        Address to listen on.
    say : function
        Gets the address of the page, once it is there.
    stop : Event, optional
        Ends it when it is set.

    Raises
    ------
    StillnetError
        Without Bokeh, or where the port is taken.
    """
    try:
        from bokeh.application import Application
        from bokeh.application.handlers.function import FunctionHandler
        from bokeh.server.server import Server
        from tornado.ioloop import IOLoop, PeriodicCallback
    except ImportError:
        raise StillnetError('the live page needs bokeh; pip install "stillnet[monitor]"') from None
    import asyncio
    import logging

    # It warns of each browser that leaves, and of a chart that has no data yet.
    logging.getLogger("bokeh").setLevel(logging.ERROR)
    port = _free(host, port)
    names = ["*"] if host not in ("127.0.0.1", "localhost") else [f"127.0.0.1:{port}"]
    asyncio.set_event_loop(asyncio.new_event_loop())
    loop = IOLoop.current()
    server = Server(
        {"/": Application(FunctionHandler(partial(build_page, monitor)))},
        port=port,
        address=host,
        io_loop=loop,
        allow_websocket_origin=[*names, f"localhost:{port}"],
        extra_patterns=[("/metrics", _metrics(monitor))],
    )
    server.start()
    say(f"http://{host}:{port}")
    if stop is not None:
        PeriodicCallback(lambda: loop.stop() if stop.is_set() else None, 100).start()
    try:
        loop.start()
    finally:
        server.stop()


def _metrics(monitor: Monitor) -> Any:
    from tornado.web import RequestHandler

    class Metrics(RequestHandler):
        def get(self) -> None:
            text, kind = prometheus_text(monitor)
            self.set_header("Content-Type", kind)
            self.write(text)

    return Metrics


def _free(host: str, port: int) -> int:
    """The port, or any free one for 0; Bokeh wants to know it before it listens."""
    try:
        with socket.create_server((host, port)) as found:
            return found.getsockname()[1]
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StillnetError(
            f"cannot serve on {host}:{port}: {reason}; choose another --port"
        ) from error
