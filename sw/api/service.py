"""The functions of the front door for networks in service: deadlines, other networks, watching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.host.driver.serving import DEFAULT_PORT
from stillnet.sw.importers.load import load_model
from stillnet.sw.model.model import Model
from stillnet.sw.network.network import Network
from stillnet.sw.util.progress import Progress
from stillnet.sw.util.recordings import as_recordings
from stillnet.sw.util.results.networks import DeadlineReport

if TYPE_CHECKING:
    from stillnet.sw.monitor.monitor import Monitor
    from stillnet.sw.packing.packer import Image

__all__ = ["deadline", "deploy", "monitor"]

ATTACH = "127.0.0.1"


def deadline(
    network: Network,
    x: np.ndarray | str | Path | Sequence[np.ndarray] | Sequence[str] | Sequence[Path],
    milliseconds: float,
    *,
    preset: str | Path | EngineConfig = "axi64",
    clock_mhz: float | None = None,
    sdram: str | None = None,
    progress: Progress | None = None,
) -> DeadlineReport:
    """Gives a network budgets with which no step takes longer than a deadline, for any input.

    ::

        import stillnet as sn

        network = sn.Network.load("net.safetensors")
        report = sn.deadline(network, "x.npy", 2.0, preset="ulx3s-85f")
        network.save("bounded.safetensors")
        print(report.guaranteed_ms, report.budgets, report.late)

    Parameters
    ----------
    network : Network
        Its ``budgets`` are set; none, where the deadline is kept without.
    x : array of float, shape (steps, inputs), path of a .npy file or a folder, or a list of them
        Recordings of which the budgets are to refuse as little as possible.
    milliseconds : float
        The deadline of a step.
    preset : str, Path or EngineConfig
        The engine, before it is given what the network needs. A board by name says its clock and
        its SDRAM as well.
    clock_mhz : float, optional
        Of the engine; where absent the board's own, or 100.
    sdram : str, optional
        Part that the board carries, where it is not the usual one.
    progress : function, optional
        Called as ``progress(what, done, total)``.

    Returns
    -------
    DeadlineReport
        What is guaranteed, and what it costs on the recordings.

    Raises
    ------
    StillnetError
        Where no budgets keep the deadline; the message says which one they would keep.
    """
    from stillnet.sw.cost.deadline import keep_deadline, place_of
    from stillnet.sw.packing.engine_fit import fit

    config = EngineConfig.load(preset)
    place = place_of("" if isinstance(preset, EngineConfig) else str(preset), clock_mhz, sdram)
    engine = replace(fit(network, config), budgets=True)
    recordings: Any = as_recordings(x)
    report = keep_deadline(
        network,
        engine,
        list(recordings) if isinstance(recordings, (list, tuple)) else [recordings],
        milliseconds,
        clock_mhz=place.clock_mhz,
        memory=place.memory(engine),
        progress=progress,
    )
    return DeadlineReport.from_dict(report)


def deploy(
    image: Image | str | Path,
    *,
    attach: str | None = None,
    state: str = "clear",
    watchdog: float = 0.0,
    share: float = 0.5,
    timeout: float = 600.0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Brings another network to a board, beside the stream of another program, and switches to it.

    That program owns the board, and serves (``Engine.serve``). It has :meth:`Engine.deploy` itself,
    and :meth:`Engine.rollback` for the way back.

    ::

        import stillnet as sn

        found = sn.deploy("new.img", watchdog=2.0)
        print(found["stage"], found["steps"], found["switch_seconds"])

    Parameters
    ----------
    image : Image, or path of one
        From :func:`stillnet.pack`, for the engine on the board.
    attach : str, optional
        ``HOST:PORT`` where the program listens; this computer's usual port where absent.
    state : {"clear", "carry"}
        Begin a sequence, or go on with the state of the old network, where the layers and formats
        are the same.
    watchdog : float
        Seconds without an output vector after which the board goes back by itself; 0 for never.
    share : float
        Part of the time between two steps in which the line may carry the image.
    timeout : float
        Seconds after which to give up waiting; the program goes on with it.
    progress : function, optional
        Called as ``progress(what, done, total)``.

    Returns
    -------
    dict
        ``stage`` is "running"; ``steps`` that the old network did meanwhile; ``load_seconds`` and
        ``switch_seconds``; the rest as in ``Deployment``.

    Raises
    ------
    StillnetError
        Where nobody listens, or in the driver's words why the network does not run.
    """
    from stillnet.sw.monitor.client import Client
    from stillnet.sw.packing.packer import load_image

    data = load_image(Path(image)) if isinstance(image, (str, Path)) else image
    client = Client(attach or f"{ATTACH}:{DEFAULT_PORT}")
    return client.deploy(
        data.data, state=state, watchdog=watchdog, share=share, timeout=timeout, progress=progress
    )


def monitor(
    network: Network | str | Path | None = None,
    *,
    attach: str | None = None,
    canary: int | None = None,
    model: Model | str | Path | None = None,
    rollback: bool = False,
) -> Monitor:
    """Watches a board beside the program that streams through it, which serves (``Engine.serve``).

    ::

        import stillnet as sn

        watch = sn.monitor("net.safetensors", canary=1000)
        watch.check()
        print(watch.summary()["steps"], [alarm.text for alarm in watch.alarms.active])

    Parameters
    ----------
    network : Network, or path of one, optional
        What is on the board: its calibration, for drift, and its weights, for the canary.
    attach : str, optional
        ``HOST:PORT`` where the program listens; this computer's usual port where absent.
    canary : int, optional
        Every so many steps one is computed again by the reference; its integers must be equal.
    model : Model, or path for :func:`stillnet.load_model`, optional
        The float model behind the network, for the canary's error against it.
    rollback : bool
        Where the canary finds other integers, the board is to go back to the network before.

    Returns
    -------
    Monitor
        It has asked the driver once. ``poll()`` asks again, ``start()`` and ``stop()`` let a thread
        do so; ``summary()``, ``alarms`` and ``blocks`` have what is known.

    Raises
    ------
    StillnetError
        Where nobody listens, or the canary has no network.
    """
    from stillnet.sw.contract.errors import StillnetError
    from stillnet.sw.monitor.canary import Canary
    from stillnet.sw.monitor.client import Client
    from stillnet.sw.monitor.monitor import Monitor

    network = Network.load(network) if isinstance(network, (str, Path)) else network
    if canary is None and (model is not None or rollback):
        raise StillnetError("model and rollback need canary=N, which says how often")
    checked = None
    if canary is not None:
        if network is None:
            raise StillnetError("the canary needs the network that is on the board")
        floats = load_model(model) if isinstance(model, (str, Path)) else model
        checked = Canary(network, floats)
    watch = Monitor(
        Client(attach or f"{ATTACH}:{DEFAULT_PORT}"),
        network,
        canary=checked,
        every=canary or 1,
        rollback=rollback,
    )
    if not watch.poll():
        raise StillnetError(watch.alarms.active[0].text)
    return watch
