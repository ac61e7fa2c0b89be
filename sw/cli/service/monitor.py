"""``stillnet monitor``: looks on while another program streams through a board."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from stillnet.sw.cli import options
from stillnet.sw.cli.main import Command
from stillnet.sw.cli.rendering import columns, print_tables
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.host.serving import DEFAULT_PORT as DRIVER_PORT
from stillnet.sw.monitor.canary import Canary
from stillnet.sw.monitor.client import Client
from stillnet.sw.monitor.figures import ago, limited_by, quantile, recent, status
from stillnet.sw.monitor.monitor import Monitor
from stillnet.sw.monitor.server import DEFAULT_PORT, serve_page
from stillnet.sw.network.network import Network
from stillnet.sw.util.shown import shown_count, shown_time

__all__ = ["MONITOR"]


def _configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    options.add_network(
        parser,
        optional=True,
        help="the network on the board: its calibration, for drift, and its weights, for --canary",
    )
    add(
        "--attach",
        default=f"127.0.0.1:{DRIVER_PORT}",
        metavar="HOST:PORT",
        help=f"where the program with the driver listens (127.0.0.1:{DRIVER_PORT})",
    )
    add(
        "--canary",
        type=options.positive,
        metavar="N",
        help="compute every Nth step again by the reference; its integers must be equal",
    )
    add(
        "--rollback",
        action="store_true",
        help="with --canary: where they differ, back to the network before (stillnet deploy)",
    )
    options.add_float(parser, "with --canary: the float model, for the error against it")
    add("--port", type=int, default=DEFAULT_PORT, help=f"of the page ({DEFAULT_PORT}; 0: any)")
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1); no password")
    add("--once", action="store_true", help="print what is known now, without a page")


def _monitor(args: argparse.Namespace) -> Monitor:
    network = None if args.network is None else Network.load(args.network)
    canary = None
    if args.float is not None and args.canary is None:
        raise StillnetError("--float needs --canary N, which says how often")
    if args.rollback and args.canary is None:
        raise StillnetError("--rollback needs --canary N, which says how often")
    if args.canary is not None:
        if network is None:
            raise StillnetError("--canary needs the network: stillnet monitor NET --canary N")
        canary = Canary(network, options.float_model(args.float))
    return Monitor(
        Client(args.attach),
        network,
        canary=canary,
        every=args.canary or 1,
        rollback=args.rollback,
    )


def _run(args: argparse.Namespace) -> dict[str, Any] | None:
    if not 0 <= args.port <= 65535:
        raise StillnetError(f"--port must be 0 to 65535, not {args.port}")
    monitor = _monitor(args)
    if not monitor.poll() and args.once:
        raise StillnetError(monitor.alarms.active[0].text)
    if args.once:
        monitor.check()
        return {**monitor.summary(), "recent": recent(monitor.blocks)}

    def say(address: str) -> None:
        place = sys.stderr if args.json else sys.stdout
        print(
            f"watching {monitor.client.name}: {address}, for Prometheus {address}/metrics",
            file=place,
            flush=True,
        )

    monitor.start()
    try:
        serve_page(monitor, args.port, args.host, say=say)
    finally:
        monitor.stop()
    return None


def _show(summary: dict[str, Any]) -> None:
    facts, times = summary["facts"], summary["times"]
    word, _ = status(summary, summary["reachable"])
    if facts is None:
        print(f"{word}: nothing is loaded")
        return
    print(f"network '{facts['network']}' on {facts['board']}: {word}, {summary['steps']:,} steps")
    now = summary["recent"]
    table = columns(
        "Events", {"vector": "left", "in all": "right", "per step": "right", "budget": "right"}
    )
    for name, total in summary["counters"]["events"].items():
        rate = now.get("events", {}).get(name)
        budget = summary["budgets"].get(name)
        shown = ["-" if v is None else shown_count(v) for v in (rate, budget)]
        table.add_row(name, f"{total:,}", *shown)
    print_tables(table)
    if now:
        print(
            f"words per step: {shown_count(now['words'])}, steps per second: "
            f"{now['steps_per_second']:.3g}, limited by: "
            f"{limited_by(now, facts)['by'] or 'unknown'}"
        )
    if summary["steps"]:
        limit = summary["deadline"]
        print(
            f"time per step: 99 % within {shown_time(quantile(times, 0.99))}, worst "
            f"{shown_time(times['worst'])}"
            + ("" if limit is None else f", {summary['misses']} over {shown_time(limit)}")
        )
    print(f"saturations: {summary['counters']['saturations']:,}")
    print(f"link errors: {sum(summary['link'].values()):,}, all repaired")
    canary = summary["canary"]
    if canary["steps"]:
        found = f"{canary['different']} DIFFERENT" if canary["different"] else "all equal"
        print(f"canary: {canary['steps']} steps computed again, {found}")
        error = canary["verdicts"][-1]["error"]
        if error is not None:
            print(f"error against the float model: {error:.4g}")
    for alarm in summary["alarms"]:
        if alarm["active"]:
            print(f"! {alarm['text']} (since {ago(alarm['since'])}, step {alarm['step']:,})")


MONITOR = Command(
    name="monitor",
    help="Watch a board beside the program that streams: live page, Prometheus, drift, canary.",
    configure=_configure,
    run=_run,
    show=_show,
    epilog=f"""\
The program that streams lets others look on: engine.serve(deadline=0.01), or 'stillnet run' with
--option serve={DRIVER_PORT}. The board has one owner, that program.

examples:
  stillnet monitor
      a live page at http://127.0.0.1:{DEFAULT_PORT}, for Prometheus under /metrics
  stillnet monitor net.safetensors
      and says when rates, ranges or saturations leave those of calibration
  stillnet monitor net.safetensors --canary 1000 --float model.onnx
      and computes every 1000th step again, by the reference and by the float model
  stillnet monitor --once --json
      what is known now, for a program""",
)
