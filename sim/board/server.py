"""``stillnet virtual``: a virtual board on a TCP port or a pseudo-terminal.

One host at a time, as on a serial port; when it goes, the board keeps its image and its state, and
the next host finds them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import sys
import tty
from collections.abc import Callable
from pathlib import Path

from stillnet.boards.catalogue import BOARDS, Board, board
from stillnet.sw.cli import options
from stillnet.sw.cli.main import Command
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.network.network import Network
from stillnet.sw.packing.engine_fit import changed, missing
from stillnet.sw.packing.packer import load_image, pack

from .virtual import VirtualBoard

__all__ = ["VIRTUAL", "serve", "serve_on_socket", "serve_on_terminal"]

SLICE_CYCLES = 20_000
"""Cycles between two looks at the line."""
LINGER_CYCLES = 2_000_000
"""Cycles that the clock still runs after the last byte has moved. Then it stops until a byte comes.
A host cannot tell, and the computer does no work for nothing."""


def serve(
    model: VirtualBoard,
    receive: Callable[[float | None], bytes | None],
    send: Callable[[bytes], None],
) -> None:
    """Lets a board and a host talk until the host is gone.

    Parameters
    ----------
    model : VirtualBoard
    receive : function
        Bytes of the host. Waits N seconds for them, or for ever if None. Returns None when the host
        is gone.
    send : function
        Bytes to the host.
    """
    while True:
        busy = model.waiting > 0 or model.quiet_cycles < LINGER_CYCLES
        data = receive(0.0 if busy else None)
        if data is None:
            return
        if data:
            model.write(data)
        # The clock stood still while the host was silent, so no timeout has passed on the board.
        model.run(SLICE_CYCLES, until_frame=True)
        answer = model.pull()
        if answer:
            send(answer)
        if model.violations:
            raise StillnetError(
                f"{model.name} broke the rules of its memory: {model.first_violation}; please "
                "report this"
            )


def serve_on_socket(model: VirtualBoard, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serves one host after the other on a TCP port."""
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise StillnetError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        ) from error
    with listener:
        say(f"{model.name} listens: tcp:{host}:{listener.getsockname()[1]}")
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

                def receive(
                    seconds: float | None, line: socket.socket = connection
                ) -> bytes | None:
                    if not select.select([line], [], [], seconds)[0]:
                        return b""
                    try:
                        return line.recv(65536) or None
                    except OSError:
                        return None

                with contextlib.suppress(OSError):
                    serve(model, receive, connection.sendall)


def serve_on_terminal(model: VirtualBoard, say: Callable[[str], None]) -> None:
    """Serves on a pseudo-terminal."""
    master, slave = os.openpty()
    tty.setraw(slave)
    say(f"{model.name} is at {os.ttyname(slave)}")

    def receive(seconds: float | None) -> bytes | None:
        if not select.select([master], [], [], seconds)[0]:
            return b""
        return os.read(master, 65536)

    def send(data: bytes) -> None:
        while data:
            data = data[os.write(master, data) :]

    try:
        serve(model, receive, send)
    finally:
        os.close(master)
        os.close(slave)


def _configure(parser: argparse.ArgumentParser) -> None:
    options.add_network(parser, optional=True, help="a network that the board must have room for")
    options.add_board(parser, list(BOARDS), required=True)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--port", type=int, default=4000, help="TCP port (4000; 0: any free one)")
    where.add_argument("--pty", action="store_true", help="a pseudo-terminal instead")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument(
        "--serial",
        action="store_true",
        help="through the board's serial port at its true rate: slow, for small networks",
    )
    options.add_fit(
        parser,
        None,
        "--fit: the board as 'build NET --fit' makes it; --no-fit: refuse a network that does not "
        "fit; default: the board of 'build --fit' where its own engine lacks something",
    )
    options.add_sdram(parser)
    options.add_image(parser, "image in the flash: the board loads it at power-up")


def _target(args: argparse.Namespace, say: Callable[[str], None]) -> Board:
    """The board, with an engine for the network where one is given."""
    target = board(args.board)
    if args.sdram is not None:
        target = target.with_sdram(args.sdram)
    if args.network is None:
        if args.fit:
            raise StillnetError("--fit needs a network: stillnet virtual NET --board NAME --fit")
        return target
    network = Network.load(args.network)
    if args.fit is None:
        args.fit = bool(missing(network, target.config()))
    if not args.fit:
        pack(network, target.config())  # refuses a network that does not fit
        return target
    fitted = target.fitted(network)
    fields = changed(target.config(), fitted.config())
    if fields:
        say(f"engine '{fitted.config().name}' was fitted to the network: other {', '.join(fields)}")
    return fitted


def _flash(path: Path, target: Board) -> bytes:
    image = load_image(path)
    if image.config.fingerprint != target.config().fingerprint:
        raise StillnetError(
            f"image '{path}' is for engine '{image.config.name}'; pack it with --preset "
            f"{target.name}, or name the network that it was fitted to: stillnet virtual NET "
            f"--board {target.name} --fit"
        )
    return image.data


def _run(args: argparse.Namespace) -> None:
    if not 0 <= args.port <= 65535:
        raise StillnetError(f"--port must be 0 to 65535, not {args.port}")

    def say(text: str) -> None:
        print(text, flush=True, file=sys.stderr if args.json else sys.stdout)

    target = _target(args, say)
    say(f"building the {target.title} ...")
    flash = None if args.image is None else _flash(args.image, target)
    model = VirtualBoard(target, serial=args.serial, flash=flash)
    try:
        if args.pty:
            serve_on_terminal(model, say)
        else:
            serve_on_socket(model, args.host, args.port, say)
    finally:
        model.close()


VIRTUAL = Command(
    name="virtual",
    help="Run a virtual board that host programs connect to.",
    configure=_configure,
    run=_run,
    epilog="""\
examples:
  stillnet virtual --board ulx3s-85f
  stillnet run net.safetensors x.npy --engine board:tcp:127.0.0.1:4000
      in another terminal; the same as with a board on a serial port
  stillnet virtual net.safetensors --board ulx3s-85f
      with an engine for this network, where the board's own lacks something

Stop it with Ctrl-C. Without a second terminal: stillnet run ... --engine sim:ulx3s-85f
""",
)
"""Registered in the entry-point group ``stillnet.commands``."""
