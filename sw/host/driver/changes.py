"""Vectors on the link as what has changed in them, exactly.

The board's encoder passes an element on only where it has moved by its threshold since it was
passed on last. The host knows the thresholds and what was passed on, so it can leave an element as
it was where the encoder would not have passed on the new one: events and references are the same,
and what does not change takes hardly a bit.
"""

from __future__ import annotations

import numpy as np

from stillnet.sw.contract.events import Mode
from stillnet.sw.contract.link import HEADER_BYTES, Command, Identity
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.contract.vectors.changes import (
    WANTED_SHIFT,
    Form,
    apply_changes,
    best_form,
    changes,
    most_bytes,
)
from stillnet.sw.network.network import Network

__all__ = ["LinkVectors"]


class LinkVectors:
    """What both ends of a link know of the latest vectors, and what follows from it.

    Attributes
    ----------
    reference : int64 array, shape (inputs,), or None
        What the board's input encoder has passed on; None where it is not known.
    threshold : int or None
        Of the input vector, in units of its last bit, beside those of its elements; None where it
        is not known which one the board has.
    budget : int or None
        Of the input vector; 0 for none, None where it is not known.
    """

    def __init__(self) -> None:
        self._network: Network | None = None
        self._exact = False
        self.threshold: int | None = 0
        self.budget: int | None = 0
        self.reference: np.ndarray | None = None
        self._sent: np.ndarray | None = None
        self._received: np.ndarray | None = None
        self._wanted, self._reply_size = Form(0), 0

    def begin(self, network: Network, *, exact: bool) -> None:
        """Another network runs, with the thresholds of its image and cleared state.

        Parameters
        ----------
        network : Network
            As far as the notes of its image tell.
        exact : bool
            They tell all thresholds of the input.
        """
        self._network, self._exact = network, exact
        elements = network.input_thresholds is not None
        self.threshold = 0 if elements else network.input_threshold
        self.budget = network.budgets.get(INPUT, 0)
        self.clear()

    def clear(self) -> None:
        """The board's state was cleared."""
        size = 0 if self._network is None else self._network.inputs
        self.reference = np.zeros(size, np.int64)
        self.renew()

    def forget(self) -> None:
        """What the board's input encoder has passed on is not known any more."""
        self.reference = None
        self.renew()

    def renew(self) -> None:
        """The board may not have the latest vector, or the host not the latest output: the next
        ones go as a whole."""
        self._sent = self._received = None

    @property
    def unknown(self) -> bool:
        """The reference must be read from the board before the next vector."""
        return self._thresholds is not None and self.reference is None

    @property
    def _thresholds(self) -> np.ndarray | None:
        """Of each element, where the encoder's references follow from what was sent."""
        network = self._network
        if network is None or not self._exact or network.input_mode is not Mode.DELTA:
            return None
        if self.budget != 0:  # refuses some, by a rule of its own
            return None
        if self.threshold is None:
            return None
        elements = network.input_thresholds
        least = max(1, self.threshold)
        return np.maximum(0 if elements is None else elements, least)

    # -- vectors ----------------------------------------------------------------------------------

    def _heard(self, x: np.ndarray) -> np.ndarray:
        """A vector in which elements that do not fire are as they were."""
        thresholds, reference = self._thresholds, self.reference
        if thresholds is None or reference is None:
            self.reference = None  # not followed; to be read once the rule is known
            return x
        self.reference = np.where(np.abs(x - reference) >= thresholds, x, reference)
        return self.reference

    def command(self, x: np.ndarray, identity: Identity) -> tuple[Command, bytes]:
        """The command of a step and its payload.

        Parameters
        ----------
        x : int array, shape (inputs,)
            The vectors are to be sent in the order in which they come here.
        identity : Identity
            The board's.
        """
        assert self._network is not None
        x = self._heard(np.asarray(x, np.int64))
        before, self._sent = self._sent, x
        whole, outputs = 2 * len(x), self._network.outputs
        if before is not None and self._may_change(identity):
            form, size = best_form(x, before)
            if size + self._reply_size < whole + 2 * outputs:
                data = changes(x, before, form).rstrip(b"\0")
                return Command.CHANGE, bytes([form | self._wanted << WANTED_SHIFT]) + data
        self._reply_size = 0
        return Command.STEP, (x & 0xFFFF).astype("<u2").tobytes()

    def _may_change(self, identity: Identity) -> bool:
        """The board takes changes of vectors as long as these, and has room for replies."""
        assert self._network is not None
        outputs = self._network.outputs
        reply = HEADER_BYTES + most_bytes(outputs) + 1
        inputs = 1 if self._network.input_mode.one_hot else self._network.inputs
        return max(inputs, outputs) <= identity.changes and reply <= identity.reply_bytes

    def most_reply(self, identity: Identity) -> int:
        """Bytes of data that the reply to a step has at most."""
        assert self._network is not None
        outputs = self._network.outputs
        return most_bytes(outputs) if self._may_change(identity) else 2 * outputs

    def output(self, kind: Command, data: bytes) -> np.ndarray | None:
        """The output vector of a reply; None where it is none.

        Parameters
        ----------
        kind : Command
            Of the command that it answers.
        data : bytes
        """
        assert self._network is not None
        size, before = self._network.outputs, self._received
        if kind == Command.CHANGE:
            if before is None or not data or data[0] > Form.MASKED | Form.SLOPE:
                return None
            y = apply_changes(data[1:], before, Form(data[0]))
            self._wanted, self._reply_size = best_form(y, before)
        elif len(data) == 2 * size:
            y = np.frombuffer(data, "<i2").astype(np.int64)
        else:
            return None
        self._received = y
        return y
