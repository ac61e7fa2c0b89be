"""Byte streams to a board: serial ports, TCP sockets, and what plug-ins bring."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from importlib import metadata
from typing import Any, Protocol

from stillnet.sw.contract.errors import StillnetError

__all__ = ["DEFAULT_BAUD", "SerialTransport", "TcpTransport", "Transport", "open_transport"]

DEFAULT_BAUD = 3_000_000
_GROUP = "stillnet.transports"


class Transport(Protocol):
    """What the driver needs. Bytes may get lost or change on the way, but not change places.

    Attributes
    ----------
    name : str
        For messages.

    Those of serial lines also have ``baud``, bits per second.
    """

    name: str

    def write(self, data: bytes) -> None:
        """Sends; may return before all is on the wire.

        Raises
        ------
        StillnetError
            Where the connection is gone.
        """

    def read(self, timeout: float) -> bytes:
        """Bytes that have come, waiting ``timeout`` seconds for the first; none after that.

        Raises
        ------
        StillnetError
            Where the connection is gone.
        """

    def now(self) -> float:
        """A clock in seconds that never goes back; timeouts are counted on it."""

    def close(self) -> None:
        """Ends the connection. May be called twice."""


class SerialTransport:
    """A serial port, 8N1 without flow control.

    Parameters
    ----------
    port : str
        As in ``/dev/ttyUSB0`` or ``COM3``.
    baud : int

    Raises
    ------
    StillnetError
        Without pyserial, or where the port cannot be opened.
    """

    def __init__(self, port: str, *, baud: int = DEFAULT_BAUD) -> None:
        try:
            import serial
        except ImportError as error:
            raise StillnetError(
                f"the serial port '{port}' needs pyserial, which is not installed: "
                'pip install "stillnet[serial]"'
            ) from error
        self.name, self.baud = port, baud
        self._lost = serial.SerialException, OSError, TypeError
        try:
            self._port = serial.Serial(port, baud, timeout=0.02, write_timeout=10, exclusive=True)
        except (serial.SerialException, OSError, ValueError) as error:
            raise StillnetError(_port_problem(port, baud, error)) from error
        # USB adapters hold short answers back for up to 16 ms, unless told otherwise (Linux).
        with contextlib.suppress(Exception):
            self._port.set_low_latency_mode(True)
        with contextlib.suppress(*self._lost):
            self._port.reset_input_buffer()

    def write(self, data: bytes) -> None:
        """See :class:`Transport`."""
        try:
            self._port.write(data)
        except self._lost as error:
            raise self._gone(error) from error

    def read(self, timeout: float) -> bytes:
        """See :class:`Transport`."""
        end = self.now() + timeout
        try:
            while True:
                data = self._port.read(max(1, self._port.in_waiting))
                if data:
                    return data + self._port.read(self._port.in_waiting)
                if self.now() >= end:
                    return b""
        except self._lost as error:
            raise self._gone(error) from error

    def now(self) -> float:
        """See :class:`Transport`."""
        return time.monotonic()

    def close(self) -> None:
        """See :class:`Transport`."""
        with contextlib.suppress(*self._lost):
            self._port.close()

    def _gone(self, error: Exception) -> StillnetError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return StillnetError(
            f"the serial port '{self.name}' is gone ({reason}); check the cable and open it again"
        )


def _port_problem(port: str, baud: int, error: Exception) -> str:
    number = getattr(error, "errno", None)
    text = str(error)
    if number == 13 or "Permission denied" in text:
        return (
            f"no permission for the serial port '{port}'; add yourself to its group "
            "('sudo usermod -aG dialout $USER', then log in again)"
        )
    if number in (11, 16) or "exclusively lock" in text or "busy" in text:
        return f"the serial port '{port}' is in use; close the other program that has it open"
    if number == 2 or "No such file" in text or "FileNotFoundError" in text:
        from serial.tools import list_ports

        known = ", ".join(sorted(p.device for p in list_ports.comports())) or "none"
        return (
            f"there is no serial port '{port}' (found: {known}); check the cable and the board's "
            "power"
        )
    return f"cannot open the serial port '{port}' at {baud} baud: {' '.join(text.split())}"


class TcpTransport:
    """A socket: a virtual board, or a serial port that another machine offers.

    Parameters
    ----------
    host : str
    port : int
    timeout : float
        Seconds to connect.
    """

    def __init__(self, host: str, port: int, *, timeout: float = 5.0) -> None:
        self.name = f"{host}:{port}"
        try:
            self._socket = socket.create_connection((host, port), timeout)
        except OSError as error:
            raise StillnetError(
                f"cannot connect to {self.name}: {error.strerror or error}; check that the board "
                "is running and the port is right"
            ) from error
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def write(self, data: bytes) -> None:
        """See :class:`Transport`."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._gone(error.strerror or str(error)) from error

    def read(self, timeout: float) -> bytes:
        """See :class:`Transport`."""
        try:
            if not select.select([self._socket], [], [], timeout)[0]:
                return b""
            data = self._socket.recv(1 << 16)
        except (OSError, ValueError) as error:
            raise self._gone(str(error)) from error
        if not data:
            raise self._gone("the other side closed it")
        return data

    def now(self) -> float:
        """See :class:`Transport`."""
        return time.monotonic()

    def close(self) -> None:
        """See :class:`Transport`."""
        self._socket.close()

    def _gone(self, reason: str) -> StillnetError:
        return StillnetError(
            f"the connection to {self.name} is gone ({reason}); start the board again and reconnect"
        )


def open_transport(address: str, **options: Any) -> Transport:
    """A transport by its address.

    Parameters
    ----------
    address : str
        ``tcp:HOST:PORT``; ``NAME:WHAT`` where the entry-point group ``stillnet.transports`` has
        NAME (``sim:ulx3s-85f``); else a serial port.
    options
        For the transport: ``baud`` of a serial port.

    Raises
    ------
    StillnetError
        Where there is no such place, or nothing answers there.
    """
    kind, colon, rest = address.partition(":")
    factory: Any
    arguments: tuple[Any, ...]
    if colon and kind == "tcp":
        host, _, port = rest.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise StillnetError(f"'{address}' is not tcp:HOST:PORT, as in tcp:localhost:4000")
        factory, arguments = TcpTransport, (host.strip("[]"), int(port))
    elif colon and (points := list(metadata.entry_points(group=_GROUP, name=kind))):
        try:
            factory = points[0].load()
        except ImportError as error:
            raise StillnetError(
                f"'{address}' cannot be opened ({error}); pip install \"stillnet[sim]\""
            ) from error
        arguments = (rest,)
    elif colon and kind == "sim":
        raise StillnetError(f"'{address}' needs the simulation; pip install \"stillnet[sim]\"")
    elif not address:
        raise StillnetError(
            "the address of the board is empty; give a serial port or tcp:HOST:PORT"
        )
    else:
        factory, arguments = SerialTransport, (address,)
    try:
        return factory(*arguments, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        name = str(error).rsplit("'", 2)[-2]
        raise StillnetError(f"'{address}' has no option '{name}'") from error
