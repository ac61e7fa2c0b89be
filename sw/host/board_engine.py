"""The engines ``board:PORT`` and ``sim:BOARD`` of ``stillnet run``: through the host driver.

The network is packed for whatever engine the board has, loaded, and streamed through; every output
is held against the reference as it comes.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.link import BITS_PER_BYTE
from stillnet.sw.network.network import Network
from stillnet.sw.network.reference import Reference
from stillnet.sw.packing.engine_fit import changed, missing
from stillnet.sw.packing.packer import pack
from stillnet.sw.util.progress import Progress, silent
from stillnet.sw.util.results.runs import BoardResult

from .driver import Engine
from .driver.transport import DEFAULT_BAUD, open_transport
from .sdram_counters import sdram_use

__all__ = ["board_engine", "run_on_board", "sim_engine"]

_OPTIONS = ("baud", "check", "clear_every", "deadline", "rate", "serve", "timeout", "window")


def run_on_board(
    network: Network,
    x: np.ndarray,
    engine: Engine,
    *,
    steps: int | None = None,
    progress: Progress | None = None,
    window: int | None = None,
    check: bool = True,
    clear_every: int = 0,
    base: EngineConfig | None = None,
    serve: int | None = None,
    deadline: float | None = None,
    rate: float | None = None,
) -> BoardResult:
    """Runs a recording through an engine, and holds every output against the reference.

    Parameters
    ----------
    network : Network
    x : array of float, shape (steps, inputs), or of tokens, shape (steps,)
    engine : Engine
    steps : int, optional
        Run only the first N steps.
    progress : Progress, optional
    window : int, optional
        Vectors on their way at a time.
    check : bool
        Compare with the reference; the first difference ends the run.
    clear_every : int
        As of :class:`~stillnet.sw.network.reference.Reference`; 0 is never.
    base : EngineConfig, optional
        The engine that the board would have without a fit; ``added`` of the result compares.
    serve : int, optional
        Port on which ``stillnet monitor`` may look on (``Engine.serve``).
    deadline : float, optional
        Seconds that a step may take, for who looks on.
    rate : float, optional
        Steps per second; as fast as it goes where absent.
    """
    progress = progress or silent
    rows = network.quantize_input(x)[:steps]
    engine.load(network, progress=progress)
    if serve is not None:
        engine.serve(serve, deadline=deadline, period=1 / rate if rate else None)
        window = 1 if rate else window
    initial = {
        (i, s): v for i, layer in enumerate(network.layers) for s, v in layer.initial.items()
    }
    if initial:
        engine.set_hidden(initial)
    engine.reset_counters()
    reference = Reference(network, config=engine.config, clear_every=clear_every) if check else None
    outputs: list[np.ndarray] = []
    difference: dict[str, Any] | None = None
    clock = engine.transport.now
    session = engine.session
    sent, received = session.sent_bytes, session.received_bytes
    begin = clock()
    answers = _stream(engine, rows, window, clear_every, rate)
    for step, y in enumerate(answers):
        if step % 20 == 0:
            progress("board", step, len(rows))
        outputs.append(y)
        if reference is not None:
            difference = _difference(network, step, y, reference.step_integers(rows[step]))
        if difference is not None:
            break
    seconds = clock() - begin
    moved = session.sent_bytes - sent, session.received_bytes - received
    progress("board", len(outputs), len(rows))
    answers.close()
    counters = engine.counters()
    sdram = sdram_use(engine.session)
    cycles = counters["cycles"]
    alone = engine.identity.clock_hz * len(outputs) / cycles if cycles else None
    inner = counters.pop("limited_by")
    baud = getattr(engine.transport, "baud", None)
    longest = max(moved) / len(outputs) if outputs else 0.0
    line = baud / (BITS_PER_BYTE * longest) if baud and longest else None
    return BoardResult(
        steps=len(outputs),
        mismatches=int(difference is not None),
        difference=None if difference is None else _SENTENCE.format(**difference),
        first_difference=difference,
        **{k: v for k, v in counters.items() if k != "steps"},
        utilisation=counters["words"] / cycles if cycles else None,
        board=engine.identity.board,
        preset=engine.config.name,
        added=[] if base is None else changed(base, engine.config),
        steps_per_second=len(outputs) / seconds if seconds > 0 else None,
        engine_steps_per_second=alone,
        link_steps_per_second=line,
        bytes_to_board=moved[0] / len(outputs) if outputs else None,
        bytes_from_board=moved[1] / len(outputs) if outputs else None,
        limited_by="link" if line is not None and alone is not None and line < alone else inner,
        clock_hz=engine.identity.clock_hz,
        sdram=sdram,
        config=engine.config,
        outputs=network.dequantize_output(np.stack(outputs)),
    )


_SENTENCE = (
    "step {step}, layer '{layer}', {what} of unit {unit}: engine {engine}, reference {reference}"
)


def _difference(
    network: Network, step: int, y: np.ndarray, expected: np.ndarray
) -> dict[str, Any] | None:
    """The first element in which an output differs."""
    wrong = np.flatnonzero(y != expected)
    if not len(wrong):
        return None
    unit = int(wrong[0])
    return {
        "what": "output",
        "layer": network.layers[-1].name,
        "unit": unit,
        "step": step,
        "engine": int(y[unit]),
        "reference": int(expected[unit]),
    }


def _stream(
    engine: Engine,
    rows: np.ndarray,
    window: int | None,
    clear_every: int,
    rate: float | None,
) -> Generator[np.ndarray, None, None]:
    for first in range(0, len(rows), clear_every or len(rows)):
        if first:
            engine.clear_cells()
        part = rows[first : first + (clear_every or len(rows))]
        yield from engine.stream_integers(
            part if rate is None else _paced(part, rate), window=window
        )


def _paced(rows: np.ndarray, rate: float) -> Iterator[np.ndarray]:
    """Vectors as they would come in real time."""
    begin = time.monotonic()
    for k, row in enumerate(rows):
        time.sleep(max(0.0, begin + k / rate - time.monotonic()))
        yield row


def _run(
    address: str,
    network: Network,
    x: np.ndarray,
    transport_options: dict[str, Any],
    *,
    steps: int | None = None,
    progress: Progress | None = None,
    preset: object = None,
    base: EngineConfig | None = None,
    **options: Any,
) -> BoardResult:
    del preset  # the board's engine is what it is
    for name in options:
        if name not in _OPTIONS:
            raise StillnetError(
                f"a board has no option '{name}'; options are {', '.join(_OPTIONS)}"
            )
    timeout, baud = options.pop("timeout", 10.0), options.pop("baud", None)
    if baud is not None:
        transport_options["baud"] = baud
    window = options.get("window")
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout <= 0:
        raise StillnetError(f"option 'timeout' must be a number of seconds, not {timeout!r}")
    every = options.get("clear_every") or None
    for name, value in (("window", window), ("baud", baud), ("clear_every", every)):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < 1
        ):
            raise StillnetError(f"option '{name}' must be a whole number from 1, not {value!r}")
    port = options.get("serve")
    if port is not None and (isinstance(port, bool) or port not in range(65536)):
        raise StillnetError(f"option 'serve' must be a port, 0 to 65535, not {port!r}")
    for name in ("deadline", "rate"):
        value = options.get(name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0
        ):
            raise StillnetError(f"option '{name}' must be a positive number, not {value!r}")
    if not isinstance(options.get("check", True), bool):
        raise StillnetError(f"option 'check' must be true or false, not {options['check']!r}")
    transport = open_transport(address, **transport_options)
    with Engine(transport, timeout=timeout) as engine:
        return run_on_board(
            network, x, engine, steps=steps, progress=progress, base=base, **options
        )


def board_engine(
    network: Network, x: np.ndarray, *, address: str = "", fit: bool | None = None, **options: Any
) -> BoardResult:
    """:func:`run_on_board` on a serial port or ``tcp:HOST:PORT``, for ``stillnet run``.

    Parameters
    ----------
    address : str
        What stands behind ``board:``.
    fit : bool, optional
        Must not be True: a board has the engine that was built for it.
    options
        ``steps``, ``progress``; ``baud``, ``check``, ``clear_every``, ``timeout``, ``window``.
    """
    if not address:
        raise StillnetError(
            f"engine 'board' needs a port: board:/dev/ttyUSB0 ({DEFAULT_BAUD} baud; "
            "--option baud=N), or board:tcp:HOST:PORT"
        )
    if fit:
        raise StillnetError(
            "a board has the engine that was built for it; leave --fit out here, and give it to "
            "'stillnet build --board NAME --fit NET'"
        )
    return _run(address, network, x, {}, **options)


def sim_engine(
    network: Network, x: np.ndarray, *, address: str = "", fit: bool | None = None, **options: Any
) -> BoardResult:
    """:func:`run_on_board` on the virtual board, for ``stillnet run``.

    Parameters
    ----------
    address : str
        What stands behind ``sim:``: a board's name.
    fit : bool, optional
        True: the board as ``stillnet build --fit`` makes it for the network. None: the same, where
        the board's own engine lacks something that the network needs.
    options
        As for :func:`board_engine`.
    """
    if not address:
        raise StillnetError("engine 'sim' needs a board: sim:ulx3s-85f")
    base = _own_engine(address)
    if not fit and base is not None and missing(network, base):
        if fit is False:
            pack(network, base)  # refuses, before a board is compiled for nothing
        else:
            fit = True
    opening = {"fit": network} if fit else {}
    return _run(f"sim:{address}", network, x, opening, base=base, **options)


def _own_engine(board: str) -> EngineConfig | None:
    """The engine that a board has without a fit; None for a board that is not known here."""
    try:
        return EngineConfig.load(board)
    except StillnetError:  # the transport knows what is wrong with the name
        return None
