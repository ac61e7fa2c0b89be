"""A monitor: asks a driver again and again, keeps the recent past, says what is wrong.

Everything that is shown (page, Prometheus, terminal) reads from here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import asdict
from typing import Any

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.network.calibration import Calibration
from stillnet.sw.network.network import Network
from stillnet.sw.util.shown import shown_time

from .alarms import Alarms
from .canary import Canary, Verdict
from .client import Client, NoDriver, NoSteps
from .drift import KINDS, Drift

__all__ = ["Monitor"]

PAST = 1200
"""Blocks that are kept: ten minutes at the driver's default interval."""


class Monitor:
    """Watches one driver.

    Parameters
    ----------
    client : Client
    network : Network, optional
        For drift, budgets and the canary.
    canary : Canary, optional
    every : int
        Steps between two checks of the canary.
    burst : int
        Steps that one check takes.
    rollback : bool
        Where the canary finds a difference, the driver is to go back to the network before.

    Attributes
    ----------
    document : dict or None
        The driver's latest answer; None before the first one.
    blocks : deque of dict
        The recent past, the latest last.
    verdicts : list of Verdict
        The latest checks.
    calibration : Calibration or None
        What the network file says.
    doubts : list of str
        What this monitor cannot do, and why.
    """

    def __init__(
        self,
        client: Client,
        network: Network | None = None,
        *,
        canary: Canary | None = None,
        every: int = 1000,
        burst: int = 1,
        rollback: bool = False,
    ) -> None:
        self.client, self.network, self.canary = client, network, canary
        self.every, self.burst, self.rollback = every, burst, rollback
        self.document: dict[str, Any] | None = None
        self.blocks: deque[dict[str, Any]] = deque(maxlen=PAST)
        self.alarms = Alarms()
        self.verdicts: deque[Verdict] = deque(maxlen=100)
        self.checked = self.different = 0
        self.reachable = False
        self.doubts: list[str] = []
        self.lock = threading.RLock()
        self._begin: float | None = None
        self._next_check = 0
        self.calibration: Calibration | None = None
        self._drift: Drift | None = None
        if network is not None:
            self.calibration = Calibration.of_notes(network)
            if self.calibration is None:
                self.doubts.append(
                    f"network '{network.name}' does not say what calibration saw, so drift is not "
                    "watched; quantize it again"
                )
            else:
                self._drift = Drift(network, self.calibration, self.alarms)
        self._stop = threading.Event()

    @property
    def budgets(self) -> dict[str, int]:
        """Most events per step of the vectors that have a budget, as board or network say."""
        found = (self.document or {}).get("counters", {}).get("budgets")
        if found:
            return dict(found)
        limits = getattr(self.network, "budgets", None) or {}
        names = {} if self.network is None else self.network.event_names()
        return {names[key]: limit for key, limit in limits.items()}

    # -- asking -----------------------------------------------------------------------------------

    def poll(self) -> bool:
        """Asks once; whether the driver answered."""
        after = self.blocks[-1]["number"] if self.blocks else 0
        try:
            document = self.client.state(after)
        except NoDriver as error:
            with self.lock:
                self.reachable = False
                step = self.document["steps"] if self.document else 0
                self.alarms.seen("driver", self.client.name, str(error), step)
            return False
        with self.lock:
            self._take(document)
        return True

    def _take(self, document: dict[str, Any]) -> None:
        new = document.pop("blocks")
        if document["begin"] != self._begin:  # another program, or this one again
            self._begin = document["begin"]
            self.blocks.clear()
            self._next_check = document["steps"]
            if self._drift is not None:
                self._drift.restart()
        self.document, self.reachable = document, True
        self.alarms.over("driver")
        if document["fault"] is not None:
            fault = document["fault"]
            self.alarms.seen("fault", "connection", fault["text"], fault["step"], fault["time"])
        else:
            self.alarms.over("fault")
        for block in new:
            self.blocks.append(block)
            self._faults(block)
            if self._drift is not None and self._same_network(document):
                self._drift.take(block)
        self.alarms.expire((*KINDS, "deadline", "host", "link", "late"))

    def _same_network(self, document: dict[str, Any]) -> bool:
        facts = document["facts"]
        assert self.network is not None
        if facts is None:
            return False
        ours = (self.network.name, self.network.inputs, self.network.outputs)
        theirs = (facts["network"], facts["inputs"], facts["outputs"])
        if ours != theirs:
            self.alarms.seen(
                "driver",
                "network",
                f"the board runs network '{theirs[0]}', not '{ours[0]}', so drift is not watched",
                document["steps"],
            )
        return ours == theirs

    def _faults(self, block: dict[str, Any]) -> None:
        """What a block says of deadline, host and link."""
        document, begin = self.document, block["time"] - block["seconds"]
        assert document is not None
        if block["misses"]:
            limit = shown_time(document["deadline"])
            text = f"{block['misses']} of {block['steps']} steps took longer than {limit}"
            self.alarms.seen("deadline", "steps", text, block["first"], begin)
        if block["host_late"]:
            text = (
                f"{block['host_late']} of {block['steps']} steps began too late: the program, or "
                f"its computer, is slower than one step every {shown_time(document['period'])}"
            )
            self.alarms.seen("host", "program", text, block["first"], begin)
        repairs = {k: v for k, v in block["link"].items() if v}
        if repairs:
            words = ", ".join(f"{_LINK[k]}: {v}" for k, v in repairs.items() if k in _LINK)
            text = f"the line to the board loses bytes, no step was lost or done twice ({words})"
            self.alarms.seen("link", "line", text, block["first"], begin)
        late = sum(block["counters"].get("late", {}).values())
        if late:
            text = f"{late} events in {block['steps']} steps came later than they were due"
            self.alarms.seen("late", "budgets", text, block["first"], begin)

    # -- the canary -------------------------------------------------------------------------------

    def check(self) -> Verdict | None:
        """Checks steps where it is time to; None where it is not, or no steps are running."""
        if self.canary is None or self.document is None or not self.reachable:
            return None
        if self.document["steps"] < self._next_check:
            return None
        if self.rollback and not self._same_network(self.document):
            return None  # it would be taken for a broken board
        try:
            steps = self.client.steps(self.burst)
            verdict = self.canary.check(steps, self.document["thresholds"])
        except (NoDriver, NoSteps):
            return None
        except StillnetError as error:
            with self.lock:
                self.alarms.seen("canary", "check", str(error), self.document["steps"])
                self._next_check += self.every
            return None
        with self.lock:
            self._next_check = verdict.first + self.every
            self.verdicts.append(verdict)
            self.checked += verdict.steps
            if verdict.difference is None:
                self.alarms.over("canary")
            else:
                self.different += 1
                text = f"the board computes something else than the reference: {verdict.difference}"
                self.alarms.seen("canary", "outputs", text, verdict.first)
        if verdict.difference is not None and self.rollback:
            self._go_back(verdict)
        return verdict

    def _go_back(self, verdict: Verdict) -> None:
        """The driver is asked to; what comes of it is told as an alarm."""
        step = verdict.first
        try:
            self.client.ask("rollback", reason=f"the canary failed: {verdict.difference}")
            text = "the board went back to the network before, because the canary failed"
        except StillnetError as error:
            text = f"the canary failed, and the board did not go back: {error}"
        with self.lock:
            self.alarms.seen("rollback", "board", text, step)
            # What runs now is not the network that is checked here.
            self._next_check = 1 << 62

    # -- running ----------------------------------------------------------------------------------

    def start(self, interval: float = 0.5) -> None:
        """Asks from threads of its own until :meth:`stop`."""
        for work in (self.poll, self.check):
            threading.Thread(target=self._repeat, args=(work, interval), daemon=True).start()

    def _repeat(self, work: Any, interval: float) -> None:
        while not self._stop.wait(interval):
            work()

    def stop(self) -> None:
        """Ends the threads."""
        self._stop.set()

    def summary(self) -> dict[str, Any]:
        """All of it as plain values: the driver's document, alarms, the canary."""
        with self.lock:
            return {
                **(self.document or {}),
                "reachable": self.reachable,
                "now": time.time(),
                "budgets": self.budgets,
                "alarms": [asdict(a) for a in self.alarms],
                "canary": {
                    "steps": self.checked,
                    "different": self.different,
                    "verdicts": [asdict(v) for v in self.verdicts],
                },
                "doubts": list(self.doubts),
            }


_LINK = {
    "repeated": "commands sent again",
    "resumed": "questions for what did not come",
    "damaged": "damaged frames",
}
