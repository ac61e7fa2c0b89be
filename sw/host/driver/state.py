"""Reads and writes the state of the network that a board runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillnet.sw.contract import link
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.fixed import ACTIVATION_BITS, Format, narrow
from stillnet.sw.contract.link import Command
from stillnet.sw.contract.registers import Control, Region
from stillnet.sw.contract.sources import INPUT
from stillnet.sw.partition.stream import chip_state

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["StateAccess"]

FEED_BYTES = 1024
"""Bytes of elements that one feed command brings."""
STATE_BYTES = 1024
"""Bytes of state that one command reads or writes."""
OPERATION_BYTES = 32
"""More than what stands in a command besides such data."""


class StateAccess:
    """State by names, as :class:`~stillnet.sw.network.reference.Reference` has it.

    Parameters
    ----------
    engine : Engine
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self) -> dict[str, np.ndarray]:
        """Everything that decides the future, as ``Reference.get_state`` gives it."""
        engine = self._engine
        loaded = engine._network()
        network = loaded.outline
        engine._ready()
        engine._idle()
        result: dict[str, np.ndarray] = {}
        for i, layer in enumerate(network.layers):
            for s in CELLS[layer.cell].state:
                result[f"{i}/{s}"] = self._read(self._region(s), i)
        result[f"{INPUT}/reference"] = self._input_reference()
        for i in range(len(network.layers)):
            result[f"{i}/reference"] = self._read(Region.REFERENCE, i)
        for i, layer in enumerate(network.layers):
            if layer.threshold_recurrent is not None:
                result[f"{i}/reference_second"] = self._read(Region.REFERENCE_SECOND, i)
        for source in network.budgets:
            place = source - INPUT
            result[f"{source}/window"] = self.read_elements(Region.BUDGET_WINDOW, place, 1)
        return result | ({} if loaded.host is None else loaded.host.get_state())

    def set(self, state: dict[str, np.ndarray]) -> None:
        """Restores what :meth:`get_state` (or that of a reference) returned."""
        engine = self._engine
        network, host = engine.network, engine._network().host
        whole, state = state, state if host is None else chip_state(state)
        shapes = self._shapes()
        given = {k: np.shape(v) for k, v in state.items()}
        if given != shapes:
            wrong = sorted(set(shapes.items()) ^ set(given.items()))[0][0]
            raise StillnetError(
                f"state does not belong to network '{network.name}': {wrong} has shape "
                f"{given.get(wrong)}, expected {shapes.get(wrong)}"
            )
        engine.clear()
        engine._unknown = True  # until all of it is there
        layers = range(len(network.layers))
        x = np.asarray(state[f"{INPUT}/reference"])
        if network.input_mode.one_hot:
            token = np.flatnonzero(x)
            x = np.array([token[0] if len(token) else -1])
        first = [np.asarray(state[f"{i}/reference"]) for i in layers]
        second = [np.asarray(state.get(f"{i}/reference_second", first[i])) for i in layers]
        if engine.config.second_threshold:
            self._restore(x, first, Control.RESTORE_EXACT | Control.RESTORE_FIRST)
            nothing = np.zeros_like(x) - int(network.input_mode.one_hot)
            self._restore(nothing, second, Control.RESTORE_EXACT | Control.RESTORE_SECOND)
        else:
            self._restore(x, first, Control.RESTORE_EXACT)
        for i, layer in enumerate(network.layers):
            for s in CELLS[layer.cell].state:
                self._write(self._region(s), i, state[f"{i}/{s}"])
        for source in network.budgets:
            window = [int(state[f"{source}/window"][0])]
            payload = link.write_state(Region.BUDGET_WINDOW, source - INPUT, window, half=True)
            engine._session.call(Command.ACCESS, payload)
        if host is not None:
            host.set_state(whole)
        engine._unknown = False

    def set_hidden(self, values: dict[tuple[int, str], np.ndarray]) -> None:
        """As ``Reference.set_hidden``: clear, then send given states through the encoders.

        Parameters
        ----------
        values : dict of (layer, state name) to int array, shape (units,)
        """
        engine = self._engine
        network = engine.network
        for (i, s), value in values.items():
            cell = CELLS[network.layers[i].cell] if 0 <= i < len(network.layers) else None
            if cell is None or s not in cell.state or np.shape(value) != (network.layers[i].units,):
                raise StillnetError(
                    f"layer {i} of network '{network.name}' has no state '{s}' of shape "
                    f"{np.shape(value)}"
                )
        vectors = []
        for i, layer in enumerate(network.layers):
            output = CELLS[layer.cell].output_state
            given = values.get((i, output)) if output is not None else None
            if given is None:
                given = np.zeros(layer.units, np.int64)
            vectors.append(narrow(np.asarray(given, np.int64), layer.write_shift, Format(16, 0)))
        engine.clear()
        engine._unknown = True
        one_hot = network.input_mode.one_hot
        x = np.array([-1]) if one_hot else np.zeros(network.inputs, np.int64)
        self._restore(x, vectors, Control(0))
        for (i, s), value in values.items():
            self._write(self._region(s), i, value)
        engine._unknown = False

    def clear_cells(self) -> None:
        """As ``Reference.clear_cells``: h of EGRUs becomes zero, all that was sent stays sent."""
        engine = self._engine
        network = engine._network().outline
        engine._ready()
        engine._idle()
        for i, layer in enumerate(network.layers):
            for s in CELLS[layer.cell].cleared:
                self._write(self._region(s), i, np.zeros(layer.units, np.int64))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        engine = self._engine
        network = engine.network
        shapes: dict[str, tuple[int, ...]] = {f"{INPUT}/reference": (network.inputs,)}
        for i, layer in enumerate(network.layers):
            names = [*CELLS[layer.cell].state, "reference"]
            names += [] if layer.threshold_recurrent is None else ["reference_second"]
            shapes |= {f"{i}/{name}": (layer.units,) for name in names}
        return shapes | {f"{source}/window": (1,) for source in network.budgets}

    def _region(self, name: str) -> int:
        engine = self._engine
        return Region.STATE + engine.config.state_names.index(name)

    def _place(self, layer: int) -> int:
        engine = self._engine
        return engine._network().unit_base[layer] * engine.config.cell_width

    def _read(self, region: int, layer: int) -> np.ndarray:
        engine = self._engine
        return self.read_elements(region, self._place(layer), engine.network.layers[layer].units)

    def read_elements(self, region: int, index: int, count: int) -> np.ndarray:
        engine = self._engine
        parts = []
        size = self._element_bytes(region)
        run = self._piece(STATE_BYTES) // size
        for at in range(0, count, run):
            some = min(run, count - at)
            payload = link.read_state(region, index + at, some, half=size == 2)
            parts.append(engine._session.call(Command.ACCESS, payload, size * some))
        return np.frombuffer(b"".join(parts), f"<i{size}").astype(np.int64)

    def _element_bytes(self, region: int) -> int:
        """Bytes of an element: four where a state memory is wider than a vector."""
        engine = self._engine
        names = engine.config.state_names
        place = region - Region.STATE
        wide = place < len(names) and engine.config.state_bits(names[place]) > ACTIVATION_BITS
        return 4 if wide else 2

    def _input_reference(self) -> np.ndarray:
        engine = self._engine
        network = engine.network
        if not network.input_mode.one_hot:
            return self.read_elements(Region.INPUT, 0, network.inputs)
        token = int(self.read_elements(Region.INPUT, 0, 1)[0]) & 0xFFFF
        vector = np.zeros(network.inputs, np.int64)
        if token:
            vector[token - 1] = 1 << network.input_fraction
        return vector

    def _piece(self, most: int) -> int:
        """Bytes of data in one command, at most so many, that the board's buffers have room for."""
        engine = self._engine
        room = min(engine.identity.receive_bytes, engine.identity.reply_bytes) - OPERATION_BYTES
        return min(most, room // 4 * 4)

    def _write(self, region: int, layer: int, values: np.ndarray) -> None:
        engine = self._engine
        values = np.asarray(values, np.int64)
        size = self._element_bytes(region)
        run = self._piece(STATE_BYTES) // size
        for at in range(0, len(values), run):
            part = values[at : at + run].tolist()
            payload = link.write_state(region, self._place(layer) + at, part, half=size == 2)
            engine._session.call(Command.ACCESS, payload)

    def _restore(self, x: np.ndarray, vectors: list[np.ndarray], flags: Control) -> None:
        engine = self._engine
        engine._vectors.forget()
        engine._session.call(Command.ACCESS, link.restore(flags))
        elements = np.concatenate([x, *vectors]).astype(np.int64)
        data = (elements & 0xFFFF).astype("<u2").tobytes()
        piece = self._piece(FEED_BYTES)
        for at in range(0, len(data), piece):
            engine._session.call(Command.FEED, data[at : at + piece])
        engine._idle()
