"""The other side of ``sw/host/serving``: what a driver says of its stream."""

from __future__ import annotations

import http.client
import io
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.host.driver.serving import DEFAULT_PORT, HEADER, PATIENCE
from stillnet.sw.host.driver.watch import VERSION
from stillnet.sw.util.progress import Progress, silent

__all__ = ["Client", "NoDriver", "NoSteps", "Steps"]


LOOK_SECONDS = 0.2
"""Between two questions how far a deployment is."""


class NoDriver(StillnetError):
    """Nobody answers, or not as a driver does."""


class NoSteps(StillnetError):
    """The driver is there, but no steps are running."""


@dataclass(frozen=True)
class Steps:
    """A few steps in a row, with the state before them.

    Attributes
    ----------
    first : int
        Number of the first one.
    seconds : float
        What reading the state took from the stream.
    state : dict of str to int array
        As ``Engine.get_state`` gives it.
    x, y : int64 arrays, shape (steps, elements)
    """

    first: int
    seconds: float
    state: dict[str, np.ndarray]
    x: np.ndarray
    y: np.ndarray


class Client:
    """Asks a driver.

    Parameters
    ----------
    address : str
        ``HOST:PORT``, ``HOST`` or ``PORT``.
    timeout : float
        Seconds without an answer.
    """

    def __init__(self, address: str, *, timeout: float = 3.0) -> None:
        host, colon, port = address.rpartition(":")
        if not colon and not port.isdigit():
            host, port = address, str(DEFAULT_PORT)
        if not port.isdigit() or int(port) > 65535 or "/" in host or not address:
            raise StillnetError(f"'{address}' is not HOST:PORT, as in 127.0.0.1:{DEFAULT_PORT}")
        self.host, self.port, self.timeout = host or "127.0.0.1", int(port), timeout
        self.name = f"{self.host}:{self.port}"

    def state(self, after: int = 0) -> dict[str, Any]:
        """What the driver knows, with the blocks of higher numbers than ``after``.

        Raises
        ------
        NoDriver
        """
        document = json.loads(self._get(f"/state?after={after}", self.timeout)[1])
        version = document.get("version")
        if version != VERSION:
            raise NoDriver(
                f"the driver at {self.name} speaks version {version}, this monitor version "
                f"{VERSION}; use the same stillnet on both sides"
            )
        return document

    def steps(self, count: int) -> Steps:
        """Waits for the state before a step, and for ``count`` steps from there.

        Raises
        ------
        NoDriver, NoSteps
        """
        status, data = self._get(f"/steps?count={count}", PATIENCE + self.timeout)
        if status != 200:
            raise NoSteps(f"the driver at {self.name} has no steps to check: {data.decode()}")
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            state = {k.removeprefix("state/"): found[k] for k in found if k.startswith("state/")}
            first, seconds = found["facts"]
            return Steps(int(first), float(seconds), state, found["x"], found["y"])

    def deployment(self) -> dict[str, Any] | None:
        """How far the latest deployment is (``Deployment.report``).

        Raises
        ------
        NoDriver
        """
        status, data = self._get("/deploy", self.timeout)
        found: dict[str, Any] | None = json.loads(data) if status == 200 else None
        return found

    def deploy(
        self,
        image: bytes,
        *,
        state: str = "clear",
        watchdog: float = 0.0,
        share: float = 0.5,
        timeout: float = 600.0,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Has the driver deploy an image, and waits until it has switched.

        Parameters
        ----------
        image : bytes
        state, watchdog, share
            See ``Engine.deploy``.
        timeout : float
            Seconds.
        progress : Progress, optional

        Returns
        -------
        dict
            As :meth:`deployment`; its stage is "running".

        Raises
        ------
        NoDriver
        StillnetError
            In the driver's words, why not.
        """
        found = self.ask("deploy", image, state=state, watchdog=watchdog, share=share) or {}
        end, moved, tell = time.monotonic() + timeout, found.get("steps"), progress or silent
        while found["stage"] in ("loading", "checking", "ready"):
            if time.monotonic() > end:
                idle = "; no steps are running" if found["steps"] == moved else ""
                raise StillnetError(
                    f"network '{found['name']}' is not there after {timeout:g} s (stage "
                    f"{found['stage']}, {found['sent']:,} of {found['size']:,} bytes{idle}); the "
                    "driver goes on with it"
                )
            time.sleep(LOOK_SECONDS)
            found = self.deployment() or found
            tell("load", found["sent"], found["size"])
        if found["stage"] != "running":
            raise StillnetError(f"network '{found['name']}' {found['stage']}: {found['reason']}")
        return found

    def ask(self, what: str, data: bytes = b"", **options: object) -> dict[str, Any] | None:
        """Has the driver ``deploy`` an image, ``rollback`` or ``confirm``.

        Returns
        -------
        dict or None
            As :meth:`deployment`.

        Raises
        ------
        NoDriver
        StillnetError
            In the driver's words, why not.
        """
        path = f"/{what}?{urlencode(options)}"
        status, answer = self._get(path, PATIENCE + self.timeout, data, method="POST")
        if status != 202:
            raise StillnetError(f"the driver at {self.name} did not: {answer.decode().strip()}")
        found: dict[str, Any] | None = json.loads(answer)
        return found

    def _get(
        self, path: str, timeout: float, data: bytes | None = None, *, method: str = "GET"
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request(method, path, data, {HEADER: "1"} if method == "POST" else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NoDriver(
                f"no driver answers at {self.name} ({reason}); start the program that streams, "
                "with engine.serve()"
            ) from error
        finally:
            connection.close()
