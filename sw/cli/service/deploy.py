"""``stillnet deploy``: another network on a board, beside the one that runs; and the way back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stillnet.sw.cli.main import Command
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.host.driver import Engine
from stillnet.sw.host.driver.serving import DEFAULT_PORT
from stillnet.sw.monitor.client import Client
from stillnet.sw.packing.packer import Image, load_image
from stillnet.sw.util.progress import console_progress
from stillnet.sw.util.shown import shown_time

__all__ = ["DEPLOY"]


def _configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("image", metavar="NET.img", type=Path, nargs="?", help="from 'stillnet pack'")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--attach",
        default=f"127.0.0.1:{DEFAULT_PORT}",
        metavar="HOST:PORT",
        help=f"where the program that streams listens (127.0.0.1:{DEFAULT_PORT})",
    )
    where.add_argument(
        "--engine", metavar="board:PORT", help="the board itself, where no program streams"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--rollback", action="store_true", help="back to the network before")
    what.add_argument("--confirm", action="store_true", help="it is good: end the watchdog")
    add(
        "--carry",
        action="store_true",
        help="go on with the state of the old network, where the layers are the same",
    )
    add(
        "--watchdog",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="without an output for so long the board goes back by itself (0: never)",
    )
    add(
        "--share",
        type=float,
        default=0.5,
        metavar="PART",
        help="of the time between two steps, in which the line carries the image (0.5)",
    )
    add(
        "--timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long the program that streams may take (600)",
    )


def _run(args: argparse.Namespace) -> dict[str, Any]:
    if (args.image is not None) == (args.rollback or args.confirm):
        raise StillnetError("give an image, or --rollback, or --confirm: one of the three")
    image = None if args.image is None else load_image(args.image)
    state = "carry" if args.carry else "clear"
    if args.engine is not None:
        return _directly(args, image, state)
    client = Client(args.attach)
    if args.rollback or args.confirm:
        what = "rollback" if args.rollback else "confirm"
        found = client.ask(what)
        return {"done": what, **(found or {})}
    assert image is not None
    with console_progress() as progress:
        found = client.deploy(
            image.data,
            state=state,
            watchdog=args.watchdog,
            share=args.share,
            timeout=args.timeout,
            progress=progress,
        )
    return {"done": "deploy", **found}


def _directly(args: argparse.Namespace, image: Image | None, state: str) -> dict[str, Any]:
    """At the board, as its owner."""
    kind, _, rest = args.engine.partition(":")
    if kind not in ("board", "sim") or not rest:
        raise StillnetError(
            f"--engine must be board:PORT, as in board:/dev/ttyUSB0, not '{args.engine}'"
        )
    with Engine.open(rest if kind == "board" else args.engine) as engine:
        if args.rollback:
            engine.rollback()
            return {"done": "rollback"}
        if args.confirm:
            engine.confirm()
            return {"done": "confirm"}
        assert image is not None
        with console_progress() as progress:
            deployment = engine.deploy(
                image,
                state=state,
                watchdog=args.watchdog,
                share=args.share,
                progress=progress,
            )
        return {"done": "deploy", **deployment.report()}


def _show(found: dict[str, Any]) -> None:
    if found["done"] == "confirm":
        print("the watchdog has ended; the network stays")
    elif found["done"] == "rollback":
        print("the board runs the network before")
    else:
        print(
            f"network '{found['name']}' runs: {found['size']:,} bytes loaded and checked beside "
            f"{found['steps']:,} steps, switched in {shown_time(found['switch_seconds'])}"
        )


DEPLOY = Command(
    name="deploy",
    help="Bring another network to a board beside the one that runs, switch, or go back.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog=f"""\
The program that streams owns the board. It must serve: engine.serve(), or 'stillnet run' with
--option serve={DEFAULT_PORT}. Only programs on its own computer may deploy.

examples:
  stillnet deploy new.img
      beside the running stream; from the step after the switch the outputs are of the new network
  stillnet deploy new.img --watchdog 2
      and if no output leaves for two seconds the board goes back by itself
  stillnet deploy --confirm
  stillnet deploy --rollback
  stillnet deploy new.img --engine board:/dev/ttyUSB0
      where no program streams""",
)
